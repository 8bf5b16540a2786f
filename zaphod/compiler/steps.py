"""Functions of one number, as scikit-learn's column-wise transformers apply them.

Each is known three ways: in numpy, exactly as scikit-learn computes it (tables of categories and tree thresholds go
through that); as ONNX nodes, for many columns at once; and by its direction, which lets a tree's threshold be moved
to the other side of it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

from zaphod.compiler import NotCompilable
from zaphod.compiler.graph import Graph
from zaphod.compiler.lookup import look_up_intervals

Doubles = NDArray[np.float64]


class Step(Protocol):
    """direction: 1 never falls as the input grows, -1 never rises, 0 neither. NaN stands outside the order."""

    @property
    def direction(self) -> int: ...

    def apply(self, values: Doubles) -> Doubles:
        """float64 in and out, one shape."""
        ...

    def group(self) -> object:
        """Steps with equal groups can be emitted together."""
        ...

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        """The tensor [n, p] after `steps`, one step a column; all of this step's group."""
        ...


@dataclass(frozen=True, slots=True)
class _Arithmetic:
    value: float
    op: ClassVar[str]

    def group(self) -> object:
        return type(self)

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        return graph.add(self.op, tensor, np.array([step.value for step in steps], dtype=np.float64))


class Subtract(_Arithmetic):
    """x - value."""

    op = "Sub"
    direction = 1

    def apply(self, values: Doubles) -> Doubles:
        return values - self.value


class Add(_Arithmetic):
    """x + value."""

    op = "Add"
    direction = 1

    def apply(self, values: Doubles) -> Doubles:
        return values + self.value


class Divide(_Arithmetic):
    """x / value."""

    op = "Div"

    @property
    def direction(self) -> int:
        return int(np.sign(self.value))

    def apply(self, values: Doubles) -> Doubles:
        return values / self.value


class Multiply(_Arithmetic):
    """x * value."""

    op = "Mul"

    @property
    def direction(self) -> int:
        return int(np.sign(self.value))

    def apply(self, values: Doubles) -> Doubles:
        return values * self.value


@dataclass(frozen=True, slots=True)
class Fill:
    """NaN becomes the value."""

    value: float
    direction: ClassVar[int] = 1

    def apply(self, values: Doubles) -> Doubles:
        return np.where(np.isnan(values), self.value, values)

    def group(self) -> object:
        return Fill

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        fills = np.array([step.value for step in steps], dtype=np.float64)
        return graph.add("Where", graph.add("IsNaN", tensor), fills, tensor)


@dataclass(frozen=True, slots=True)
class Replace:
    """One number becomes another; NaN stays."""

    old: float
    new: float
    direction: ClassVar[int] = 0

    def apply(self, values: Doubles) -> Doubles:
        return np.where(values == self.old, self.new, values)

    def group(self) -> object:
        return Replace

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        old = np.array([step.old for step in steps], dtype=np.float64)
        new = np.array([step.new for step in steps], dtype=np.float64)
        return graph.add("Where", graph.add("Equal", tensor, old), new, tensor)


@dataclass(frozen=True, slots=True)
class NotBelow:
    """Numbers below the value become NaN."""

    value: float
    direction: ClassVar[int] = 0

    def apply(self, values: Doubles) -> Doubles:
        return np.where(values < self.value, np.nan, values)

    def group(self) -> object:
        return NotBelow

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        lowest = np.array([step.value for step in steps], dtype=np.float64)
        return graph.add("Where", graph.add("Less", tensor, lowest), np.array(np.nan), tensor)


@dataclass(frozen=True, slots=True)
class IsMissing:
    """1 where the input is NaN, else 0."""

    direction: ClassVar[int] = 1

    def apply(self, values: Doubles) -> Doubles:
        return np.isnan(values).astype(np.float64)

    def group(self) -> object:
        return IsMissing

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        del steps  # they have nothing to differ in
        return to_double(graph, graph.add("IsNaN", tensor))


