"""scikit-learn to ONNX. Nothing is converted yet: every model is served by scikit-learn itself."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from sklearn.base import BaseEstimator

from zaphod.schema import Schema


class NotCompilable(Exception):  # noqa: N818  # an answer, not a fault
    """Why an estimator has no compiled form."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled model: the bytes of an ONNX file."""

    model: bytes


def compile_model(estimator: BaseEstimator, schema: Schema, *, sample: pd.DataFrame | None = None) -> Compiled:
    """Raises: NotCompilable."""
    raise NotCompilable(f"no converter for {type(estimator).__name__}")
