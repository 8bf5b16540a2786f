"""The features between two steps of a pipeline, held as what they are made of for as long as possible.

A feature that depends on one input alone needs no tensor of its own: a category's is a table with one value per
code, a number's is a chain of steps. So one-hot blocks become one look-up, and trees split on the inputs directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zaphod.compiler import NotCompilable
from zaphod.compiler.graph import INPUT, Graph
from zaphod.compiler.steps import Step, compose


@dataclass(frozen=True, slots=True)
class Number:
    """A function of one number field. source: its column in x."""

    source: int
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """A function of one string field.

    field: its position among the string fields.
    values: shape (num_codes,), by code: float64, or object of `str` and NaN while it is still text.
    """

    field: int
    values: NDArray[np.generic]

    @property
    def is_text(self) -> bool:
        return self.values.dtype == object


@dataclass(frozen=True, slots=True)
class Computed:
    """Column `index` of a tensor, double, shape (n_rows, width)."""

    tensor: str
    index: int
    width: int


Column: TypeAlias = Number | Coded | Computed


@dataclass(frozen=True, slots=True)
class Inputs:
    """Where the fields stand in x: numbers first, then one code for each string field.

    A string field's codes are `offsets[i]` to `offsets[i] + sizes[i] - 1`: one for each known string, then null, then
    any other. nullable: per number field. Offsets differ, so that one look-up table can hold the rows of every field.
    """

    nullable: tuple[bool, ...]
    sizes: tuple[int, ...]

    @property
    def num_numbers(self) -> int:
        return len(self.nullable)

    @property
    def num_inputs(self) -> int:
        return self.num_numbers + len(self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        return tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))


@dataclass(frozen=True, slots=True)
class Features:
    """Columns in the order the next estimator sees them. names: theirs, while scikit-learn holds a pandas frame."""

    columns: tuple[Column, ...]
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.columns)

    @property
    def is_text(self) -> bool:
        return any(isinstance(column, Coded) and column.is_text for column in self.columns)

    def select(self, positions: Sequence[int] | NDArray[np.int64]) -> Features:
        names = None if self.names is None else tuple(self.names[i] for i in positions)
        return Features(tuple(self.columns[i] for i in positions), names)

    def nameless(self) -> Features:
        return replace(self, names=None)


def numeric(column: Coded) -> NDArray[np.float64]:
    """The table's values as numbers, by code. Raises: NotCompilable when they are still text."""
    if column.is_text:
        raise NotCompilable("strings reach an estimator that computes with numbers")
    return column.values.astype(np.float64)


def concatenate(parts: Sequence[Features]) -> Features:
    """Side by side, without names."""
    return Features(tuple(column for part in parts for column in part.columns))


def from_tensor(tensor: str, width: int) -> Features:
    """The columns of a tensor, shape (n_rows, width)."""
    return Features(tuple(Computed(tensor, i, width) for i in range(width)))


def apply_steps(graph: Graph, features: Features, steps: Sequence[Sequence[Step]]) -> Features:
    """Each column followed by its own steps."""
    columns: list[Column] = list(features.columns)
    computed: dict[str, list[int]] = {}
    for i, (column, extra) in enumerate(zip(features.columns, steps, strict=True)):
        if not extra:
            continue
        match column:
            case Number():
                columns[i] = replace(column, steps=(*column.steps, *extra))
            case Coded():
                columns[i] = replace(column, values=compose(extra, numeric(column)))
            case Computed():
                computed.setdefault(column.tensor, []).append(i)
    if computed:
        positions = [i for group in computed.values() for i in group]
        kinds = _chains([tuple(steps[i]) for i in positions])
        for group in kinds:
            chosen = [positions[i] for i in group]
            tensor = _emit_chain(graph, matrix(graph, features.select(chosen)), [tuple(steps[i]) for i in chosen])
            for place, i in enumerate(chosen):
                columns[i] = Computed(tensor, place, len(chosen))
    return Features(tuple(columns), features.names)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """Features as tensors: `dense` [n, p] of columns `dense_order`, and categories as rows of one table.

    rows: int64 tensor [n, num_string_fields_used], positions in `table`; table: float64 [num_rows, q] of columns
    `table_order`; a feature row is the sum over its table rows, which are zero outside the field's own columns.
    """

    dense: str | None
    dense_order: tuple[int, ...]
    rows: str | None
    num_fields: int
    table: NDArray[np.float64]
    table_order: tuple[int, ...]


def parts(graph: Graph, inputs: Inputs, features: Features) -> Parts:
    """Raises: NotCompilable when a column is still text."""
    numbers = [i for i, column in enumerate(features.columns) if not isinstance(column, Coded)]
    coded = [i for i, column in enumerate(features.columns) if isinstance(column, Coded)]
    dense, order = _dense(graph, features, numbers)
    if not coded:
        return Parts(dense, order, None, 0, np.zeros((0, 0)), ())
    fields = sorted({features.columns[i].field for i in coded})  # type: ignore[union-attr]  # coded by selection
    table = np.zeros((sum(inputs.sizes), len(coded)))
    for place, i in enumerate(coded):
        column = features.columns[i]
        assert isinstance(column, Coded)
        start = inputs.offsets[column.field]
        table[start : start + inputs.sizes[column.field], place] = numeric(column)
    codes = select_inputs(graph, [inputs.num_numbers + field for field in fields])
    rows = graph.add("Cast", codes, to=7)
    return Parts(dense, order, rows, len(fields), table, tuple(coded))


