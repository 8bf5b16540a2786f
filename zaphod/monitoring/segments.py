"""The one writer: a bounded queue, a thread that encodes, Parquet files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from zaphod.errors import LogFullError
from zaphod.monitoring.settings import LogSettings
from zaphod.storage import Storage

_log = logging.getLogger(__name__)

_MAX_RETRY_S = 5.0

LOG_FULL = "Cannot answer: the log has no room, and nothing goes unlogged (when_full). Send it again later."

# Columns of numbers that are alike in all rows of a call.
_SHARED = ("version", "latency_s")


class Item(Protocol):
    """What is handed over."""

    @property
    def num_rows(self) -> int: ...


ItemT = TypeVar("ItemT", bound=Item)
ItemT_contra = TypeVar("ItemT_contra", bound=Item, contravariant=True)


class Encoder(Protocol[ItemT_contra]):
    """Makes tables of items. `add` and `take` are called by one thread at a time."""

    def add(self, item: ItemT_contra) -> None:
        """In the time of whoever hands over."""
        ...

    def take(self) -> list[tuple[str, Callable[[], pa.Table]]]:
        """The folders to file what was added in, and what makes the tables, at leisure; what was added is forgotten."""
        ...


@dataclass(frozen=True, slots=True)
class _File:
    """On its way to the storage. Tried again it is the same: a try that seemed to fail may have succeeded."""

    path: str
    data: memoryview
    num_rows: int


@dataclass(frozen=True, slots=True)
class LogCounts:
    """Rows since the start. waiting: handed over and not yet in a file."""

    written: int
    dropped: int
    waiting: int


class SegmentWriter(Generic[ItemT]):
    """Writes `<folder>/<writer>-<number>.parquet`. What waits, in whatever form, counts against `max_rows`."""

    def __init__(
        self,
        storage: Storage,
        encoder: Encoder[ItemT],
        settings: LogSettings,
        *,
        metadata: Mapping[str, str] | None = None,
        waits: bool = True,
    ) -> None:
        """waits: for room, with `when_full: block`; else `put` raises, for who may not be held up."""
        self._storage = storage
        self._encoder = encoder
        self._settings = settings
        self._metadata = dict(metadata or {})
        self._waits = waits
        # Whether the next `put` is likely to raise: to be asked before there is anything to hand over.
        self.full = False
        # What is in no file yet.
        self._tables: dict[str, list[pa.Table]] = {}
        self._next: _File | None = None
        # Where files are made, one after the other: fresh memory would cost as much as what is done in it.
        self._made = bytearray()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._written = self._dropped = 0
        # Rows since the start: that the encoder took; of those, that it gave back as tables; that are in files or lost.
        self._handed = self._taken = self._done = 0
        # Handed over so many, there is something else to do than to take in the next.
        self._set_mark()
        self._stopping = False
        self._hurry = threading.Event()
        self._name = f"{time.time_ns():020d}-{os.urandom(4).hex()}"
        self._number = 0
        self._retry_s = 0.0
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, item: ItemT) -> bool:
        """Hands over and returns; False when there was no room and it was dropped. With `block` waits for room.

        Raises: LogFullError instead of waiting, where nobody may wait: nothing of the item is logged then.
        """
        with self._lock:
            handed = self._handed + item.num_rows
            if handed >= self._mark:
                if not self._make_room(item.num_rows):
                    return False
                # Whoever waited for room has let others in.
                handed = self._handed + item.num_rows
            try:
                self._encoder.add(item)
            except Exception:  # noqa: BLE001  # neither the log nor whoever serves may fail for what one call holds
                _log.exception("cannot log some predictions")
                self._dropped += item.num_rows
                return False
            self._handed = handed
        return True

    @property
    def counts(self) -> LogCounts:
        with self._lock:
            return LogCounts(written=self._written, dropped=self._dropped, waiting=self._handed - self._done)

    def flush(self, *, timeout_s: float = 30.0) -> bool:
        """Returns when all that was handed over before is in files; False when that took longer."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            goal = self._handed
            while self._done < goal:
                self._hurry.set()
                if time.monotonic() >= deadline:
                    return False
                self._changed.wait(timeout=0.05)
        return True

    def hurry(self) -> None:
        """Returns at once; what was handed over is on its way to files. For whoever will `flush` a little later."""
        self._hurry.set()

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Writes what waits, on the thread of whoever calls; what the storage does not take is dropped."""
        self._stopping = True
        self._hurry.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive() or not self._publish():
            left = self.counts.waiting
            _log.error("the prediction log ends; what the storage did not take is lost", extra={"rows": left})
            self._free(left, dropped=True)

    def _make_room(self, num_rows: int) -> bool:
        """Holding the lock. What alone is larger than all the room there is goes in when nothing waits."""
        if self._handed + num_rows - self._taken >= self._settings.segment_rows:
            self._hurry.set()
        blocks = self._settings.when_full == "block"
        while self._full(num_rows):
            if not blocks or self._stopping:
                if not self._dropped:
                    _log.warning("the prediction log is full; predictions go on and are not logged until there is room")
                self._dropped += num_rows
                return False
            self._hurry.set()
            if not self._waits:
                if not self.full:
                    _log.warning("the prediction log is full; predictions are refused until there is room")
                self.full = True
                raise LogFullError(LOG_FULL)
            self._changed.wait(timeout=1.0)
        return True

    def _full(self, num_rows: int) -> bool:
        waiting = self._handed - self._done
        return waiting > 0 and waiting + num_rows > self._settings.max_rows

    def _set_mark(self) -> None:
        """Holding the lock, after each change of `_taken` and `_done`."""
        self._mark = min(self._taken + self._settings.segment_rows, self._done + self._settings.max_rows + 1)

    def _run(self) -> None:
        wait_s = self._settings.flush_s
        while True:
            self._hurry.wait(wait_s)
            self._hurry.clear()
            if self._stopping:
                return
            wait_s = self._settings.flush_s if self._publish() else self._retry_s

    def _publish(self) -> bool:
        """Files of each folder; False when the storage is away: what waits goes on waiting."""
        self._gather()
        if self._next is None and not self._tables:
            self._made = bytearray()
        while (file := self._next_file()) is not None:
            try:
                self._storage.create(file.path, file.data)
            except FileExistsError:
                # No other writer has the name: an earlier try did succeed.
                pass
            except Exception:  # noqa: BLE001  # nothing ends the thread: what waits would wait for ever
                if not self._retry_s:
                    _log.exception("cannot write the prediction log; what waits is kept and written later")
                self._retry_s = min(_MAX_RETRY_S, (self._retry_s or 0.1) * 2)
                return False
            self._next = None
            self._retry_s = 0.0
            self._free(file.num_rows)
        return True

    def _gather(self) -> None:
        """Makes tables of what was handed over."""
        with self._lock:
            taken = self._encoder.take()
            lost, self._taken = self._handed - self._taken, self._handed
            self._set_mark()
        for folder, make in taken:
            try:
                table = make()
            except Exception:  # noqa: BLE001  # as in `put`
                _log.exception("cannot log some predictions")
            else:
                self._tables.setdefault(folder, []).append(table)
                lost -= table.num_rows
        if lost:
            self._free(lost, dropped=True)

    def _next_file(self) -> _File | None:
        """What is to be written next, until it is; None when nothing is."""
        while self._next is None and self._tables:
            folder, tables = next(iter(self._tables.items()))
            table, left = _join(tables)
            if left:
                self._tables[folder] = left
            else:
                del self._tables[folder]
            try:
                if len(self._made) < (room := room_for(table)):
                    self._made = bytearray(room)
                data = parquet_bytes(table, self._metadata, compression=self._settings.compression, into=self._made)
            except Exception:  # noqa: BLE001  # as in `put`
                _log.exception("cannot log some predictions")
                self._free(table.num_rows, dropped=True)
                continue
            self._next = _File(f"{folder}/{self._name}-{self._number:08d}.parquet", data, table.num_rows)
            self._number += 1
        return self._next

    def _free(self, num_rows: int, *, dropped: bool = False) -> None:
        with self._changed:
            self._done += num_rows
            self._set_mark()
            self.full = False
            if dropped:
                self._dropped += num_rows
            else:
                self._written += num_rows
            self._changed.notify_all()


def _join(tables: list[pa.Table]) -> tuple[pa.Table, list[pa.Table]]:
    """One table of as many as have columns that go together, and the others: another version may have another type."""
    try:
        return pa.concat_tables(tables, promote_options="permissive"), []
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        first, *others = tables
        alike = [table for table in others if table.schema.equals(first.schema)]
        left = [table for table in others if not table.schema.equals(first.schema)]
        return pa.concat_tables([first, *alike]), left


def parquet_bytes(
    table: pa.Table, metadata: Mapping[str, str], *, compression: str = "none", into: bytearray | None = None
) -> memoryview:
    """A file of the log. Statistics of its times, so that a reader skips what it does not look for.

    Made at the cost of whoever predicts, so: repeated words once, columns without nulls marked as such, which spares
    them a level for each value, whole numbers as differences; and what remains as it is in memory, unless told
    otherwise. What thousands of rows may share is as cheap, and small where they do, with a pass of `snappy`.

    into: where it is made, if it has the room.
    """
    fields = [
        field.with_nullable(column.null_count > 0) for field, column in zip(table.schema, table.columns, strict=True)
    ]

    def write(sink: pa.NativeFile) -> int:
        pq.write_table(
            pa.table(table.columns, schema=pa.schema(fields, metadata)),
            sink,
            compression=dict.fromkeys(_SHARED, "snappy") if compression == "none" else compression,
            compression_level=1 if compression == "zstd" else None,
            use_dictionary=[field.name for field in fields if _repeats(field)] or False,
            column_encoding={field.name: "DELTA_BINARY_PACKED" for field in fields if _is_whole(field)},
            write_statistics=["time"],
        )
        return int(sink.tell())

    if into:
        with contextlib.suppress(OSError), contextlib.closing(pa.FixedSizeBufferWriter(pa.py_buffer(into))) as sink:
            return memoryview(into)[: write(sink)]
    with contextlib.closing(pa.BufferOutputStream()) as sink:
        write(sink)
        # In place: a copy would be made with Python's lock held.
        return memoryview(sink.getvalue()).cast("B")


def room_for(table: pa.Table) -> int:
    """Bytes that its file will hardly need: what it takes in memory, levels, and what is said of each column."""
    return int(table.nbytes * 5 // 4 + 4_096 * (table.num_columns + 1))


def _repeats(field: pa.Field) -> bool:
    """A column of words that come many times; those of ids do not."""
    if pa.types.is_dictionary(field.type):
        return True
    return pa.types.is_string(field.type) and field.name not in ("call", "prediction_id", "text")


def _is_whole(field: pa.Field) -> bool:
    """To look each number up in a dictionary takes twice the time, and several times where they differ."""
    return (pa.types.is_integer(field.type) or pa.types.is_timestamp(field.type)) and field.name not in _SHARED
