"""From checked rows to the table that is written: champion, and challenger beside it on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batch.model import Model
from batch.rows import Batch, check
from batch.summary import Summary, agreement_of, count_drift, errors_of, summarise
from zaphod import outputs
from zaphod.columns import Columns, Decoded
from zaphod.errors import ConfigError, SchemaMismatchError
from zaphod.predictor import Predictions

CHALLENGER = "challenger_"


@dataclass(frozen=True, slots=True)
class Ask:
    """Whom to ask, and what for. columns: the outputs that are wanted, all when empty. truth: a kept column."""

    champion: Model
    challenger: Model | None
    columns: tuple[str, ...]
    truth: str | None


@dataclass(frozen=True, slots=True)
class Predicted:
    """table: kept columns, outputs, versions; one row for each that may be scored."""

    table: pa.Table
    summary: Summary


def predict(ask: Ask, batch: Batch, decoded: Decoded, kept: pa.Table) -> Predicted:
    """decoded: what the champion takes of the batch, at least one row. kept: of all its rows. Raises: ZaphodError."""
    model = ask.champion
    given = model.predictor.predict(decoded.columns)
    summary = summarise(model.schema, model.profile, decoded.columns, given)
    if decoded.rejects:
        kept = kept.take(pa.array(decoded.kept))
    table = dict(zip(kept.column_names, kept.columns, strict=True))
    own = _columns(model, given, ask.columns)
    table |= own
    truth = kept.column(ask.truth).combine_chunks() if ask.truth is not None else None
    if truth is not None:
        summary = msgspec.structs.replace(summary, errors=errors_of(model.schema, given, truth))
    if ask.challenger is not None:
        asked = _challenge(ask.challenger, model, batch, decoded)
        places = pa.array(asked.places, mask=asked.places < 0)
        # The two have the same outputs: where the challenger takes no row, the champion's columns lend their types.
        theirs = _columns(ask.challenger, asked.predictions, ask.columns) if asked.rows else own
        table |= {f"{CHALLENGER}{name}": column.take(places) for name, column in theirs.items()}
        table[f"{CHALLENGER}version"] = table.pop(f"{CHALLENGER}model_version")
        both = np.flatnonzero(asked.places >= 0)
        matched = _take(asked.predictions, asked.places[both])
        summary = msgspec.structs.replace(
            summary,
            challenger_drift=asked.drift,
            agreement=agreement_of(_take(given, both), matched),
            challenger_errors=None
            if truth is None
            else errors_of(ask.challenger.schema, matched, truth.take(pa.array(both))),
        )
    return Predicted(table=pa.table(table), summary=summary)


def keep_columns(table: pa.Table, kept: pa.Schema | Sequence[str]) -> pa.Table:
    """The columns to carry along, in the schema's types where one is given. Raises: SchemaMismatchError."""
    names = kept.names if isinstance(kept, pa.Schema) else list(kept)
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise SchemaMismatchError(f"Expected a column `{missing[0]}` to keep, got none")
    selected = table.select(names)
    try:
        return selected.cast(kept) if isinstance(kept, pa.Schema) else selected
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatchError(f"Expected columns to keep of one type in all files, got others: {error}") from error


@dataclass(frozen=True, slots=True)
class _Challenged:
    """places: int64, for each row of the champion's its place in `predictions`, -1 where the challenger refuses it.

    drift: counts on the challenger's profile.
    """

    predictions: Predictions
    places: NDArray[np.int64]
    drift: tuple[tuple[int, ...], ...] = ()

    @property
    def rows(self) -> int:
        return int((self.places >= 0).sum())


def _challenge(challenger: Model, champion: Model, batch: Batch, decoded: Decoded) -> _Challenged:
    if challenger.schema.fields == champion.schema.fields:
        return _ask(challenger, decoded.columns, np.arange(len(decoded.kept), dtype=np.int64))
    theirs = check(challenger.schema, batch)
    places = np.full(batch.table.num_rows, -1, dtype=np.int64)
    places[theirs.kept] = np.arange(len(theirs.kept))
    if not len(theirs.kept):
        return _Challenged(Predictions(), places[decoded.kept])
    return _ask(challenger, theirs.columns, places[decoded.kept])


def _ask(challenger: Model, columns: Columns, places: NDArray[np.int64]) -> _Challenged:
    predictions = challenger.predictor.predict(columns)
    drift = count_drift(challenger.schema, challenger.profile, columns, predictions)
    return _Challenged(predictions, places, drift)


def _columns(model: Model, predictions: Predictions, wanted: Sequence[str]) -> dict[str, pa.Array]:
    """Raises: ConfigError when the model has no such output."""
    table = outputs.to_arrow(model.schema, predictions)
    strange = [name for name in wanted if name not in table.column_names]
    if strange:
        raise ConfigError(f"Expected columns among {table.column_names}, got {strange} - at `columns`")
    chosen = {name: table.column(name) for name in (wanted or table.column_names)}
    return chosen | {"model_version": pa.repeat(pa.scalar(model.version, pa.int64()), table.num_rows)}


def _take(predictions: Predictions, rows: NDArray[np.int64]) -> Predictions:
    def cut(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        return None if values is None else values[rows]

    labels = predictions.labels
    return Predictions(
        labels=None if labels is None else labels[rows],
        probabilities=cut(predictions.probabilities),
        values=cut(predictions.values),
        scores=cut(predictions.scores),
    )
