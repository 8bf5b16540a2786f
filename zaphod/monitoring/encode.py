"""From calls to the log's tables: what is done for each row is done by numpy and Arrow."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from zaphod import outputs
from zaphod.monitoring.gather import Buffers, Gathered
from zaphod.monitoring.policy import Hasher, apply
from zaphod.monitoring.record import Arm, Call, Origin, Single, Singles, Status
from zaphod.schema import LogPolicy

_Key: TypeAlias = tuple[type, int, int, bool, bool, bool]

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
        self._open: dict[_Key, Gathered] = {}
        self._buffers = Buffers()
        # Where single rows of an origin and an hour go: the next is nearly always alike.
        self._origin: Origin | None = None
        self._begin_s = self._end_s = 0.0
        self._add_one: Callable[[Single], None]

    def add(self, item: Call | Single | Singles) -> None:
        """Calls in any order."""
        if not isinstance(item, Single):
            self._gathered(item).add(item)
            return
        if item.origin is not self._origin or not self._begin_s <= item.served_s < self._end_s:
            self._add_one = self._gathered(item).adder()
            self._origin = item.origin
            self._begin_s = item.served_s // 3600 * 3600
            self._end_s = self._begin_s + 3600
        self._add_one(item)

    def _gathered(self, item: Call | Single | Singles) -> Gathered:
        served_s = item.served_s[0] if isinstance(item, Singles) else item.served_s
        # Calls that have other parts make another table.
        key = (
            type(item),
            id(item.origin),
            int(served_s // 3600),
            item.predictions is None,
            item.columns is None,
            isinstance(item.id, str),
        )
        gathered = self._open.get(key)
        if gathered is None:
            gathered = self._open[key] = Gathered(item, self._buffers, features=self._features)
        return gathered

    def take(self) -> list[tuple[str, Callable[[], pa.Table]]]:
        """All that was added, for `log/<model>/date=…/hour=…`; empties the encoder."""
        gathered, self._open, self._origin = self._open, {}, None
        self._buffers.sweep()
        return [
            (f"{LOG}/{each.origin.model}/{hour_folder(key[2])}", functools.partial(self._table, each))
            for key, each in gathered.items()
        ]

    def _table(self, gathered: Gathered) -> pa.Table:
        origin, total = gathered.origin, gathered.num_rows
        entities = gathered.entities.array()
        ids = gathered.ids.array()
        if not gathered.by_row and len(ids) < total:
            ids = _spread(gathered, ids)
        # One for thousands of rows in this arm; one for each in the others.
        ids = ids.dictionary_encode() if origin.arm == Arm.BATCH else ids.cast(pa.string())
        nothing, answered = constant(None, total), gathered.predicted
        table: dict[str, pa.Array] = {
            "call": ids,
            "row": gathered.row_numbers(),
            "time": pa.array(gathered.spread((gathered.times * 1e6).astype(np.int64))).cast(_TIME),
            "arm": constant(origin.arm, total),
            "model": constant(origin.model, total),
            "version": pa.array(np.full(total, origin.version, dtype=np.int32)),
            "bundle": constant(origin.bundle_sha256, total),
            "experiment": constant(origin.experiment, total),
            "phase": pa.repeat(pa.scalar(origin.phase, pa.int32()), total),
            "mode": constant(origin.mode, total),
            "variant": constant(origin.variant, total),
            "reason": _reasons(origin, entities),
            "bucket": gathered.bucket_numbers().cast(pa.int32()),
            "answered": pa.repeat(pa.scalar(origin.answered, pa.bool_()), total),
            "entity": self._shown(entities),
            "status": constant(Status.OK, total) if answered else _spread(gathered, gathered.statuses),
            "error": nothing if answered else _spread(gathered, gathered.errors),
            "error_field": nothing if answered else _spread(gathered, gathered.error_fields),
            "latency_s": pa.array(gathered.spread(gathered.latencies), from_pandas=True),
        }
        if self._features:
            table |= self._feature_columns(gathered)
        predictions = gathered.predictions
        if predictions is not None:
            outs = outputs.to_arrow(origin.schema, predictions)
            table |= {OUTPUT + name: column for name, column in zip(outs.column_names, outs.columns, strict=True)}
        return pa.table(table)

    def _shown(self, entities: pa.Array) -> pa.Array:
        match self._entity:
            case LogPolicy.KEEP:
                return entities
            case LogPolicy.HASH if entities.null_count == len(entities):
                return constant(None, len(entities))
            case LogPolicy.HASH:
                return self._hasher.texts(entities)
            case LogPolicy.DROP:
                return pa.nulls(len(entities), pa.string())

    def _feature_columns(self, gathered: Gathered) -> dict[str, pa.Array]:
        made: dict[str, pa.Array] = {}
        asked = gathered.features()
        for field in gathered.origin.schema.fields if asked else ():
            values = apply(field, asked[field.name], self._hasher)
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
    return pa.DictionaryArray.from_arrays(_zeros(total), pa.array([value], pa.string()))


@functools.lru_cache(maxsize=1)
def _zeros(total: int) -> pa.Array:
    """Shared by all columns of a table."""
    return pa.array(np.zeros(total, dtype=np.int32))


def _reasons(origin: Origin, entities: pa.Array) -> pa.Array:
    """Why this variant: by the entity or, where there is none, by the prediction's id; or because both score."""
    if origin.experiment is None or origin.mode != "ab" or origin.fallback:
        return constant("fallback" if origin.fallback else origin.mode, len(entities))
    words = pa.array(["prediction_id", "entity"], pa.string())
    return pa.DictionaryArray.from_arrays(entities.is_valid().cast(pa.int32()), words)


def _spread(gathered: Gathered, values: Sequence[str | None] | pa.Array) -> pa.DictionaryArray:
    """One a call, for each row."""
    words = pa.array(values, pa.string()).dictionary_encode()
    codes = gathered.spread(words.indices.fill_null(-1).to_numpy())
    null = codes < 0
    return pa.DictionaryArray.from_arrays(pa.array(codes, mask=null if null.any() else None), words.dictionary)
