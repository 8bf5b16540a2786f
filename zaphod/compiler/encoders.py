"""Categories into numbers: each encoder is asked once for every string it can tell apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Coded, Column, Features, apply_steps
from zaphod.compiler.scope import Estimator, Scope, TransformConverter
from zaphod.compiler.steps import equals

Encode: TypeAlias = Callable[[NDArray[np.generic]], NDArray[np.float64]]


def _encode(encoder: Estimator, features: Features, scope: Scope) -> Features:
    """Any encoder with `categories_`, one list of categories a column."""
    widths = _widths(encoder)
    starts = np.cumsum([0, *widths])
    columns: list[Column] = []
    for i, column in enumerate(features.columns):
        answer = _encode_column(encoder, i, slice(starts[i], starts[i + 1]))
        if not isinstance(column, Coded):
            columns += _encode_numbers(encoder.categories_[i], answer, column, scope).columns
            continue
        if column.is_text:
            scope.vocabulary.note(column.field, encoder.categories_[i])
        table = _tabulate(answer, column, widths[i], scope)
        columns += [Coded(column.field, table[:, j]) for j in range(widths[i])]
    return Features(tuple(columns))


def _encode_numbers(categories: NDArray[np.generic], answer: Encode, column: Column, scope: Scope) -> Features:
    """A number that is one of the categories is looked up, as is null; any other is what an unseen one is."""
    keys = np.array(sorted(float(category) for category in categories if category == category))  # not NaN
    unseen = float(keys[-1] * 2 + 1.5) if keys.size else 0.5
    try:
        encoded = answer(np.array([*keys, unseen, np.nan], dtype=np.float64))
    except ValueError as error:
        raise NotCompilable("an encoder that refuses numbers it has not seen has no converter") from error
    steps = [
        equals(keys.tolist(), values[:-2].tolist(), default=float(values[-2]), missing=float(values[-1]))
        for values in encoded.T
    ]
    repeated = Features((column,) * len(steps))
    return apply_steps(scope.graph, repeated, [(step,) for step in steps])


def _widths(encoder: Estimator) -> list[int]:
    """How many columns each feature becomes."""
    match encoder:
        case OneHotEncoder():
            return [int(width) for width in encoder._n_features_outs]
        case TargetEncoder() if encoder.target_type_ == "multiclass":
            return [len(encoder.classes_)] * len(encoder.categories_)
        case _:
            return [1] * len(encoder.categories_)


def _encode_column(encoder: Estimator, position: int, output: slice) -> Encode:
    """The encoder's own answer for values of one feature, the others held at their first category."""

    def answer(values: NDArray[np.generic]) -> NDArray[np.float64]:
        rows = np.empty((len(values), len(encoder.categories_)), dtype=object)
        for i, categories in enumerate(encoder.categories_):
            rows[:, i] = categories[0]
        rows[:, position] = values
        with warnings.catch_warnings():
            # It was fitted on a frame and speaks of names, or says that a category is new: both are known here.
            warnings.simplefilter("ignore")
            encoded = encoder.transform(rows)
        dense = encoded.toarray() if hasattr(encoded, "toarray") else np.asarray(encoded)
        return dense[:, output].astype(np.float64)

    return answer


def _tabulate(answer: Encode, column: Coded, width: int, scope: Scope) -> NDArray[np.float64]:
    """One row per code. Codes that the encoder raises on are noted as refused."""
    table = np.full((len(column.values), width), np.nan)
    waiting = [np.arange(len(column.values))]
    while waiting:
        codes = waiting.pop()
        try:
            table[codes] = answer(column.values[codes])
        except ValueError:
            if len(codes) == 1:
                scope.refuse(column.field, codes)
            else:
                half = len(codes) // 2
                waiting += [codes[:half], codes[half:]]
    return table


TRANSFORMERS: dict[type, TransformConverter] = {OneHotEncoder: _encode, OrdinalEncoder: _encode, TargetEncoder: _encode}
