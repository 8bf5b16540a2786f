"""Categories into numbers: each encoder is asked once for every string it can tell apart."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Coded, Column, Features
from zaphod.compiler.scope import Estimator, Scope, TransformConverter

Encode: TypeAlias = Callable[[NDArray[np.generic]], NDArray[np.float64]]


def _encode(encoder: Estimator, features: Features, scope: Scope) -> Features:
    """Any encoder with `categories_`, one list of categories a column."""
    widths = _widths(encoder)
    starts = np.cumsum([0, *widths])
    columns: list[Column] = []
    for i, column in enumerate(features.columns):
        if not isinstance(column, Coded):
            raise NotCompilable(f"{type(encoder).__name__} on numbers has no converter")
        if column.is_text:
            scope.vocabulary.note(column.field, encoder.categories_[i])
        table = _tabulate(_encode_column(encoder, i, slice(starts[i], starts[i + 1])), column, widths[i], scope)
        columns += [Coded(column.field, table[:, j]) for j in range(widths[i])]
    return Features(tuple(columns))


def _widths(encoder: Estimator) -> list[int]:
    """How many columns each feature becomes."""
    match encoder:
        case OneHotEncoder():
            return [int(width) for width in encoder._n_features_outs]
        case TargetEncoder() if encoder.target_type_ == "multiclass":
            raise NotCompilable("TargetEncoder for more than two classes has no converter")
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
