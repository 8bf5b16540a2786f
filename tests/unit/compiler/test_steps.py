"""Each function of one number is the same in numpy and as nodes, and thresholds move through it to the last bit."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from sklearn.preprocessing import QuantileTransformer

from zaphod.compiler import steps as kinds
from zaphod.compiler.graph import INPUT, Graph
from zaphod.compiler.scalers import BoxCox, Quantile, YeoJohnson
from zaphod.compiler.steps import Step, compose, equals, last_at_most

NUMBERS = np.array(
    [-1e300, -1e15, -7.5, -2.0, -1.0, -0.3, -1e-9, -5e-324, -0.0, 0.0, 5e-324, 1e-17, 1e-9, 0.3, 1.0, 2.0, 7.5, 1e15]
)
RNG = np.random.default_rng(0)
SOME = np.concatenate([NUMBERS, RNG.normal(0.0, 3.0, 200), [np.nan]])
QUANTILES = QuantileTransformer(n_quantiles=20).fit(np.round(RNG.normal(0.0, 1.0, (500, 1)), 1))

EXACT: list[Step] = [
    kinds.Subtract(0.7),
    kinds.Add(1e9),
    kinds.Divide(0.37),
    kinds.Multiply(-3.3),
    kinds.Fill(2.5),
    kinds.Replace(7.5, -1.0),
    kinds.IsMissing(),
    kinds.NotBelow(-1.0),
    kinds.Constant(3.25),
    kinds.Clip(-2.0, 2.0),
    kinds.Above(0.3),
    kinds.ToFloat32(),
    kinds.Piecewise((-1.0, 0.0, 2.0), (5.0, 1.0, 7.0, -3.0), 11.0),
    equals([-2.0, 0.0, 7.5], [1.0, 2.0, 3.0], default=np.nan, missing=9.0),
    kinds.Function("floor"),
    kinds.Function("rint"),
    kinds.Function("negative"),
    kinds.Function("sqrt"),
    kinds.Function("abs"),
]
CLOSE: list[Step] = [
    kinds.Function("log1p"),
    kinds.Function("expm1"),
    kinds.Function("tanh"),
    kinds.Function("log10"),
    kinds.Function("sin"),
    kinds.Interpolate((-2.0, -1.0, -1.0, 2.0), (0.0, 0.1, 0.6, 1.0)),
    YeoJohnson(0.4),
    YeoJohnson(0.0),
    YeoJohnson(2.0),
    YeoJohnson(-1.3),
    Quantile(QUANTILES, 0),
]


def emitted(step: Step, values: np.ndarray) -> np.ndarray:
    """What the nodes give."""
    graph = Graph(1)
    model = graph.build({"value": step.emit(graph, INPUT, [step])}, metadata={})
    (result,) = onnxruntime.InferenceSession(model).run(None, {INPUT: values[:, None]})
    return result[:, 0]


def moderate(step: Step, values: np.ndarray) -> np.ndarray:
    """Values where a function that grows stays finite."""
    return values[~(np.abs(values) > 300)] if isinstance(step, (kinds.Function, YeoJohnson)) else values


@pytest.mark.parametrize("step", EXACT, ids=str)
def test_nodes_equal_numpy_to_the_last_bit(step: Step) -> None:
    """Additions, comparisons and look-ups round as numpy does, at denormals, negative zero and NaN too."""
    np.testing.assert_array_equal(emitted(step, SOME), compose([step], SOME))


@pytest.mark.parametrize("step", CLOSE, ids=str)
def test_nodes_are_close_to_numpy(step: Step) -> None:
    """Functions keep their relative precision, near zero as well."""
    values = moderate(step, SOME)

    np.testing.assert_allclose(emitted(step, values), compose([step], values), rtol=1e-14, atol=1e-300)


def test_box_cox_is_close_where_it_is_defined() -> None:
    """Above zero it agrees with scipy."""
    values = np.abs(RNG.normal(0.0, 3.0, 100))

    for step in (BoxCox(0.3), BoxCox(0.0), BoxCox(-1.0)):
        np.testing.assert_allclose(emitted(step, values), compose([step], values), rtol=1e-13)


@pytest.mark.parametrize(
    "chain",
    [
        [],
        [kinds.ToFloat32()],
        [kinds.Fill(0.5), kinds.Subtract(1.234), kinds.Divide(0.37)],
        [kinds.Subtract(1e9), kinds.Divide(3.0), kinds.ToFloat32()],
        [YeoJohnson(0.3), kinds.Subtract(0.1), kinds.Divide(2.0), kinds.ToFloat32()],
        [kinds.Clip(-1.0, 1.0)],
        [kinds.Function("log1p")],
        [kinds.Subtract(3.0), kinds.Function("sqrt"), kinds.Subtract(0.2), kinds.ToFloat32()],
        [Quantile(QUANTILES, 0)],
    ],
    ids=str,
)
def test_a_threshold_moves_to_the_last_bit(chain: list[Step]) -> None:
    """At the moved threshold the result is <= the threshold, one ulp above it is not."""
    thresholds = np.concatenate([RNG.normal(0.0, 0.5, 300), [0.0, -0.0]])

    moved = last_at_most(chain, thresholds)

    has_one = moved > -np.inf
    assert not (compose(chain, moved)[has_one] > thresholds[has_one]).any()
    inside = moved < np.finfo(np.float64).max
    assert (compose(chain, np.nextafter(moved[inside], np.inf)) > thresholds[inside]).all()
    assert (has_one & inside).any()


@pytest.mark.parametrize("step", [*EXACT, *CLOSE], ids=str)
def test_a_direction_is_kept(step: Step) -> None:
    """A step that says it never falls does not."""
    values = np.sort(moderate(step, SOME[~np.isnan(SOME)]))
    results = compose([step], values)
    rises = np.diff(results[np.isfinite(results)])

    if step.direction == 1:
        assert (rises >= 0).all()
    if step.direction == -1:
        assert (rises <= 0).all()