def look_up(graph: Graph, rows: str, table: NDArray[np.float64], *, num_fields: int) -> str:
    """The sum of each row's table rows, shape (n_rows, table width)."""
    if num_fields == 1:
        # [n, 1, q]: the sum over one row drops the axis, which Squeeze does without touching the values.
        return graph.add("Squeeze", graph.add("Gather", table, rows, axis=0), np.array([1]))
    return graph.add("ReduceSum", graph.add("Gather", table, rows, axis=0), np.array([1]), keepdims=0)


def matrix(graph: Graph, features: Features, *, inputs: Inputs | None = None) -> str:
    """The features as one double tensor [n, p] in their order."""
    if inputs is None:
        made, order = _dense(graph, features, list(range(len(features))))
        assert made is not None
        return _reorder(graph, made, order)
    split = parts(graph, inputs, features)
    pieces: list[str] = []
    places = list(split.dense_order)
    if split.dense is not None:
        pieces.append(split.dense)
    if split.rows is not None:
        pieces.append(look_up(graph, split.rows, split.table, num_fields=split.num_fields))
        places += split.table_order
    tensor = pieces[0] if len(pieces) == 1 else graph.add("Concat", *pieces, axis=1)
    return _reorder(graph, tensor, tuple(places))


def dot(
    graph: Graph, inputs: Inputs, features: Features, weights: NDArray[np.float64], bias: NDArray[np.float64]
) -> str:
    """Features @ weights + bias, double, shape (n_rows, t). weights: shape (p, t). bias: shape (t,).

    A category's part is looked up: the weights are summed into the table when the graph is made.
    """
    split = parts(graph, inputs, features)
    terms: list[str] = []
    if split.dense is not None:
        terms.append(graph.add("Gemm", split.dense, weights[list(split.dense_order)], bias))
    if split.rows is not None:
        table = split.table @ weights[list(split.table_order)]
        looked_up = look_up(graph, split.rows, table, num_fields=split.num_fields)
        terms.append(looked_up if terms else graph.add("Add", looked_up, bias))
    return terms[0] if len(terms) == 1 else graph.add("Add", *terms)


def select_inputs(graph: Graph, columns: Sequence[int]) -> str:
    """These columns of x, in this order, as a tensor."""
    return _pick(graph, INPUT, columns, width=graph.num_inputs)


def _dense(graph: Graph, features: Features, positions: list[int]) -> tuple[str | None, tuple[int, ...]]:
    """Numbers and computed columns as one tensor, and the features' positions in its order."""
    if not positions:
        return None, ()
    pieces: list[str] = []
    order: list[int] = []
    numbers = [i for i in positions if isinstance(features.columns[i], Number)]
    chains = [features.columns[i].steps for i in numbers]  # type: ignore[union-attr]  # numbers by selection
    for group in _chains(chains):
        chosen = [numbers[i] for i in group]
        raw = select_inputs(graph, [features.columns[i].source for i in chosen])  # type: ignore[union-attr]  # as above
        pieces.append(_emit_chain(graph, raw, [chains[i] for i in group]))
        order += chosen
    tensors: dict[tuple[str, int], list[int]] = {}
    for i in positions:
        column = features.columns[i]
        if isinstance(column, Computed):
            tensors.setdefault((column.tensor, column.width), []).append(i)
    for (tensor, width), chosen in tensors.items():
        pieces.append(_pick(graph, tensor, [features.columns[i].index for i in chosen], width=width))  # type: ignore[union-attr]  # as above
        order += chosen
    return (pieces[0] if len(pieces) == 1 else graph.add("Concat", *pieces, axis=1)), tuple(order)


def _chains(chains: Sequence[Sequence[Step]]) -> list[list[int]]:
    """Positions of chains that can be emitted together."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, chain in enumerate(chains):
        groups.setdefault(tuple(step.group() for step in chain), []).append(i)
    return list(groups.values())


def _emit_chain(graph: Graph, tensor: str, chains: Sequence[Sequence[Step]]) -> str:
    for steps in zip(*chains, strict=True):
        tensor = steps[0].emit(graph, tensor, steps)
    return tensor


def _pick(graph: Graph, tensor: str, columns: Sequence[int], *, width: int) -> str:
    columns = list(columns)
    first, last = columns[0], columns[-1] + 1
    if columns != list(range(first, last)):
        return graph.add("Gather", tensor, np.array(columns), axis=1)
    if first == 0 and last == width:
        return tensor
    return graph.add("Slice", tensor, np.array([first]), np.array([last]), np.array([1]))


def _reorder(graph: Graph, tensor: str, order: tuple[int, ...]) -> str:
    if list(order) == list(range(len(order))):
        return tensor
    return graph.add("Gather", tensor, np.argsort(np.array(order)), axis=1)
