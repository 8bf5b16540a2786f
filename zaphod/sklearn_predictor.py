"""The reference engine: the estimator itself, fed the kind of table it was fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from zaphod.columns import Columns
from zaphod.errors import PredictionError
from zaphod.predictor import Predictions, label_dtype
from zaphod.schema import DType, Field, Output, Schema, Task


class SklearnPredictor:
    """Slow on one row (pandas and validation cost milliseconds), right by definition."""

    engine = "sklearn"

    def __init__(self, estimator: BaseEstimator, schema: Schema) -> None:
        self._estimator = estimator
        self._schema = schema

    def predict(self, columns: Columns) -> Predictions:
        """Raises: PredictionError when the estimator does."""
        frame = to_frame(self._schema, columns)
        try:
            return self._predict(frame)
        except Exception as error:  # any error of third-party estimator code is the model's fault, not the caller's
            raise PredictionError(f"Cannot predict: the estimator raised {type(error).__name__}.") from error

    def features(self, columns: Columns) -> NDArray[np.float64]:
        """What the last step of a pipeline sees, shape (n_rows, n_features); of any other estimator the fields.

        Raises: PredictionError when a step does.
        """
        frame, estimator = to_frame(self._schema, columns), self._estimator
        if not isinstance(estimator, Pipeline) or len(estimator) < 2:
            return np.asarray(frame, dtype=np.float64)
        try:
            seen = estimator[:-1].transform(frame)
        except Exception as error:  # as above
            raise PredictionError(f"Cannot prepare: the estimator raised {type(error).__name__}.") from error
        return np.asarray(seen.toarray() if hasattr(seen, "toarray") else seen, dtype=np.float64)

    def _predict(self, frame: pd.DataFrame) -> Predictions:
        estimator, output = self._estimator, self._schema.output
        match output.task:
            case Task.CLASSIFICATION if output.target_classes:
                shares = _by_target(estimator.predict_proba(frame)) if output.has_probabilities else None
                if shares is not None:
                    shares = shares.reshape(len(frame), len(output.probability_names))
                return Predictions(labels=_labels(estimator.predict(frame), output), probabilities=shares)
            case Task.CLASSIFICATION if output.has_probabilities:
                shares = estimator.predict_proba(frame)
                # A model of several targets that was fitted on one gives a list of one.
                probabilities = np.asarray(shares[0] if isinstance(shares, list) else shares, dtype=np.float64)
                return Predictions(labels=_flat(estimator.predict(frame)), probabilities=probabilities)
            case Task.CLASSIFICATION | Task.CLUSTERING:
                return Predictions(labels=_flat(estimator.predict(frame)))
            case Task.REGRESSION:
                values = np.asarray(estimator.predict(frame), dtype=np.float64)
                return Predictions(values=values.reshape(len(frame), len(output.targets)))
            case Task.OUTLIER:
                scores = np.asarray(estimator.decision_function(frame), dtype=np.float64).reshape(-1)
                return Predictions(labels=np.asarray(estimator.predict(frame)), scores=scores)


def _flat(labels: ArrayLike) -> NDArray[np.generic]:
    return np.asarray(labels).reshape(-1)


def _labels(given: Any, output: Output) -> NDArray[np.generic]:  # an array, perhaps a sparse one
    """In the type of the classes: chains give them as floats."""
    labels = np.asarray(given.toarray() if hasattr(given, "toarray") else given)
    return labels.astype(label_dtype(output), copy=False).reshape(len(labels), len(output.targets))


def _by_target(given: Any) -> NDArray[np.float64]:  # a list of arrays or an array
    """Side by side. Where each target has one number a row, it is the chance of 1, and the rest the chance of 0."""
    if isinstance(given, list):
        return np.concatenate(given, axis=1).astype(np.float64, copy=False)
    positive = np.asarray(given, dtype=np.float64)
    return np.stack([1.0 - positive, positive], axis=2).reshape(len(positive), -1)


def to_frame(schema: Schema, columns: Columns) -> pd.DataFrame:
    """float64, and int64 or bool where the field is never null; strings as pandas' `str` with NaN for null."""
    series: dict[str, object] = {}
    for i, field in enumerate(schema.number_fields):
        series[field.name] = columns.numbers[:, i].astype(_number_dtype(field))
    for field, column in zip(schema.string_fields, columns.strings, strict=True):
        values = column if isinstance(column, list) else column.to_pandas()
        series[field.name] = pd.Series(values, dtype="str")
    return pd.DataFrame({name: series[name] for name in schema.names})


def _number_dtype(field: Field) -> type[np.generic]:
    if field.nullable or field.dtype is DType.FLOAT64:
        return np.float64
    return np.bool_ if field.dtype is DType.BOOL else np.int64
