"""What a run says of its data and its models, from what its units have added up."""

from __future__ import annotations

import msgspec
import numpy as np

from batch.predict import Ask
from batch.summary import Agreement, ColumnSum, ErrorSum, Summary
from zaphod.schema import Schema, Task
from zaphod.validation.drift import psi_of_counts


class ColumnQuality(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One field of the model or one of its outputs, over the rows that were scored."""

    name: str
    null_share: float
    mean: float | None = None
    minimum: float | None = None
    maximum: float | None = None


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How far a field or an output is from the training data: population stability index, of a fixed part of the rows.

    Below 0.1 is usually taken as no change, above 0.25 as a large one (Siddiqi 2006).
    """

    name: str
    psi: float
    rows: int


class Metrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Over the rows whose truth is known. log_loss: as scikit-learn's. r2: None when the truth is one value."""

    rows: int
    accuracy: float | None = None
    log_loss: float | None = None
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Champion against challenger, paired: on the rows that both scored.

    mean_distance, largest_distance: between their probabilities (the largest of a row's) or values.
    """

    rows: int
    mean_distance: float
    largest_distance: float
    same_label_share: float | None = None
    champion: Metrics | None = None
    challenger: Metrics | None = None


class Quality(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The part of manifest.json that is about rows, not about files."""

    columns: tuple[ColumnQuality, ...]
    drift: tuple[Drift, ...] = ()
    metrics: Metrics | None = None
    comparison: Comparison | None = None


def quality_of(summary: Summary, ask: Ask) -> Quality:
    """Nothing here costs another pass over the rows."""
    schema = ask.champion.schema
    metrics = _metrics(summary.errors, schema)
    comparison = None
    if summary.agreement is not None:
        theirs = _metrics(summary.challenger_errors, schema)
        comparison = _comparison(summary.agreement, schema, champion=metrics, challenger=theirs)
    return Quality(
        columns=tuple(_column(column) for column in summary.columns),
        drift=_drift(summary, ask),
        metrics=metrics,
        comparison=comparison,
    )


def _column(column: ColumnSum) -> ColumnQuality:
    known = column.rows - column.nulls
    return ColumnQuality(
        name=column.name,
        null_share=column.nulls / column.rows if column.rows else 0.0,
        mean=column.total / known if column.total is not None and known else None,
        minimum=column.minimum,
        maximum=column.maximum,
    )


def _drift(summary: Summary, ask: Ask) -> tuple[Drift, ...]:
    profile = ask.champion.profile
    if profile is None or not summary.drift:
        return ()
    return tuple(
        Drift(
            name=part.name,
            psi=psi_of_counts(np.array(part.counts, dtype=np.int64), np.array(counts, dtype=np.int64)),
            rows=sum(counts),
        )
        for part, counts in zip((*profile.fields, *profile.outputs), summary.drift, strict=True)
    )


def _metrics(errors: ErrorSum | None, schema: Schema) -> Metrics | None:
    if errors is None or not errors.rows:
        return None
    rows = errors.rows
    if schema.output.task is Task.CLASSIFICATION:
        loss = errors.log_loss / rows if schema.output.has_probabilities else None
        return Metrics(rows=rows, accuracy=errors.correct / rows, log_loss=loss)
    spread = errors.truth_squared - errors.truth**2 / rows
    return Metrics(
        rows=rows,
        rmse=float(np.sqrt(errors.squared / rows)),
        mae=errors.absolute / rows,
        r2=1.0 - errors.squared / spread if spread > 0 else None,
    )


def _comparison(
    agreement: Agreement, schema: Schema, *, champion: Metrics | None, challenger: Metrics | None
) -> Comparison:
    rows = max(agreement.rows, 1)
    has_labels = schema.output.task is not Task.REGRESSION
    return Comparison(
        rows=agreement.rows,
        same_label_share=agreement.same_label / rows if has_labels else None,
        mean_distance=agreement.absolute / rows,
        largest_distance=agreement.largest,
        champion=champion,
        challenger=challenger,
    )
