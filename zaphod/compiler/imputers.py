"""Filling in what is missing."""

from __future__ import annotations

import numpy as np
from sklearn.impute import MissingIndicator, SimpleImputer

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Coded, Column, Features, apply_steps
from zaphod.compiler.scope import Scope, TransformConverter
from zaphod.compiler.steps import Equals, Fill, IsMissing, Replace, Step


def _impute(imputer: SimpleImputer, features: Features, scope: Scope) -> Features:
    kept: list[int] = []
    steps: list[tuple[Step, ...]] = []
    columns: list[Column] = list(features.columns)
    for i, (column, statistic) in enumerate(zip(features.columns, imputer.statistics_, strict=True)):
        if _is_nan(statistic) and not imputer.keep_empty_features:
            continue
        kept.append(i)
        if isinstance(column, Coded) and column.is_text:
            columns[i] = _impute_text(imputer, column, statistic, scope)
            steps.append(())
        elif _is_nan(statistic):
            raise NotCompilable("SimpleImputer keeps a feature that was empty in training")
        else:
            steps.append((_fill(imputer.missing_values, float(statistic)),))
    done = apply_steps(scope.graph, Features(tuple(columns[i] for i in kept)), steps)
    if not imputer.add_indicator:
        return done
    if features.is_text:
        raise NotCompilable("SimpleImputer with add_indicator on strings has no converter")
    return Features((*done.columns, *_indicate(imputer.indicator_, features, scope).columns))


def _indicate(indicator: MissingIndicator, features: Features, scope: Scope) -> Features:
    """0 and 1; the columns that had missing values in training, or all."""
    chosen = features.select(indicator.features_)
    if chosen.is_text:
        raise NotCompilable("MissingIndicator on strings has no converter")
    step = IsMissing() if _is_nan(indicator.missing_values) else Equals(float(indicator.missing_values))
    return apply_steps(scope.graph, chosen, [(step,)] * len(chosen)).nameless()


def _impute_text(imputer: SimpleImputer, column: Coded, statistic: object, scope: Scope) -> Coded:
    scope.vocabulary.note(column.field, (statistic, imputer.missing_values))
    missing = (
        np.array([_is_nan(value) for value in column.values])
        if _is_nan(imputer.missing_values) or imputer.missing_values is None
        else column.values == imputer.missing_values
    )
    values = column.values.copy()
    values[missing] = str(statistic)
    return Coded(column.field, values)


def _fill(missing_values: float, value: float) -> Step:
    return Fill(value) if _is_nan(missing_values) else Replace(float(missing_values), value)


def _is_nan(value: object) -> bool:
    return value is None or (isinstance(value, float) and bool(np.isnan(value)))


TRANSFORMERS: dict[type, TransformConverter] = {SimpleImputer: _impute, MissingIndicator: _indicate}