@dataclass(frozen=True, slots=True)
class Equals:
    """1 where the input is the value, else 0; NaN is equal to NaN."""

    value: float
    direction: ClassVar[int] = 0

    def apply(self, values: Doubles) -> Doubles:
        if np.isnan(self.value):
            return np.isnan(values).astype(np.float64)
        return np.where(values == self.value, 1.0, 0.0)

    def group(self) -> object:
        return Equals, bool(np.isnan(self.value))

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        if np.isnan(self.value):
            return to_double(graph, graph.add("IsNaN", tensor))
        wanted = np.array([step.value for step in steps], dtype=np.float64)
        return to_double(graph, graph.add("Equal", tensor, wanted))


@dataclass(frozen=True, slots=True)
class Constant:
    """The value, whatever comes in."""

    value: float
    direction: ClassVar[int] = 1

    def apply(self, values: Doubles) -> Doubles:
        return np.full_like(values, self.value)

    def group(self) -> object:
        return Constant

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        values = np.array([step.value for step in steps], dtype=np.float64)
        # x == x or not, both say the same: this only takes the number of rows from the tensor.
        return graph.add("Where", graph.add("IsNaN", tensor), values, values)


@dataclass(frozen=True, slots=True)
class Clip:
    """The nearest number between low and high; NaN stays."""

    low: float
    high: float
    direction: ClassVar[int] = 1

    def apply(self, values: Doubles) -> Doubles:
        clipped: Doubles = np.clip(values, self.low, self.high)
        return clipped

    def group(self) -> object:
        return Clip

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        low = np.array([step.low for step in steps], dtype=np.float64)
        high = np.array([step.high for step in steps], dtype=np.float64)
        # Min and Max of ONNX pass NaN on, as numpy's clip does.
        return graph.add("Min", graph.add("Max", tensor, low), high)


@dataclass(frozen=True, slots=True)
class Above:
    """1 where the input is greater than the threshold, else 0: Binarizer."""

    threshold: float
    direction: ClassVar[int] = 1

    def apply(self, values: Doubles) -> Doubles:
        return (values > self.threshold).astype(np.float64)

    def group(self) -> object:
        return Above

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        thresholds = np.array([step.threshold for step in steps], dtype=np.float64)
        return to_double(graph, graph.add("Greater", tensor, thresholds))


@dataclass(frozen=True, slots=True)
class ToFloat32:
    """The nearest float32, as a double: what scikit-learn's classic trees compare."""

    direction: ClassVar[int] = 1

    def apply(self, values: Doubles) -> Doubles:
        return np.asarray(values.astype(np.float32), dtype=np.float64)

    def group(self) -> object:
        return ToFloat32

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        del steps  # they have nothing to differ in
        return to_double(graph, graph.add("Cast", tensor, to=1))


@dataclass(frozen=True, slots=True)
class Piecewise:
    """A number per interval: `values[0]` below the first break, `values[i]` from break i - 1 on; `missing` for NaN."""

    breaks: tuple[float, ...]
    values: tuple[float, ...]
    missing: float

    @property
    def direction(self) -> int:
        rises = np.diff(np.array(self.values))
        return 1 if (rises >= 0).all() else -1 if (rises <= 0).all() else 0

    def apply(self, values: Doubles) -> Doubles:
        found = np.array(self.values)[np.searchsorted(np.array(self.breaks), values, side="right")]
        return np.where(np.isnan(values), self.missing, found)

    def group(self) -> object:
        return Piecewise

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        breaks = [np.array(step.breaks) for step in steps]
        return look_up_intervals(graph, tensor, breaks, [np.array([*step.values, step.missing]) for step in steps])


def equals(keys: Sequence[float], values: Sequence[float], *, default: float, missing: float) -> Piecewise:
    """The value of the key that the number is equal to, else the default. keys: ascending, finite."""
    breaks: list[float] = []
    pieces = [default]
    for key, value in zip(keys, values, strict=True):
        if breaks and breaks[-1] == key:
            pieces[-1] = value
        else:
            breaks.append(key)
            pieces.append(value)
        breaks.append(float(np.nextafter(key, np.inf)))
        pieces.append(default)
    return Piecewise(tuple(breaks), tuple(pieces), missing)


