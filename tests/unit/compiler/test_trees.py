"""Trees give scikit-learn's sums to the last bit, small or too large for one node, whatever comes before them."""

from __future__ import annotations

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    OneHotEncoder,
    OrdinalEncoder,
    PowerTransformer,
    QuantileTransformer,
    TargetEncoder,
)
from sklearn.tree import DecisionTreeClassifier

from tests import models
from zaphod.columns import Columns
from zaphod.compiler import compile_model
from zaphod.compiler.engine import OnnxPredictor
from zaphod.packaging import infer_schema, sample_columns
from zaphod.predictor import Predictions
from zaphod.sklearn_predictor import SklearnPredictor

RNG = np.random.default_rng(0)
X = models.table(1500, seed=11)
# Nothing to learn: the trees grow as large as they can.
COINS = RNG.integers(0, 2, len(X))
DICE = np.array(["one", "two", "three", "four"], dtype=object)[RNG.integers(0, 4, len(X))]
NOISE = RNG.normal(0.0, 1.0, len(X))


def both(model: BaseEstimator, frame: pd.DataFrame, y: np.ndarray) -> tuple[Predictions, Predictions, OnnxPredictor]:
    """Compiled and reference answers on rows with nulls and strings never seen."""
    fitted = model.fit(frame, y)
    schema = infer_schema(fitted, frame, nullable=[name for name in models.NULLABLE if name in frame])
    compiled = OnnxPredictor(compile_model(fitted, schema).model, schema)
    other = models.table(2000, seed=12)[list(frame)]
    if "kind" in other:
        other.loc[:200, "kind"] = "never seen"
    rows: Columns = sample_columns(schema, other)
    return compiled.predict(rows), SklearnPredictor(fitted, schema).predict(rows), compiled


def num_ensembles(compiled: OnnxPredictor) -> int:
    """How many nodes the trees were cut into."""
    graph = onnx.load_model_from_string(compiled.model_bytes).graph
    return sum(node.op_type == "TreeEnsemble" for node in graph.node)


@pytest.mark.parametrize(
    ("model", "y", "is_cut"),
    [
        (RandomForestClassifier(5, max_depth=4, random_state=0), COINS, False),
        (RandomForestClassifier(60, random_state=0), COINS, True),
        (RandomForestClassifier(30, random_state=0), DICE, True),
        (RandomForestClassifier(30, min_samples_leaf=3, random_state=0), DICE, True),
        (ExtraTreesClassifier(20, min_samples_leaf=2, random_state=0), DICE, True),
        (DecisionTreeClassifier(min_samples_leaf=4, random_state=0), DICE, False),
    ],
    ids=str,
)
def test_forests_of_classes_are_equal(model: BaseEstimator, y: np.ndarray, *, is_cut: bool) -> None:
    """Shares are added in scikit-learn's order, so that equal shares stay equal and the same class wins."""
    got, expected, compiled = both(models.pipeline(model), X, y)

    np.testing.assert_array_equal(got.probabilities, expected.probabilities)
    assert (np.asarray(got.labels) == np.asarray(expected.labels)).all()
    assert (num_ensembles(compiled) > 1) == is_cut


@pytest.mark.parametrize(
    "model",
    [
        RandomForestRegressor(5, max_depth=4, random_state=0),
        GradientBoostingRegressor(n_estimators=50, random_state=0),
        HistGradientBoostingRegressor(max_iter=50, random_state=0),
    ],
    ids=str,
)
def test_sums_of_trees_are_equal(model: BaseEstimator) -> None:
    """A sum starts from the model's own start and adds tree by tree."""
    got, expected, _ = both(models.pipeline(model), X, NOISE)

    np.testing.assert_array_equal(got.values, expected.values)


def test_a_cut_sum_differs_by_rounding_only() -> None:
    """A large forest of numbers is added in parts."""
    got, expected, compiled = both(models.pipeline(RandomForestRegressor(40, random_state=0)), X, NOISE)

    np.testing.assert_allclose(got.values, expected.values, rtol=1e-13, atol=1e-15)
    assert num_ensembles(compiled) > 1


@pytest.mark.parametrize(
    "numbers",
    [
        PowerTransformer(),
        QuantileTransformer(n_quantiles=30, output_distribution="normal"),
        FunctionTransformer(np.log1p),
        FunctionTransformer(np.exp),
        FunctionTransformer(np.negative),
    ],
    ids=str,
)
def test_splits_move_through_what_comes_before(numbers: BaseEstimator) -> None:
    """Trained after a curve, with nulls and numbers outside of where it is defined, the sums are equal."""
    columns = ColumnTransformer([("n", numbers, ["amount", "balance", "count"])])
    model = make_pipeline(columns, HistGradientBoostingRegressor(max_iter=20, random_state=0))

    with np.errstate(all="ignore"):
        got, expected, _ = both(model, X, NOISE)

    np.testing.assert_array_equal(got.values, expected.values)


@pytest.mark.parametrize(
    "kinds",
    [
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
        OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=480, sparse_output=False),
        OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
        TargetEncoder(),
    ],
    ids=str,
)
def test_categories_become_questions_about_codes(kinds: BaseEstimator) -> None:
    """Nulls and unseen categories take the branch that the encoder's number for them takes."""
    columns = ColumnTransformer([("k", kinds, ["kind"])], remainder="passthrough")
    model = make_pipeline(columns, HistGradientBoostingRegressor(max_iter=20, random_state=0))

    got, expected, _ = both(model, X, NOISE)

    np.testing.assert_array_equal(got.values, expected.values)


@pytest.mark.parametrize("fields", [["kind"], ["kind", "count"]], ids=str)
def test_categories_of_boosting_itself_are_equal(fields: list[str]) -> None:
    """Splits on sets of categories, of strings and of whole numbers, unseen ones and nulls among the rows."""
    model = HistGradientBoostingClassifier(max_iter=20, categorical_features=fields, random_state=0)

    got, expected, _ = both(model, X, COINS)

    np.testing.assert_allclose(got.probabilities, expected.probabilities, rtol=0, atol=1e-15)
    assert (got.labels == expected.labels).all()
