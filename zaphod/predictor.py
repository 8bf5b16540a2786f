"""Columns in, predictions out: the one way to ask a model anything."""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.schema import Output


class Predictions(msgspec.Struct, frozen=True, gc=False):
    """What a model says about n_rows rows, in their order. What the task does not have is None.

    labels: shape (n_rows,), the dtype of the estimator's classes (int64, float64, bool or object of str): classifiers,
        outlier detectors (1 inlier, -1 outlier), clusterers (cluster number); of a classifier of several targets
        (n_rows, n_targets).
    probabilities: float64, shape (n_rows, n_classes), rows sum to 1, columns as `schema.output.classes`; of several
        targets side by side, as `schema.output.target_classes`.
    values: float64, shape (n_rows, n_targets): regressors.
    scores: float64, shape (n_rows,): outlier detectors (lower is more abnormal).
    """

    labels: NDArray[np.generic] | None = None
    probabilities: NDArray[np.float64] | None = None
    values: NDArray[np.float64] | None = None
    scores: NDArray[np.float64] | None = None

    @property
    def num_rows(self) -> int:
        parts = (self.labels, self.probabilities, self.values, self.scores)
        return next((len(part) for part in parts if part is not None), 0)


def label_dtype(output: Output) -> np.dtype[np.generic]:
    """Of a classifier's labels: that of its classes where they are of one type, else object."""
    labels = [label for classes in output.classes_by_target for label in classes]
    kinds = set(map(type, labels))
    return np.array(labels).dtype if len(kinds) == 1 and kinds != {str} else np.dtype(object)


class Predictor(Protocol):
    """A loaded model. Safe to call from several threads at once."""

    engine: str

    def predict(self, columns: Columns) -> Predictions:
        """Raises: PredictionError when the model fails on rows that passed the schema."""
        ...
