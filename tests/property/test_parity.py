"""Adversarial: pipelines and rows are made up, and a disagreement of the two engines is searched for.

What parity let pass has to hold on rows that parity never saw.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from sklearn import (
    calibration,
    discriminant_analysis,
    ensemble,
    linear_model,
    multioutput,
    naive_bayes,
    neural_network,
    preprocessing,
    svm,
    tree,
)
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from zaphod.columns import Columns
from zaphod.compiler import NotCompilable, compile_model
from zaphod.compiler.engine import OnnxPredictor
from zaphod.compiler.parity import MAX_DIFFERENCE, check_parity
from zaphod.errors import PredictionError
from zaphod.packaging import infer_schema, sample_columns
from zaphod.predictor import Predictions
from zaphod.schema import Schema
from zaphod.sklearn_predictor import SklearnPredictor

# A longer search: ZAPHOD_EXAMPLES=2000 pytest tests/property.
NUM_EXAMPLES = int(os.environ.get("ZAPHOD_EXAMPLES", "25"))
NUMBERS = ("skewed", "whole", "flag", "constant", "tied", "wide")
STRINGS = ("colour", "size")
NULLABLE = ("skewed", "tied", "size")

NUMBER_STEPS = (
    "passthrough",
    StandardScaler(),
    preprocessing.MinMaxScaler(clip=True),
    preprocessing.RobustScaler(),
    preprocessing.MaxAbsScaler(),
    preprocessing.PowerTransformer(),
    preprocessing.QuantileTransformer(n_quantiles=10),
    preprocessing.KBinsDiscretizer(3, encode="onehot-dense", quantile_method="averaged_inverted_cdf"),
    preprocessing.Binarizer(threshold=0.5),
    preprocessing.PolynomialFeatures(2),
    preprocessing.SplineTransformer(3),
    FunctionTransformer(np.tanh),
    make_pipeline(preprocessing.MinMaxScaler(clip=True), FunctionTransformer(np.log1p)),
)
UNKNOWN = {"handle_unknown": "use_encoded_value", "unknown_value": -1, "encoded_missing_value": -2}
# Of whole numbers and flags, in some of the pipelines.
WHOLE_STEPS = (
    "passthrough",
    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    OneHotEncoder(sparse_output=False),
    OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan),
)
STRING_STEPS = (
    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    OneHotEncoder(handle_unknown="ignore"),
    OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=20, sparse_output=False),
    OneHotEncoder(drop="if_binary", sparse_output=False),
    OrdinalEncoder(**UNKNOWN),
    OrdinalEncoder(**UNKNOWN, max_categories=2),
    preprocessing.TargetEncoder(random_state=0, cv=2),
    make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore", sparse_output=False)),
)
MODELS = (
    linear_model.LogisticRegression(max_iter=50),
    linear_model.SGDClassifier(loss="modified_huber", random_state=0),
    linear_model.RidgeClassifier(),
    linear_model.Ridge(),
    linear_model.PoissonRegressor(max_iter=20),
    svm.LinearSVC(random_state=0),
    svm.SVC(),
    naive_bayes.GaussianNB(),
    discriminant_analysis.LinearDiscriminantAnalysis(),
    neural_network.MLPClassifier((4,), max_iter=5, random_state=0),
    tree.DecisionTreeClassifier(random_state=0),
    tree.DecisionTreeRegressor(min_samples_leaf=5, random_state=0),
    ensemble.RandomForestClassifier(7, random_state=0),
    ensemble.RandomForestClassifier(8, min_samples_leaf=4, random_state=0),
    ensemble.RandomForestRegressor(5, random_state=0),
    ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0),
    ensemble.HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=3),
    ensemble.HistGradientBoostingRegressor(max_iter=5, min_samples_leaf=3),
    ensemble.AdaBoostClassifier(n_estimators=4, random_state=0),
    ensemble.BaggingClassifier(n_estimators=3, random_state=0),
    ensemble.VotingClassifier([("a", tree.DecisionTreeClassifier(max_depth=2)), ("b", naive_bayes.GaussianNB())]),
    calibration.CalibratedClassifierCV(tree.DecisionTreeClassifier(max_depth=3, random_state=0), cv=2),
)
# Of two targets at once.
SEVERAL = (
    tree.DecisionTreeClassifier(random_state=0),
    ensemble.RandomForestClassifier(6, min_samples_leaf=2, random_state=0),
    multioutput.MultiOutputClassifier(linear_model.LogisticRegression(max_iter=50)),
    multioutput.MultiOutputClassifier(ensemble.HistGradientBoostingClassifier(max_iter=3, min_samples_leaf=3)),
    multioutput.ClassifierChain(tree.DecisionTreeClassifier(max_depth=3, random_state=0), order=[1, 0]),
    neural_network.MLPClassifier((4,), max_iter=5, random_state=0),
)
FLAGS = (multioutput.ClassifierChain, neural_network.MLPClassifier)


@dataclass(frozen=True)
class Recipe:
    """What a pipeline is made of, by position; and where its rows come from."""

    numbers: int
    strings: int
    wholes: int
    model: int
    impute: bool
    num_classes: int
    seed: int


recipes = st.builds(
    Recipe,
    numbers=st.integers(0, len(NUMBER_STEPS) - 1),
    strings=st.integers(0, len(STRING_STEPS) - 1),
    wholes=st.integers(0, len(WHOLE_STEPS) - 1),
    model=st.integers(0, len(MODELS) + len(SEVERAL) - 1),
    impute=st.booleans(),
    num_classes=st.integers(2, 4),
    seed=st.integers(0, 5),
)


def table(seed: int) -> pd.DataFrame:
    """Numbers of many kinds, all of them awkward: skewed, tied, constant, far apart."""
    rng = np.random.default_rng(seed)
    size = 120
    frame = pd.DataFrame(
        {
            "skewed": np.where(rng.random(size) < 0.2, np.nan, rng.lognormal(0.0, 2.0, size)),
            "whole": rng.integers(-3, 4, size),
            "flag": rng.random(size) < 0.3,
            "constant": np.full(size, 7.0),
            "tied": np.where(rng.random(size) < 0.1, np.nan, np.round(rng.normal(0.0, 1.0, size), 1)),
            "wide": rng.normal(0.0, 1.0, size) * 10.0 ** rng.integers(-12, 12, size),
            "colour": rng.choice(np.array(["red", "green", "", "blue"], dtype=object), size, p=[0.5, 0.3, 0.1, 0.1]),
            "size": rng.choice(np.array(["s", "m", "l"], dtype=object), size),
        }
    )
    frame["colour"] = frame["colour"].astype("str")
    frame["size"] = frame["size"].astype("str")
    frame.loc[rng.random(size) < 0.15, "size"] = None
    return frame


def pipeline(recipe: Recipe) -> Pipeline:
    """Unfitted."""
    numbers = [SimpleImputer(strategy="median", add_indicator=recipe.seed % 2 == 0)] if recipe.impute else []
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(*numbers, clone_step(NUMBER_STEPS[recipe.numbers])), list(NUMBERS)),
            ("wholes", clone_step(WHOLE_STEPS[recipe.wholes]), ["whole", "flag"]),
            ("strings", clone(STRING_STEPS[recipe.strings]), list(STRINGS)),
        ],
        sparse_threshold=0.0,
    )
    return Pipeline([("columns", columns), ("model", clone((*MODELS, *SEVERAL)[recipe.model]))])


def clone_step(step: BaseEstimator | str) -> BaseEstimator | str:
    """A step that may be a word."""
    return step if isinstance(step, str) else clone(step)


def target(recipe: Recipe, frame: pd.DataFrame) -> np.ndarray:
    """A number or a class that has to do with the rows."""
    rng = np.random.default_rng(recipe.seed)
    signal = frame["whole"] + frame["tied"].fillna(2.0) + (frame["colour"] == "red") + rng.normal(0.0, 0.5, len(frame))
    if recipe.model >= len(MODELS):
        flags = np.column_stack([signal > signal.median(), frame["flag"]])
        if isinstance(SEVERAL[recipe.model - len(MODELS)], FLAGS):
            return flags.astype(int)
        return np.column_stack([np.where(flags[:, 0], "w", "x"), np.array(["x", "y", "z"])[flags.sum(axis=1)]])
    if is_regressor(MODELS[recipe.model]):
        return (signal - signal.min()).to_numpy()
    edges = np.quantile(signal, np.linspace(0, 1, recipe.num_classes + 1)[1:-1])
    return np.array(["w", "x", "y", "z"], dtype=object)[np.digitize(signal, edges)]


floats = st.one_of(
    st.floats(-1e3, 1e3, allow_nan=False),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 5e-324, -5e-324, 0.5, 1.0, 7.0, 0.1, -0.1, 1e-12, 1e12]),
)
rows_of_values = st.lists(
    st.tuples(
        st.none() | floats,
        st.integers(-4, 4) | st.integers(-(2**53), 2**53),
        st.booleans(),
        st.just(7.0) | floats,
        st.none() | st.integers(-30, 30).map(lambda tenth: tenth / 10) | floats,
        floats,
        st.sampled_from(["red", "green", "", "blue", "purple"]) | st.text(max_size=3),
        st.none() | st.sampled_from(["s", "m", "l", "xl"]),
    ),
    min_size=1,
    max_size=12,
)


def columns_of(rows: list[tuple[object, ...]]) -> Columns:
    """As an arm would hand them over."""
    numbers = np.array([[np.nan if value is None else value for value in row[:6]] for row in rows], dtype=np.float64)
    strings = tuple(pa.array([row[i] for row in rows], type=pa.string()) for i in (6, 7))
    return Columns(numbers=numbers, strings=strings)


def served(recipe: Recipe) -> tuple[SklearnPredictor, OnnxPredictor, Schema, Columns] | None:
    """Both engines of a pipeline that would be served compiled; None for any other."""
    frame = table(recipe.seed)
    try:
        model = pipeline(recipe).fit(frame, target(recipe, frame))
    except ValueError:
        return None
    schema = infer_schema(model, frame, nullable=NULLABLE)
    try:
        compiled = OnnxPredictor(compile_model(model, schema).model, schema)
    except NotCompilable as error:
        if "its converter raised" in str(error):
            raise  # a converter that refuses says why; this one failed
        return None
    reference = SklearnPredictor(model, schema)
    sample = sample_columns(schema, frame)
    if not check_parity(reference, compiled, schema, sample=sample).passed:
        return None
    return reference, compiled, schema, sample


_SERVED: dict[Recipe, tuple[SklearnPredictor, OnnxPredictor, Schema, Columns] | None] = {}


@given(recipe=recipes, rows=st.lists(rows_of_values, min_size=1, max_size=5))
@settings(max_examples=NUM_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_parity_let_pass_agrees_everywhere(recipe: Recipe, rows: list[list[tuple[object, ...]]]) -> None:
    """No made-up row of a pipeline that is served compiled has another answer than scikit-learn's."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if recipe not in _SERVED:
            _SERVED[recipe] = served(recipe)
        found = _SERVED[recipe]
        event("served by " + ("onnx" if found else "sklearn"))
        assume(found is not None)
        reference, compiled, _, sample = found
        usual = reference.predict(sample)
        for values in rows:
            asked = columns_of(values)
            try:
                expected = reference.predict(asked)
            except PredictionError:
                continue
            same(expected, compiled.predict(asked), usual)


def same(expected: Predictions, got: Predictions, usual: Predictions) -> None:
    """Labels are equal; numbers as close as parity asks for."""
    if expected.labels is not None:
        assert np.asarray(expected.labels).tolist() == np.asarray(got.labels).tolist()
    if expected.probabilities is not None:
        np.testing.assert_allclose(got.probabilities, expected.probabilities, rtol=0, atol=MAX_DIFFERENCE)
    if expected.values is not None:
        scale = np.median(np.abs(usual.values))
        finite = np.isfinite(expected.values)
        np.testing.assert_array_equal(np.isfinite(got.values), finite)
        difference = np.abs(got.values[finite] - expected.values[finite])
        assert (difference <= MAX_DIFFERENCE * np.maximum(np.abs(expected.values[finite]), scale)).all()
