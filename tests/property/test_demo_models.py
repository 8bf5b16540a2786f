"""The models that the examples and the other tests package are served compiled."""

from __future__ import annotations

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from examples import train, transactions
from tests import models
from zaphod.columns import Columns
from zaphod.compiler import compile_model
from zaphod.compiler.engine import OnnxPredictor
from zaphod.packaging import infer_schema, sample_columns
from zaphod.sklearn_predictor import SklearnPredictor

NUM_ROWS = 20_000


def strange(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The frame with unseen, empty and missing strings in a column."""
    frame = frame.copy()
    frame.loc[frame.index[:300], column] = "never seen"
    frame.loc[frame.index[300:600], column] = ""
    frame.loc[frame.index[600:900], column] = None
    return frame


def both(estimator: BaseEstimator, frame: pd.DataFrame) -> tuple[OnnxPredictor, SklearnPredictor, Columns]:
    """The two engines and the rows of the frame."""
    schema = infer_schema(estimator, frame)
    compiled = compile_model(estimator, schema, sample=frame)
    predictor = OnnxPredictor(compiled.model, schema)
    return predictor, SklearnPredictor(estimator, schema), sample_columns(schema, frame)


def logistic() -> LogisticRegression:
    """Unfitted."""
    return LogisticRegression(max_iter=500)


@pytest.mark.parametrize(
    ("model", "target"),
    [
        (HistGradientBoostingClassifier(max_iter=20, random_state=0), "binary"),
        (HistGradientBoostingClassifier(max_iter=10, random_state=0), "words"),
        (HistGradientBoostingRegressor(max_iter=20, random_state=0), "number"),
        (LogisticRegression(max_iter=500), "binary"),
        (LogisticRegression(max_iter=500), "words"),
        (Ridge(), "number"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_both_engines_agree(model: BaseEstimator, target: str) -> None:
    """On 20,000 rows with nulls and strings never seen, labels are equal and numbers differ by rounding at most."""
    X = models.table(2000, seed=1)
    signal = X["amount"] / 30 + X["count"] / 5 + (X["kind"] == "a") * 2.0
    y = {
        "binary": (signal > signal.median()).astype(int),
        "words": pd.cut(signal, 3, labels=["low", "mid", "high"]).astype("str"),
        "number": signal,
    }[target]
    compiled, reference, rows = both(models.pipeline(model).fit(X, y), strange(models.table(NUM_ROWS, seed=2), "kind"))

    got, expected = compiled.predict(rows), reference.predict(rows)

    if target == "number":
        np.testing.assert_allclose(got.values, expected.values, rtol=1e-12)
    else:
        assert (np.asarray(got.labels) == np.asarray(expected.labels)).all()
        np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-12)


def test_fraud_demo_agrees() -> None:
    """The demo pipeline over 12 fields agrees on later transactions than it was trained on."""
    frame = transactions.generate(4000, seed=1, end=0.5)
    model = train.fraud_pipeline().fit(frame[list(transactions.FEATURES)], frame[transactions.TARGET])
    later = transactions.generate(NUM_ROWS, seed=2, start=0.5)[list(transactions.FEATURES)]
    compiled, reference, rows = both(model, strange(later, "device"))

    got, expected = compiled.predict(rows), reference.predict(rows)

    assert (np.asarray(got.labels) == np.asarray(expected.labels)).all()
    np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-12)


def test_lists_and_arrow_arrays_give_the_same_answer() -> None:
    """Strings may come as lists or as Arrow arrays, nulls and unseen ones among them."""
    frame = strange(models.table(1000, seed=3), "kind")
    y = (frame["amount"] > 100).astype(int)
    compiled, _, rows = both(models.pipeline(logistic()).fit(frame, y), frame)
    listed = msgspec.structs.replace(rows, strings=tuple(column.to_pylist() for column in rows.strings))

    np.testing.assert_array_equal(compiled.encode(listed), compiled.encode(rows))


def test_infrequent_categories_and_indicators_agree() -> None:
    """Infrequent categories share a column, missing numbers get one of their own."""
    X = models.table(3000, seed=4)
    columns = ColumnTransformer(
        [
            ("n", make_pipeline(SimpleImputer(add_indicator=True), StandardScaler()), ["amount", "balance"]),
            (
                "k",
                make_pipeline(
                    SimpleImputer(strategy="most_frequent"),
                    OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=1000),
                ),
                ["kind"],
            ),
        ],
        remainder="passthrough",
    )
    model = Pipeline([("columns", columns), ("model", logistic())]).fit(X, (X["amount"] > 100).astype(int))
    compiled, reference, rows = both(model, strange(models.table(NUM_ROWS, seed=5), "kind"))

    got, expected = compiled.predict(rows), reference.predict(rows)

    assert (np.asarray(got.labels) == np.asarray(expected.labels)).all()
    np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-12)