@dataclass(frozen=True, slots=True)
class Interpolate:
    """numpy's interp: straight lines between the points, constant outside of them."""

    xs: tuple[float, ...]
    ys: tuple[float, ...]

    @property
    def direction(self) -> int:
        return 1 if (np.diff(np.array(self.ys)) >= 0).all() else 0

    def apply(self, values: Doubles) -> Doubles:
        return np.where(np.isnan(values), np.nan, np.interp(values, self.xs, self.ys))

    def group(self) -> object:
        return Interpolate

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        breaks, starts, slopes, levels = [], [], [], []
        for step in steps:
            x, y = np.array(step.xs), np.array(step.ys)
            with np.errstate(all="ignore"):
                slope = np.diff(y) / np.diff(x)
            # Between two equal points there is no number, and outside of the points the line is flat.
            slope = np.where(np.isfinite(slope), slope, 0.0)
            breaks.append(x)
            starts.append(np.array([x[0], *x, np.nan]))
            slopes.append(np.array([0.0, *slope, 0.0, np.nan]))
            levels.append(np.array([y[0], *y, np.nan]))
        start, slope_of, level = (look_up_intervals(graph, tensor, breaks, each) for each in (starts, slopes, levels))
        return graph.add("Add", graph.add("Mul", slope_of, graph.add("Sub", tensor, start)), level)


@dataclass(frozen=True, slots=True)
class Polynomials:
    """A spline: a polynomial per interval in the distance from its start.

    starts: ascending; the first also holds below it, the last beyond. coefficients: from the highest power down, one
    number per interval each. spline: knots, coefficients and degree of the same in scipy's form.
    """

    starts: tuple[float, ...]
    coefficients: tuple[tuple[float, ...], ...]
    spline: tuple[tuple[float, ...], tuple[float, ...], int]
    direction: ClassVar[int] = 0

    def apply(self, values: Doubles) -> Doubles:
        knots, weights, degree = self.spline
        return np.asarray(BSpline(np.array(knots), np.array(weights), degree)(values), dtype=np.float64)

    def group(self) -> object:
        return Polynomials, self.spline[2]

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        breaks = [np.array(step.starts[1:]) for step in steps]
        start = look_up_intervals(graph, tensor, breaks, [np.array([*step.starts, np.nan]) for step in steps])
        off = graph.add("Sub", tensor, start)
        total = ""
        for power in range(len(self.coefficients)):
            levels = [np.array([*step.coefficients[power], np.nan]) for step in steps]
            level = look_up_intervals(graph, tensor, breaks, levels)
            total = graph.add("Add", graph.add("Mul", total, off), level) if total else level
        return total


@dataclass(frozen=True, slots=True)
class Function:
    """A function of numpy, by its name: one of `FUNCTIONS`. begins_at: it gives NaN below."""

    name: str

    @property
    def begins_at(self) -> float | None:
        return _BEGINNINGS.get(self.name)

    @property
    def direction(self) -> int:
        return _DIRECTIONS.get(self.name, 0)

    def apply(self, values: Doubles) -> Doubles:
        return np.asarray(getattr(np, self.name)(values), dtype=np.float64)

    def group(self) -> object:
        return self

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        del steps  # equal by group
        return emit_function(graph, self.name, tensor)


# Where they begin: below it they give NaN.
_BEGINNINGS = {"log": 0.0, "log1p": -1.0, "log2": 0.0, "log10": 0.0, "sqrt": 0.0}
_DIRECTIONS = {
    **dict.fromkeys(("cbrt", "ceil", "exp", "expm1", "floor", "positive", "rint", "sign", "tanh", "trunc"), 1),
    **dict.fromkeys(_BEGINNINGS, 1),
    "negative": -1,
}

