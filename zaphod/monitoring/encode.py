"""From calls to the log's tables: what is done for each row is done by numpy and Arrow."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from zaphod import outputs
from zaphod.columns import to_arrow
from zaphod.monitoring.gather import Gathered, join_predictions, nullable
from zaphod.monitoring.policy import Hasher, apply
from zaphod.monitoring.record import Arm, Call, Origin, Status
from zaphod.schema import LogPolicy

LOG = "log"
FEATURE = "feature."
OUTPUT = "output."

# As types: so that a segment without a single bucket or error has the same columns as all others.
_WORD = pa.dictionary(pa.int32(), pa.string())
_TIME = pa.timestamp("us", tz="UTC")


class RecordEncoder:
    """Applies the policy of fields and entity: nothing it gives back holds what may not leave the process."""

    def __init__(self, hasher: Hasher, *, entity: LogPolicy, features: bool) -> None:
        self._hasher = hasher
        self._entity = entity
        self._features = features
        self._open: dict[tuple[int, int, bool, bool], Gathered] = {}

    def add(self, items: Sequence[Call]) -> None:
        """Calls in any order."""
        first, last = items[0], items[-1]
        hour = int(first.served_s // 3600)
        # The common case, without a look at each: calls come in the order of time, nearly.
        if hour == last.served_s // 3600 and all(
            call.origin is first.origin and call.predictions is not None for call in items
        ):
            self._gathered((id(first.origin), hour, True, True), first).add(items)
            return
        groups: dict[tuple[int, int, bool, bool], list[Call]] = {}
        for call in items:
            key = (id(call.origin), int(call.served_s // 3600), call.status is Status.OK, call.columns is not None)
            group = groups.get(key)
            if group is None:
                groups[key] = [call]
            else:
                group.append(call)
        for key, calls in groups.items():
            self._gathered(key, calls[0]).add(calls)

    def _gathered(self, key: tuple[int, int, bool, bool], call: Call) -> Gathered:
        gathered = self._open.get(key)
        if gathered is None:
            gathered = self._open[key] = Gathered(call.origin, predicted=key[2])
        return gathered

    def take(self) -> list[tuple[str, Callable[[], pa.Table]]]:
        """All that was added, for `log/<model>/date=…/hour=…`; empties the encoder."""
        gathered, self._open = self._open, {}
        return [
            (f"{LOG}/{each.origin.model}/{hour_folder(hour)}", functools.partial(self._table, each))
            for (_, hour, _, _), each in gathered.items()
        ]

    def _table(self, gathered: Gathered) -> pa.Table:
        origin, total, ok = gathered.origin, gathered.num_rows, gathered.predicted
        counts = np.array(gathered.counts, dtype=np.int64)
        entities = gathered.entities.array()
        known = entities.is_valid()
        times = (np.array(gathered.times) * 1e6).astype(np.int64)
        ids = pa.array(gathered.ids, pa.string())
        if origin.arm == Arm.BATCH:
            ids = ids.dictionary_encode()  # one for thousands of rows
        table: dict[str, pa.Array] = {
            "call": _repeated(ids, np.array(gathered.id_counts), total),
            "row": nullable(gathered.rows, pa.int64()),
            "time": pa.array(np.repeat(times, counts)).cast(_TIME),
            "arm": constant(origin.arm, total),
            "model": constant(origin.model, total),
            "version": pa.repeat(pa.scalar(origin.version, pa.int32()), total),
            "bundle": constant(origin.bundle_sha256, total),
            "experiment": constant(origin.experiment, total),
            "phase": pa.repeat(pa.scalar(origin.phase, pa.int32()), total),
            "mode": constant(origin.mode, total),
            "variant": constant(origin.variant, total),
            "reason": _reasons(origin, known),
            "bucket": nullable(gathered.buckets, pa.int32()),
            "answered": pa.repeat(pa.scalar(origin.answered, pa.bool_()), total),
            "entity": self._shown(entities),
            "status": constant(Status.OK, total) if ok else _words(gathered.statuses, counts, total),
            "error": constant(None, total) if ok else _words(gathered.errors, counts, total),
            "error_field": constant(None, total) if ok else _words(gathered.error_fields, counts, total),
            "latency_s": pa.array(np.repeat(np.array(gathered.latencies), counts)),
        }
        if self._features:
            table |= self._feature_columns(gathered)
        if gathered.predictions:
            outs = outputs.to_arrow(origin.schema, join_predictions(gathered.predictions))
            table |= {OUTPUT + name: column for name, column in zip(outs.column_names, outs.columns, strict=True)}
        return pa.table(table)

    def _shown(self, entities: pa.Array) -> pa.Array:
        match self._entity:
            case LogPolicy.KEEP:
                return entities
            case LogPolicy.HASH:
                return self._hasher.texts(entities)
            case LogPolicy.DROP:
                return pa.nulls(len(entities), pa.string())

    def _feature_columns(self, gathered: Gathered) -> dict[str, pa.Array]:
        schema, columns = gathered.origin.schema, gathered.columns
        if columns is None:
            return {}
        table = to_arrow(schema, columns)
        made: dict[str, pa.Array] = {}
        for field in schema.fields:
            values = apply(field, table.column(field.name).combine_chunks(), self._hasher)
            if values is not None:
                made[FEATURE + field.name] = values
        return made


def hour_folder(hour: int) -> str:
    """hour: since the epoch, in UTC."""
    moment = datetime.datetime.fromtimestamp(hour * 3600, tz=datetime.UTC)
    return f"date={moment:%Y-%m-%d}/hour={moment:%H}"


def constant(value: str | None, total: int) -> pa.Array:
    """The same word in every row."""
    if value is None:
        return pa.nulls(total, _WORD)
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(total, dtype=np.int32)), pa.array([value], pa.string()))


def _reasons(origin: Origin, known: pa.Array) -> pa.Array:
    """Why this variant: by the entity or, where there is none, by the prediction's id; or because both score."""
    if origin.experiment is None or origin.mode != "ab" or origin.fallback:
        return constant("fallback" if origin.fallback else origin.mode, len(known))
    words = pa.array(["prediction_id", "entity"], pa.string())
    return pa.DictionaryArray.from_arrays(known.cast(pa.int32()), words)


def _words(values: Sequence[str | None], counts: np.ndarray[tuple[int], np.dtype[np.int64]], total: int) -> pa.Array:
    if len(set(values)) == 1:
        return constant(values[0], total)
    return _repeated(pa.array(values, pa.string()).dictionary_encode(), counts, total)


def _repeated(values: pa.Array, counts: np.ndarray[tuple[int], np.dtype[np.int64]], total: int) -> pa.Array:
    if len(values) == total:
        return values
    return values.take(pa.array(np.repeat(np.arange(len(values)), counts)))
