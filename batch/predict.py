"""From checked rows to the table that is written: champion, and challenger beside it on the same rows."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batch.model import Model
from batch.rows import Batch, check
from batch.summary import Summary, agreement_of, count_drift, errors_of, summarise
from batch.trial import entities_of, split_rows
from zaphod import outputs
from zaphod.columns import Columns, Decoded
from zaphod.contender import Contender
from zaphod.errors import ConfigError, SchemaMismatchError
from zaphod.monitoring.record import Origin
from zaphod.predictor import Predictions
from zaphod.registry import CHAMPION
from zaphod.trial import Part, Split, Trial, ask_apart, merge
from zaphod.trial import ask as ask_one

CHALLENGER = "challenger_"
PREDICTION_ID = "prediction_id"


@dataclass(frozen=True, slots=True)
class Ask:
    """Whom to ask, and what for. columns: the outputs that are wanted, all when empty. truth: a kept column.

    origin, challenger_origin: by which their records are marked. entity: a column. trial: splits the rows between the
    champion and a challenger of its own, which is not the one beside. shadow: instead, the trial's challenger is asked
    about its rows too, and what it says is recorded and nothing else. with_ids: a column of prediction ids.
    """

    champion: Model
    challenger: Model | None
    columns: tuple[str, ...]
    truth: str | None
    origin: Origin
    challenger_origin: Origin | None = None
    entity: str | None = None
    trial: Trial | None = None
    shadow: bool = False
    with_ids: bool = False


@dataclass(frozen=True, slots=True)
class Predicted:
    """table: kept columns, outputs, versions, ids; one row for each that may be scored.

    parts, entities, split: of the same rows, for the log.
    """

    table: pa.Table
    summary: Summary
    parts: tuple[Part, ...]
    entities: pa.Array | None
    split: Split | None


def predict(
    ask: Ask, batch: Batch, decoded: Decoded, kept: pa.Table, *, watch_drift: bool, call: str = ""
) -> Predicted:
    """decoded: what the champion takes of the batch, at least one row. kept: of all its rows.

    watch_drift: count rows on the bins of the training data. call: with its position in the file, a row's prediction
    id. Raises: ZaphodError.
    """
    model = ask.champion
    entities = entities_of(batch, decoded, ask.entity)
    split = None
    if ask.trial is None:
        parts = [ask_one(Contender(model.predictor, ask.origin), decoded.columns)]
    else:
        split = split_rows(ask.trial, entities, batch.rows[decoded.kept], call=call)
        parts = ask.trial.ask(decoded.columns, split)
    for part in parts:
        if part.error is not None and part.origin.variant == CHAMPION:
            raise part.error
    given = merge(parts, len(decoded.kept))
    summary = summarise(model.schema, model.profile if watch_drift else None, decoded.columns, given)
    if decoded.rejects:
        kept = kept.take(pa.array(decoded.kept))
    table = dict(zip(kept.column_names, kept.columns, strict=True))
    own = _columns(model, given, ask.columns)
    if ask.trial is not None and not ask.shadow:
        own |= _who(parts, len(decoded.kept))
    table |= own
    if ask.with_ids:
        positions = pa.array(batch.rows[decoded.kept]).cast(pa.string())
        table[PREDICTION_ID] = pc.binary_join_element_wise(call, positions, "-")
    truth = kept.column(ask.truth).combine_chunks() if ask.truth is not None else None
    if truth is not None:
        summary = msgspec.structs.replace(summary, errors=errors_of(model.schema, given, truth))
    if ask.challenger is not None:
        asked = _challenge(ask.challenger, model, batch, decoded, watch_drift=watch_drift)
        places = pa.array(asked.places, mask=asked.places < 0)
        # The two have the same outputs: where the challenger takes no row, the champion's columns lend their types.
        theirs = _columns(ask.challenger, asked.predictions, ask.columns) if asked.rows else own
        table |= {f"{CHALLENGER}{name}": column.take(places) for name, column in theirs.items()}
        table[f"{CHALLENGER}version"] = table.pop(f"{CHALLENGER}model_version")
        both = np.flatnonzero(asked.places >= 0)
        matched = _take(asked.predictions, asked.places[both])
        if ask.challenger_origin is not None and len(both):
            parts.append(Part(ask.challenger_origin, both, asked.latency_s, matched))
        summary = msgspec.structs.replace(
            summary,
            challenger_drift=asked.drift,
            agreement=agreement_of(_take(given, both), matched),
            challenger_errors=None
            if truth is None
            else errors_of(ask.challenger.schema, matched, truth.take(pa.array(both))),
        )
    if ask.trial is not None and ask.shadow and split is not None:
        parts += _in_the_shadow(ask.trial, decoded.columns, split)
    return Predicted(pa.table(table), summary, tuple(parts), entities, split)


def _in_the_shadow(trial: Trial, columns: Columns, split: Split) -> list[Part]:
    """What the challenger says of its share of the rows; those on which it fails are a part of their own."""
    rows = np.flatnonzero(split.challenger)
    return ask_apart(trial.challenger, columns, rows=rows) if len(rows) else []


def _who(parts: Sequence[Part], num_rows: int) -> dict[str, pa.Array]:
    """The version and the variant that answered each row."""
    versions = np.zeros(num_rows, dtype=np.int64)
    variants = np.zeros(num_rows, dtype=object)
    for part in parts:
        if part.error is None:
            rows = slice(None) if part.rows is None else part.rows
            versions[rows], variants[rows] = part.origin.version, part.origin.variant
    return {"model_version": pa.array(versions), "variant": pa.array(variants, pa.string())}


def keep_columns(table: pa.Table, kept: pa.Schema | Sequence[str]) -> pa.Table:
    """The columns to carry along, in the schema's types where one is given. Raises: SchemaMismatchError."""
    names = kept.names if isinstance(kept, pa.Schema) else list(kept)
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise SchemaMismatchError(f"Expected a column `{missing[0]}` to keep, got none")
    selected = table.select(names)
    if not isinstance(kept, pa.Schema) or selected.schema.equals(kept):
        return selected
    return pa.table([_cast(selected.column(field.name), field) for field in kept], schema=kept)


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """Says nothing of what is in a cell."""
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise SchemaMismatchError(
            f"Expected `{field.type}` as in other files, got `{column.type}` with values that are none - at "
            f"`{field.name}`"
        ) from None


