"""Which nulls the estimator raises on: a graph would go on and give an answer."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.base import BaseEstimator

from zaphod.columns import Columns
from zaphod.errors import PredictionError
from zaphod.schema import DType, Field, Schema
from zaphod.sklearn_predictor import SklearnPredictor


def find_refused_nulls(estimator: BaseEstimator, schema: Schema) -> tuple[str, ...]:
    """Names of nullable fields whose null the estimator raises on, tried one by one on a row made from the schema.

    Empty when it raises on that row as it is: then nothing can be learnt from it.
    """
    reference = SklearnPredictor(estimator, schema)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        if _raises(reference, _row(schema, null=None)):
            return ()
        nullable = [field.name for field in schema.fields if field.nullable]
        return tuple(name for name in nullable if _raises(reference, _row(schema, null=name)))


def _row(schema: Schema, *, null: str | None) -> Columns:
    numbers = [np.nan if field.name == null else _number(field) for field in schema.number_fields]
    return Columns(
        numbers=np.array([numbers], dtype=np.float64).reshape(1, -1),
        strings=tuple([None if field.name == null else _string(field)] for field in schema.string_fields),
    )


def _number(field: Field) -> float:
    """Within the range, and whole where the field is."""
    ends = [end for end in (field.minimum, field.maximum) if end is not None]
    middle = sum(ends) / len(ends) if ends else 1.0
    return middle if field.dtype is DType.FLOAT64 else float(np.floor(middle))


def _string(field: Field) -> str:
    return field.categories[0] if field.categories else ""


def _raises(reference: SklearnPredictor, row: Columns) -> bool:
    try:
        reference.predict(row)
    except PredictionError:
        return True
    return False
