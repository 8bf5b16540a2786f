"""From a fitted estimator and a sample of what it takes to the schema that every arm checks by."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, is_classifier, is_clusterer, is_outlier_detector, is_regressor

from zaphod.errors import PackagingError
from zaphod.schema import DType, Field, Output, Schema, Task

_MAX_CATEGORIES = 1000


def infer_schema(estimator: BaseEstimator, sample: pd.DataFrame, *, nullable: Collection[str] = ()) -> Schema:
    """Fields from the sample's columns and dtypes, the output from the estimator.

    Raises: PackagingError when a column's dtype or the estimator's kind has no counterpart.
    """
    return Schema(fields=infer_fields(sample, nullable=nullable), output=_infer_output(estimator, sample))


def infer_fields(sample: pd.DataFrame, *, nullable: Collection[str] = ()) -> tuple[Field, ...]:
    """One field a column: ranges and categories are what the sample holds.

    Raises: PackagingError.
    """
    unknown = set(nullable) - set(sample.columns)
    if unknown:
        raise PackagingError(
            f"Cannot make {sorted(unknown)} nullable: the sample has no such columns. Check the names."
        )
    return tuple(_infer_field(sample[column], nullable=column in nullable) for column in sample.columns)


def _infer_field(column: pd.Series, *, nullable: bool) -> Field:
    name, kind = str(column.name), column.dtype
    nullable = nullable or bool(column.isna().any())
    if isinstance(kind, pd.CategoricalDtype):
        kind = column.cat.categories.dtype
    if pd.api.types.is_bool_dtype(kind):
        return Field(name=name, dtype=DType.BOOL, nullable=nullable)
    if pd.api.types.is_numeric_dtype(kind):
        dtype = DType.INT64 if pd.api.types.is_integer_dtype(kind) else DType.FLOAT64
        values = column.dropna()
        low, high = (float(values.min()), float(values.max())) if len(values) else (None, None)
        return Field(name=name, dtype=dtype, nullable=nullable, minimum=low, maximum=high)
    if pd.api.types.is_string_dtype(kind) or kind == np.dtype(object):
        values = column.dropna()
        if not all(isinstance(value, str) for value in values):
            raise PackagingError(f"Expected strings, got a mixture of types - at column `{name}`")
        categories = tuple(sorted(set(values)))
        return Field(
            name=name,
            dtype=DType.STRING,
            nullable=nullable,
            categories=categories if len(categories) <= _MAX_CATEGORIES else None,
        )
    raise PackagingError(f"Expected numbers, booleans or strings, got {kind} - at column `{name}`. Convert it first.")


def _infer_output(estimator: BaseEstimator, sample: pd.DataFrame) -> Output:
    head = sample.head(5)
    if is_classifier(estimator):
        classes = np.asarray(estimator.classes_).tolist()
        if classes and isinstance(classes[0], list):
            raise PackagingError(
                "Cannot package a multi-output classifier: one label a row is served. Package one each."
            )
        return Output(
            task=Task.CLASSIFICATION, classes=tuple(classes), has_probabilities=hasattr(estimator, "predict_proba")
        )
    if is_regressor(estimator):
        values = np.asarray(estimator.predict(head))
        num_targets = 1 if values.ndim == 1 else values.shape[1]
        names = ("target",) if num_targets == 1 else tuple(f"target_{i}" for i in range(num_targets))
        return Output(task=Task.REGRESSION, targets=names)
    if is_outlier_detector(estimator):
        return Output(task=Task.OUTLIER)
    if is_clusterer(estimator):
        return Output(task=Task.CLUSTERING)
    raise PackagingError(
        f"Cannot package {type(estimator).__name__}: it is no classifier, regressor, outlier detector or clusterer."
    )