@dataclass(frozen=True, slots=True)
class _Challenged:
    """places: int64, for each row of the champion's its place in `predictions`, -1 where the challenger refuses it.

    drift: counts on the challenger's profile.
    """

    predictions: Predictions
    places: NDArray[np.int64]
    drift: tuple[tuple[int, ...], ...] = ()
    latency_s: float = 0.0

    @property
    def rows(self) -> int:
        return int((self.places >= 0).sum())


def _challenge(challenger: Model, champion: Model, batch: Batch, decoded: Decoded, *, watch_drift: bool) -> _Challenged:
    if challenger.schema.fields == champion.schema.fields:
        places = np.arange(len(decoded.kept), dtype=np.int64)
        return _ask(challenger, decoded.columns, places, watch_drift=watch_drift)
    theirs = check(challenger.schema, batch)
    places = np.full(batch.table.num_rows, -1, dtype=np.int64)
    places[theirs.kept] = np.arange(len(theirs.kept))
    if not len(theirs.kept):
        return _Challenged(Predictions(), places[decoded.kept])
    return _ask(challenger, theirs.columns, places[decoded.kept], watch_drift=watch_drift)


def _ask(challenger: Model, columns: Columns, places: NDArray[np.int64], *, watch_drift: bool) -> _Challenged:
    began = time.perf_counter()
    predictions = challenger.predictor.predict(columns)
    latency_s = time.perf_counter() - began
    drift = count_drift(challenger.schema, challenger.profile if watch_drift else None, columns, predictions)
    return _Challenged(predictions, places, drift, latency_s)


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
