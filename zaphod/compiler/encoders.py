"""Categories into numbers: each encoder is asked once for every string it can tell apart."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Coded, Column, Features, Number, apply_steps
from zaphod.compiler.scope import Estimator, Scope, TransformConverter
from zaphod.compiler.steps import Fill, equals


@dataclass(frozen=True, slots=True)
class Encode:
    """The encoder's own answer for values of one feature, the others held at their first category.

    first, width: the feature's columns in what the encoder gives.
    """

    encoder: Estimator
    position: int
    first: int
    width: int

    def __call__(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """float64, shape (len(values), width). Raises: ValueError as the encoder does."""
        categories = self.encoder.categories_
        rows = np.empty((len(values), len(categories)), dtype=object)
        for i, known in enumerate(categories):
            rows[:, i] = known[0]
        rows[:, self.position] = values
        with warnings.catch_warnings():
            # It was fitted on a frame and speaks of names, or says that a category is new: both are known here.
            warnings.simplefilter("ignore")
            encoded = self.encoder.transform(rows)
        dense = encoded.toarray() if hasattr(encoded, "toarray") else np.asarray(encoded)
        return dense[:, self.first : self.first + self.width].astype(np.float64)


def _encode(encoder: Estimator, features: Features, scope: Scope) -> Features:
    """Any encoder with `categories_`, one list of categories a column."""
    widths = _widths(encoder)
    starts = np.cumsum([0, *widths])
    columns: list[Column] = []
    for i, column in enumerate(features.columns):
        answer = Encode(encoder, i, int(starts[i]), widths[i])
        if not isinstance(column, Coded):
            columns += _encode_numbers(encoder.categories_[i], answer, column, scope).columns
            continue
        if column.is_text:
            scope.vocabulary.note(column.field, encoder.categories_[i])
        table = _tabulate(answer, column, scope)
        columns += [Coded(column.field, table[:, j]) for j in range(widths[i])]
    return Features(tuple(columns))


def _encode_numbers(categories: NDArray[np.generic], answer: Encode, column: Column, scope: Scope) -> Features:
    """A number that is one of the categories is looked up, as is null; any other is what an unseen one is."""
    keys = np.array(sorted(float(category) for category in categories if category == category))  # not NaN
    if not keys.size:
        raise NotCompilable("an encoder of a column that was empty in training has no converter")
    rows = [_answer_one(answer, value) for value in (*keys, np.nextafter(keys[-1], np.inf), np.nan)]
    if rows[-2] is None:
        if not (isinstance(column, Number) and all(isinstance(step, Fill) for step in column.steps)):
            raise NotCompilable("an encoder that refuses computed numbers it has not seen has no converter")
        scope.allow_only(column.source, keys.tolist())
    # What is refused gets no answer: null by its field, an unseen number as above.
    encoded = np.array([np.full(answer.width, np.nan) if row is None else row for row in rows])
    steps = [
        equals(keys.tolist(), values[:-2].tolist(), default=float(values[-2]), missing=float(values[-1]))
        for values in encoded.T
    ]
    repeated = Features((column,) * len(steps))
    return apply_steps(scope.graph, repeated, [(step,) for step in steps])


def _answer_one(answer: Encode, value: float) -> NDArray[np.float64] | None:
    """None where the encoder raises."""
    try:
        row: NDArray[np.float64] = answer(np.array([value], dtype=np.float64))[0]
    except ValueError:
        return None
    return row


def _widths(encoder: Estimator) -> list[int]:
    """How many columns each feature becomes."""
    match encoder:
        case OneHotEncoder():
            return [int(width) for width in encoder._n_features_outs]
        case TargetEncoder() if encoder.target_type_ == "multiclass":
            return [len(encoder.classes_)] * len(encoder.categories_)
        case _:
            return [1] * len(encoder.categories_)


def _tabulate(answer: Encode, column: Coded, scope: Scope) -> NDArray[np.float64]:
    """One row per code. Codes that the encoder raises on are noted as refused."""
    table = np.full((len(column.values), answer.width), np.nan)
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
