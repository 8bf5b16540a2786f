"""What came of predictions: told later, by the prediction's id, over HTTP, on a topic or as a table."""

from __future__ import annotations

import datetime
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zaphod.columns import clip
from zaphod.errors import ConfigError, DecodeError, InvalidInputError, SchemaMismatchError
from zaphod.monitoring.encode import constant, hour_folder
from zaphod.monitoring.segments import SegmentWriter, parquet_bytes
from zaphod.monitoring.settings import LogSettings
from zaphod.storage import Storage, open_storage

OUTCOMES = "outcomes"
FIELD = "outcome"
"""The field of an outcome that names none."""

_TIME = pa.timestamp("us", tz="UTC")
_IMPORT_ROWS = 1_000_000
_TEXTS = (pa.types.is_string, pa.types.is_large_string)


class Outcome(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One number or label of one prediction.

    prediction_id: as the answer gave it; of row i of several `<id>-<i>`. field: which of its outcomes. time: when it
    happened, ISO 8601 with its zone; when it arrived by default.
    """

    prediction_id: str
    value: float | bool | str
    field: str = FIELD
    time: datetime.datetime | None = None


class Outcomes(msgspec.Struct, frozen=True):
    """Some that arrived together. received_s: seconds since the epoch."""

    items: list[Outcome]
    received_s: float

    @property
    def num_rows(self) -> int:
        return len(self.items)


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    outcomes: list[Outcome]


DecodedT = TypeVar("DecodedT")

_document = msgspec.json.Decoder(_Document)
_one = msgspec.json.Decoder(Outcome)


def decode_outcomes(body: bytes) -> Outcomes:
    """`{"outcomes": [{"prediction_id": …, "value": …}]}`. Raises: InvalidInputError, DecodeError."""
    outcomes = _decoded(_document, body).outcomes
    if not outcomes:
        raise InvalidInputError("Expected at least one outcome, got none - at `$.outcomes`")
    return Outcomes([_checked(outcome) for outcome in outcomes], time.time())


def decode_outcome(body: bytes) -> Outcome:
    """One outcome, as a topic carries it. Raises: InvalidInputError, DecodeError."""
    return _checked(_decoded(_one, body))


class OutcomeEncoder:
    """Tables of outcomes, filed by the hour in which they arrived."""

    def __init__(self) -> None:
        self._waiting: list[Outcomes] = []

    def add(self, item: Outcomes) -> None:
        self._waiting.append(item)

    def take(self) -> list[tuple[str, Callable[[], pa.Table]]]:
        """As `Encoder`."""
        by_hour: dict[int, list[Outcomes]] = {}
        for outcomes in self._waiting:
            by_hour.setdefault(int(outcomes.received_s // 3600), []).append(outcomes)
        self._waiting = []
        return [(_folder(hour), functools.partial(_table, several)) for hour, several in by_hour.items()]


OutcomeLog = SegmentWriter[Outcomes]


def open_outcomes(settings: LogSettings, *, waits: bool = True) -> OutcomeLog | None:
    """None when the settings name no place. Starts the writer's thread. waits: as `SegmentWriter`.

    Raises: ConfigError.
    """
    if settings.uri is None:
        return None
    return SegmentWriter(open_storage(settings.uri), OutcomeEncoder(), settings, waits=waits)


def import_outcomes(
    uri: str, path: Path, *, id_column: str, value_column: str, field: str = FIELD, time_column: str | None = None
) -> int:
    """Adds a Parquet file or folder of outcomes to the log at `uri`; returns how many. Nulls and NaN are left out.

    All is checked before the first is added. Raises: SchemaMismatchError, InvalidInputError, ConfigError.
    """
    import pyarrow.dataset as ds  # loads pandas, and a server that takes outcomes needs neither

    try:
        dataset = ds.dataset(path, format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"Cannot read the outcomes {path}: {error}. Give a Parquet file or a folder.") from error
    _check_types(dataset.schema, id_column=id_column, value_column=value_column, time_column=time_column)
    columns = [id_column, value_column, *([time_column] if time_column else [])]
    try:
        for batch in dataset.to_batches(columns=columns, batch_size=_IMPORT_ROWS):
            _check_finite(batch.column(1), value_column)
    except pa.ArrowException as error:
        raise SchemaMismatchError(f"Expected files of the same columns in {path}, got others: {error}") from error
    storage, now = open_storage(uri), time.time()
    total = 0
    name = f"import-{time.time_ns():020d}"
    for number, batch in enumerate(dataset.to_batches(columns=columns, batch_size=_IMPORT_ROWS)):
        table = pa.Table.from_batches([batch])
        table = table.filter(
            pc.and_(table[id_column].is_valid(), pc.invert(table[value_column].is_null(nan_is_null=True)))
        )
        if table.num_rows:
            moments = None if time_column is None else table[time_column]
            made = _imported(table[id_column], table[value_column], moments, field=field, now=now)
            _store(storage, f"{_folder(int(now // 3600))}/{name}-{number:06d}.parquet", made)
        total += table.num_rows
    return total


def _check_types(schema: pa.Schema, *, id_column: str, value_column: str, time_column: str | None) -> None:
    """Raises: SchemaMismatchError."""
    checks: list[tuple[str, str, tuple[Callable[[pa.DataType], bool], ...]]] = [
        (id_column, "ids of text or whole numbers", (pa.types.is_integer, *_TEXTS)),
        (
            value_column,
            "numbers, booleans or text",
            (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, *_TEXTS),
        ),
    ]
    if time_column is not None:
        checks.append((time_column, "timestamps with their zone", (_has_zone,)))
    for name, wanted, fits in checks:
        if name not in schema.names:
            raise SchemaMismatchError(f"Expected a column `{name}` in the outcomes, got none")
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not any(fit(kind) for fit in fits):
            raise SchemaMismatchError(f"Expected {wanted}, got `{kind}` - at column `{name}`")


def _has_zone(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is not None


def _check_finite(values: pa.Array, name: str) -> None:
    """Raises: InvalidInputError."""
    if pa.types.is_floating(values.type) and pc.any(pc.is_inf(values)).as_py():
        raise InvalidInputError(f"Expected finite numbers, got infinity - at column `{name}`")


def _imported(
    ids: pa.ChunkedArray, values: pa.ChunkedArray, moments: pa.ChunkedArray | None, *, field: str, now: float
) -> pa.Table:
    ids, values = (
        each.cast(each.type.value_type) if pa.types.is_dictionary(each.type) else each for each in (ids, values)
    )
    numeric = not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type))
    numbers = values.cast(pa.float64()) if numeric else pa.nulls(len(values), pa.float64())
    received = pa.repeat(pa.scalar(int(now * 1e6), pa.int64()), len(ids)).cast(_TIME)
    return pa.table(
        {
            "prediction_id": ids.cast(pa.string()),
            "field": constant(field, len(ids)),
            "value": numbers,
            "text": _texts(numbers, values) if numeric else values.cast(pa.string()),
            "time": received if moments is None else pc.coalesce(moments.cast(_TIME, safe=False), received),
            "received": received,
        }
    )


def _texts(numbers: pa.ChunkedArray, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """As a label would be written: 1, not 1.0."""
    if pa.types.is_boolean(values.type) or pa.types.is_integer(values.type):
        return values.cast(pa.string())
    whole = np.asarray(numbers)
    return pa.chunked_array([pa.array([_text(value) for value in whole.tolist()], pa.string())])


def _table(several: Sequence[Outcomes]) -> pa.Table:
    items = [(outcome, outcomes.received_s) for outcomes in several for outcome in outcomes.items]
    received = np.array([moment * 1e6 for _, moment in items]).astype(np.int64)
    happened = [int((moment if outcome.time is None else outcome.time.timestamp()) * 1e6) for outcome, moment in items]
    values = [outcome.value for outcome, _ in items]
    return pa.table(
        {
            "prediction_id": pa.array([outcome.prediction_id for outcome, _ in items], pa.string()),
            "field": pa.array([outcome.field for outcome, _ in items], pa.string()).dictionary_encode(),
            "value": pa.array([None if isinstance(value, str) else float(value) for value in values], pa.float64()),
            "text": pa.array([_text(value) for value in values], pa.string()),
            "time": pa.array(happened, pa.int64()).cast(_TIME),
            "received": pa.array(received).cast(_TIME),
        }
    )


def _text(value: float | bool | str) -> str:  # noqa: FBT001  # a value, not a flag
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(int(value)) if value == int(value) else repr(value)


def _store(storage: Storage, path: str, table: pa.Table) -> None:
    metadata: Mapping[str, str] = {}
    storage.create(path, parquet_bytes(table, metadata))


def _folder(hour: int) -> str:
    return f"{OUTCOMES}/{hour_folder(hour)}"


def _checked(outcome: Outcome) -> Outcome:
    if not outcome.prediction_id:
        raise InvalidInputError("Expected a prediction's id, got an empty one - at `$.prediction_id`")
    if isinstance(outcome.value, float) and not np.isfinite(outcome.value):
        raise InvalidInputError("Expected a finite number, got another - at `$.value`")
    if outcome.time is not None and outcome.time.tzinfo is None:
        raise InvalidInputError("Expected a time with its zone, such as 2026-01-31T12:00:00Z - at `$.time`")
    return outcome


def _decoded(decoder: msgspec.json.Decoder[DecodedT], body: bytes) -> DecodedT:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInputError(clip(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(clip(f"Expected JSON, got something else: {error}")) from error
