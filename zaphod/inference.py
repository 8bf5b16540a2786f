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
        return _infer_classes(estimator, head)
    if is_regressor(estimator):
        values = np.asarray(estimator.predict(head))
        return Output(task=Task.REGRESSION, targets=_target_names(1 if values.ndim == 1 else values.shape[1]))
    if is_outlier_detector(estimator):
        return Output(task=Task.OUTLIER)
    if is_clusterer(estimator):
        return Output(task=Task.CLUSTERING)
    raise PackagingError(
        f"Cannot package {type(estimator).__name__}: it is no classifier, regressor, outlier detector or clusterer."
    )


def _infer_classes(estimator: BaseEstimator, head: pd.DataFrame) -> Output:
    has_probabilities = hasattr(estimator, "predict_proba")
    labels = estimator.predict(head)
    num_targets = 1 if np.ndim(labels) == 1 else labels.shape[1]
    classes = estimator.classes_
    is_by_target = isinstance(classes, list) and np.ndim(classes[0]) > 0
    if not (is_by_target or num_targets > 1):
        return Output(
            task=Task.CLASSIFICATION, classes=tuple(np.asarray(classes).tolist()), has_probabilities=has_probabilities
        )
    # Where labels are given as flags, `classes_` counts the targets.
    given = classes if is_by_target else [np.array([0, 1])] * num_targets
    by_target = tuple(tuple(np.asarray(one).tolist()) for one in given)
    if num_targets == 1:
        return Output(task=Task.CLASSIFICATION, classes=by_target[0], has_probabilities=has_probabilities)
    return Output(
        task=Task.CLASSIFICATION,
        targets=_target_names(num_targets),
        target_classes=by_target,
        has_probabilities=has_probabilities,
    )


def _target_names(num_targets: int) -> tuple[str, ...]:
    return ("target",) if num_targets == 1 else tuple(f"target_{i}" for i in range(num_targets))
