"""Events from files, at a rate: for demos, tests, benchmarks, and to fill a stream by hand."""

from __future__ import annotations

import concurrent.futures
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from streaming import events
from streaming.queues.base import NewEvent, Queue
from zaphod.columns import clip
from zaphod.errors import InvalidInputError
from zaphod.monitoring.record import new_id
from zaphod.outputs import maker
from zaphod.schema import Schema

_T = TypeVar("_T")

_encode = msgspec.json.Encoder().encode

_MAX_CHUNK = 500
_ROWS_READ = 5_000
_ROWS_AT_ONCE = 50
# At high rates a call for every event or two would keep a processor busy that somebody else needs.
_CHUNK_EVERY_S = 0.00025


def from_parquet(path: Path, schema: Schema, *, id_column: str | None, key_column: str | None) -> Iterator[NewEvent]:
    """One event a row, of a file or a folder of files in the order of their names; only the model's fields go in.

    Raises: InvalidInputError when there is no file or a column is missing.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].exists():
        raise InvalidInputError(f"Expected Parquet files, got none - at {path}")
    for file, batch in _ahead(_batches(files, schema, [id_column, key_column])):
        present = batch.schema.names
        names = tuple(name for name in schema.names if name in present)
        for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
            yield from _events(batch.slice(start, _ROWS_AT_ONCE), names, id_column, key_column, place=str(file))


def from_lines(file: BinaryIO, *, id_column: str | None = None, key_column: str | None = None) -> Iterator[NewEvent]:
    """One event a line, as it stands.

    id_column, key_column: fields of the row. Without them, a structured CloudEvent has its own `id` and `partitionkey`;
    another line has no key and a new id, so that sent twice it is two events.

    Raises: InvalidInputError for a line without a field that was named.
    """
    for number, line in enumerate(file, start=1):
        value = line.strip()
        if not value:
            continue
        cloud = events.cloud_names(value)
        identifier = new_id() if cloud is None else cloud.id
        key = None if cloud is None else cloud.partitionkey
        if id_column or key_column:
            row, place = _fields(value if cloud is None else cloud.data), f"line {number}"
            identifier = _id(_field(row, id_column, place), place) if id_column else identifier
            key = _key(_field(row, key_column, place)) if key_column else key
        yield NewEvent(value=value, id=identifier, key=key, created=time.time())


def feed(queue: Queue, events: Iterable[NewEvent], *, rate: float | None, limit: int | None) -> int:
    """Produces at `rate` events a second whatever the consumer does, as fast as it can when None; returns how many.

    Each event's `created` is the moment it is due: time it spends waiting to be written counts as latency.
    """
    remaining = itertools.islice(events, limit)
    # Read before they are due, as many as were due the last time.
    ready: list[NewEvent] = []
    began = last = time.time()
    sent = num_last = 0
    while True:
        due = _MAX_CHUNK
        if rate is not None:
            now = time.time()
            pause_s = max(began + sent / rate, last + _CHUNK_EVERY_S) - now
            if pause_s > 0:
                early = list(itertools.islice(remaining, max(0, num_last - len(ready))))
                if early:
                    ready += early
                else:
                    time.sleep(pause_s)
                continue
            due, last = max(1, min(_MAX_CHUNK, int((now - began) * rate) + 1 - sent)), now
        chunk = [*ready[:due], *itertools.islice(remaining, max(0, due - len(ready)))]
        if not chunk:
            return sent
        ready, num_last = ready[due:], len(chunk)
        stamped = [
            msgspec.structs.replace(event, created=time.time() if rate is None else began + (sent + i) / rate)
            for i, event in enumerate(chunk)
        ]
        queue.produce(stamped)
        sent += len(chunk)


def _fields(data: bytes | msgspec.Raw) -> Mapping[str, object]:
    """Of a row that may be anything; empty when it is no object."""
    try:
        return msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def _field(row: Mapping[str, object], name: str, place: str) -> object:
    value = row.get(name)
    if name not in row or isinstance(value, (dict, list)):
        raise InvalidInputError(clip(f"Expected a row with text or a number in `{name}`, got none - at {place}"))
    return value


def _id(value: object, place: str) -> str:
    if value is None:
        raise InvalidInputError(f"Expected an id, got null - at {place}")
    return str(value)


def _key(value: object) -> str | None:
    """What has none is spread by its id."""
    return None if value is None else str(value)


def _batches(
    files: Sequence[Path], schema: Schema, extra: Sequence[str | None]
) -> Iterator[tuple[Path, pa.RecordBatch]]:
    for file in files:
        with pq.ParquetFile(file) as parquet:
            columns = _columns(parquet.schema_arrow.names, schema, extra, file)
            for batch in parquet.iter_batches(batch_size=_ROWS_READ, columns=columns):
                yield file, batch


def _ahead(batches: Iterator[_T]) -> Iterator[_T]:
    """The same, each made on a thread while the one before is used: to begin a file takes many events' time."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _events(
    rows: pa.RecordBatch, names: tuple[str, ...], id_column: str | None, key_column: str | None, *, place: str
) -> Iterator[NewEvent]:
    """Of a few rows: to make Python's objects of thousands takes longer than an event may wait."""
    values = map(_encode, map(_row(names), *(rows.column(name).to_pylist() for name in names)))
    ids = rows.column(id_column).to_pylist() if id_column else [new_id() for _ in range(rows.num_rows)]
    keys = rows.column(key_column).to_pylist() if key_column else [None] * rows.num_rows
    now = time.time()
    for value, identifier, key in zip(values, ids, keys, strict=True):
        yield NewEvent(value=value, id=_id(identifier, place), key=_key(key), created=now)


@functools.cache
def _row(names: tuple[str, ...]) -> Callable[..., object]:
    # With the columns it takes two thirds of what Arrow's own way to rows does.
    return maker("Row", names)


def _columns(present: Sequence[str], schema: Schema, extra: Sequence[str | None], file: Path) -> list[str]:
    wanted = [name for name in dict.fromkeys([*schema.names, *extra]) if name is not None]
    required = {field.name for field in schema.fields if field.required} | {name for name in extra if name}
    missing = sorted(required - set(present))
    if not missing and not set(schema.names) & set(present):
        missing = sorted(schema.names)
    if missing:
        raise InvalidInputError(clip(f"Expected columns {missing}, got none of them - in {file}"))
    return [name for name in wanted if name in present]