_OPS = {
    "abs": "Abs", "absolute": "Abs", "ceil": "Ceil", "cos": "Cos", "exp": "Exp", "floor": "Floor", "log": "Log",
    "negative": "Neg", "reciprocal": "Reciprocal", "rint": "Round", "sign": "Sign", "sin": "Sin", "sqrt": "Sqrt",
    "tanh": "Tanh",
}  # fmt: skip

FUNCTIONS = frozenset({*_DIRECTIONS, *_OPS, "square"})


def emit_function(graph: Graph, name: str, tensor: str) -> str:
    """Numpy's function as nodes. Raises: NotCompilable."""
    match name:
        case _ if name in _OPS:
            return graph.add(_OPS[name], tensor)
        case "positive":
            return tensor
        case "square":
            return graph.add("Mul", tensor, tensor)
        case "log2" | "log10":
            return graph.add("Div", graph.add("Log", tensor), np.array(np.log(2.0 if name == "log2" else 10.0)))
        case "log1p":
            # Kahan: the error of 1 + x cancels in x / ((1 + x) - 1).
            above = graph.add("Add", tensor, np.array(1.0))
            ratio = graph.add("Div", tensor, graph.add("Sub", above, np.array(1.0)))
            exact = graph.add("Mul", graph.add("Log", above), ratio)
            return graph.add("Where", graph.add("Equal", above, np.array(1.0)), tensor, exact)
        case "expm1":
            # Kahan again: the error of exp(x) cancels in (exp(x) - 1) / log(exp(x)).
            power = graph.add("Exp", tensor)
            less = graph.add("Sub", power, np.array(1.0))
            exact = graph.add("Mul", less, graph.add("Div", tensor, graph.add("Log", power)))
            large = graph.add("Greater", graph.add("Abs", tensor), np.array(1.0))
            near = graph.add("Where", graph.add("Equal", power, np.array(1.0)), tensor, exact)
            return graph.add("Where", large, less, near)
        case _:
            raise NotCompilable(f"the function {name} has no node in double")


def compose(steps: Sequence[Step], values: Doubles) -> Doubles:
    """The values after every step. Overflow and undefined results are results, not warnings."""
    with np.errstate(all="ignore"):
        return functools.reduce(lambda done, step: step.apply(done), steps, np.asarray(values, dtype=np.float64))


def movable_from(steps: Sequence[Step]) -> int:
    """The position from which on every step never falls: a threshold can be moved back to there."""
    position = len(steps)
    while position and steps[position - 1].direction == 1:
        position -= 1
    return position


def to_double(graph: Graph, tensor: str) -> str:
    """The tensor of any type, cast."""
    return graph.add("Cast", tensor, to=11)


def last_at_most(steps: Sequence[Step], thresholds: Doubles) -> Doubles:
    """For steps that never fall: the largest double whose result is <= each threshold; -inf where there is none.

    Bisection over the doubles in their order, so rounding inside the steps is taken as it is, to the last bit.
    """
    thresholds = np.asarray(thresholds, dtype=np.float64)
    low = np.full(thresholds.shape, _rank(np.array(-np.inf)), dtype=np.int64)
    high = np.full(thresholds.shape, _rank(np.array(np.inf)), dtype=np.int64)
    # Invariant: the result at `low` is <= the threshold (or low is -inf), at `high` above it (or high is inf).
    for _ in range(65):
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        # Where a function does not begin yet it gives NaN: that is below all it gives later.
        at_most = ~(compose(steps, _unrank(middle)) > thresholds)
        low = np.where(at_most, middle, low)
        high = np.where(at_most, high, middle)
    return _unrank(low)


def _rank(values: Doubles) -> NDArray[np.int64]:
    """An integer per double, in the same order; -0.0 and 0.0 differ by one."""
    bits = np.asarray(values, dtype=np.float64).view(np.int64)
    return np.where(bits >= 0, bits, np.int64(-(2**63)) - bits - 1)


def _unrank(ranks: NDArray[np.int64]) -> Doubles:
    bits = np.where(ranks >= 0, ranks, np.int64(-(2**63)) - ranks - 1)
    return bits.astype(np.int64).view(np.float64)
