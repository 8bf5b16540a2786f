"""What a run saw, added up unit by unit: quality of the columns, drift, errors where the truth is known."""

from __future__ import annotations

import functools
from collections.abc import Iterable

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.predictor import Predictions
from zaphod.schema import Schema, Task
from zaphod.validation.profile import Profile, count_columns, count_outputs

# For the histograms of drift, of every fourth batch: all rows would cost a fifth of the run.
_DRIFT_ROWS = 4_096

# Probabilities are not let nearer to 0 than this for the logarithm, as scikit-learn's log_loss does for float64.
_EPSILON = float(np.finfo(np.float64).eps)


class ColumnSum(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of one column. total, minimum and maximum: of a number column's known values."""

    name: str
    rows: int
    nulls: int
    total: float | None = None
    minimum: float | None = None
    maximum: float | None = None


class ErrorSum(msgspec.Struct, frozen=True, kw_only=True):
    """Of the rows whose truth is known: sums that the metrics are made of. Those of the other task are 0."""

    rows: int
    correct: int = 0
    log_loss: float = 0.0
    squared: float = 0.0
    absolute: float = 0.0
    truth: float = 0.0
    truth_squared: float = 0.0


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """Champion and challenger on the rows that both scored. absolute: summed distance of probabilities or values."""

    rows: int
    same_label: int
    absolute: float
    largest: float


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Of one unit, or of several.

    drift: counts on the profile's bins, fields then outputs, of a fixed part of the rows; empty without a profile.
    challenger_drift: likewise, on the profile of the challenger.
    """

    columns: tuple[ColumnSum, ...]
    drift: tuple[tuple[int, ...], ...] = ()
    challenger_drift: tuple[tuple[int, ...], ...] = ()
    errors: ErrorSum | None = None
    challenger_errors: ErrorSum | None = None
    agreement: Agreement | None = None


def summarise(schema: Schema, profile: Profile | None, columns: Columns, predictions: Predictions) -> Summary:
    """Of one batch: its columns and outputs, and its first rows on the profile's bins."""
    # A row of the turned matrix is summed and compared several times faster than a column of it.
    turned = np.ascontiguousarray(columns.numbers.T)
    sums = [_sum(field.name, turned[i]) for i, field in enumerate(schema.number_fields)]
    for field, values in zip(schema.string_fields, columns.strings, strict=True):
        nulls = values.null_count if isinstance(values, pa.Array) else values.count(None)
        sums.append(ColumnSum(name=field.name, rows=columns.num_rows, nulls=nulls))
    sums += [_sum(name, np.ascontiguousarray(values)) for name, values in _outputs(schema, predictions)]
    return Summary(columns=tuple(sums), drift=count_drift(schema, profile, columns, predictions))


def count_drift(
    schema: Schema, profile: Profile | None, columns: Columns, predictions: Predictions
) -> tuple[tuple[int, ...], ...]:
    """The first rows on the profile's bins, fields then outputs; empty without a profile."""
    if profile is None:
        return ()
    head = np.arange(min(_DRIFT_ROWS, columns.num_rows))
    counts = [*count_columns(profile, schema, columns.take(head)), *count_outputs(profile, schema, _head(predictions))]
    return tuple(tuple(each.tolist()) for each in counts)


def errors_of(schema: Schema, predictions: Predictions, truth: pa.Array) -> ErrorSum:
    """truth: of the same rows, null where it is not known; for a classifier in the type of its classes."""
    known = np.asarray(truth.is_valid())
    if schema.output.task is Task.REGRESSION and predictions.values is not None:
        real = truth.cast(pa.float64()).to_numpy(zero_copy_only=False)[known]
        distance = predictions.values[known, 0] - real
        return ErrorSum(
            rows=int(known.sum()),
            squared=float(distance @ distance),
            absolute=float(np.abs(distance).sum()),
            truth=float(real.sum()),
            truth_squared=float(real @ real),
        )
    classes = [str(label) for label in schema.output.classes]
    places = {label: i for i, label in enumerate(classes)}
    text = truth.cast(pa.string()).to_pylist()
    codes = np.array([places.get(value, -1) for value in text])[known]
    assert predictions.labels is not None
    labels = np.array([places.get(str(label), -2) for label in predictions.labels.tolist()])[known]
    loss = 0.0
    if predictions.probabilities is not None:
        chance = np.where(codes >= 0, predictions.probabilities[known, np.maximum(codes, 0)], 0.0)
        loss = float(-np.log(np.clip(chance, _EPSILON, 1.0)).sum())
    return ErrorSum(rows=int(known.sum()), correct=int((labels == codes).sum()), log_loss=loss)


def agreement_of(champion: Predictions, challenger: Predictions) -> Agreement:
    """Of the same rows."""
    rows = len(next(part for part in (champion.labels, champion.values) if part is not None))
    same = 0
    if champion.labels is not None and challenger.labels is not None:
        # Of several targets a row is the same where all its labels are.
        same = int((champion.labels == challenger.labels).reshape(rows, -1).all(axis=1).sum()) if rows else 0
    pairs = ((champion.probabilities, challenger.probabilities), (champion.values, challenger.values))
    for one, other in pairs:
        if one is not None and other is not None:
            # Of two classes one probability says all; of several the largest distance of a row counts.
            distance = np.abs(one - other).max(axis=1)
            return Agreement(
                rows=rows, same_label=same, absolute=float(distance.sum()), largest=float(distance.max(initial=0.0))
            )
    return Agreement(rows=rows, same_label=same, absolute=0.0, largest=0.0)


def add_up(summaries: Iterable[Summary]) -> Summary | None:
    """None of nothing."""
    parts = list(summaries)
    return functools.reduce(_add, parts) if parts else None


def _add(one: Summary, other: Summary) -> Summary:
    return Summary(
        columns=tuple(_add_columns(a, b) for a, b in zip(one.columns, other.columns, strict=True)),
        drift=_add_counts(one.drift, other.drift),
        challenger_drift=_add_counts(one.challenger_drift, other.challenger_drift),
        errors=_add_errors(one.errors, other.errors),
        challenger_errors=_add_errors(one.challenger_errors, other.challenger_errors),
        agreement=_add_agreement(one.agreement, other.agreement),
    )


def _add_counts(one: tuple[tuple[int, ...], ...], other: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    if not one or not other:
        return one or other
    return tuple(tuple(x + y for x, y in zip(a, b, strict=True)) for a, b in zip(one, other, strict=True))


def _add_columns(one: ColumnSum, other: ColumnSum) -> ColumnSum:
    return ColumnSum(
        name=one.name,
        rows=one.rows + other.rows,
        nulls=one.nulls + other.nulls,
        total=None if one.total is None else one.total + (other.total or 0.0),
        minimum=min((each for each in (one.minimum, other.minimum) if each is not None), default=None),
        maximum=max((each for each in (one.maximum, other.maximum) if each is not None), default=None),
    )


def _add_errors(one: ErrorSum | None, other: ErrorSum | None) -> ErrorSum | None:
    if one is None or other is None:
        return one or other
    return ErrorSum(**{name: getattr(one, name) + getattr(other, name) for name in ErrorSum.__struct_fields__})


def _add_agreement(one: Agreement | None, other: Agreement | None) -> Agreement | None:
    if one is None or other is None:
        return one or other
    return Agreement(
        rows=one.rows + other.rows,
        same_label=one.same_label + other.same_label,
        absolute=one.absolute + other.absolute,
        largest=max(one.largest, other.largest),
    )


def _sum(name: str, values: NDArray[np.float64]) -> ColumnSum:
    known, total = values, values.sum()
    if np.isnan(total):
        known = values[~np.isnan(values)]
        total = known.sum()
    return ColumnSum(
        name=name,
        rows=len(values),
        nulls=len(values) - len(known),
        total=float(total),
        minimum=float(known.min()) if len(known) else None,
        maximum=float(known.max()) if len(known) else None,
    )


def _outputs(schema: Schema, predictions: Predictions) -> Iterable[tuple[str, NDArray[np.float64]]]:
    """Numbers that the model gave, under the names they have in the predictions."""
    if predictions.probabilities is not None:
        yield from zip(schema.output.probability_names, predictions.probabilities.T, strict=True)
    if predictions.values is not None:
        yield from zip(schema.output.value_names, predictions.values.T, strict=True)
    if predictions.scores is not None:
        yield "score", predictions.scores


def _head(predictions: Predictions) -> Predictions:
    def cut(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        return None if values is None else values[:_DRIFT_ROWS]

    labels = predictions.labels
    return Predictions(
        labels=None if labels is None else labels[:_DRIFT_ROWS],
        probabilities=cut(predictions.probabilities),
        values=cut(predictions.values),
        scores=cut(predictions.scores),
    )
