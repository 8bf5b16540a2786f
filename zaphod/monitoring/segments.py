"""The one writer: a bounded queue, a thread that encodes, Parquet files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from zaphod.errors import ZaphodError
from zaphod.monitoring.settings import LogSettings
from zaphod.storage import Storage

_log = logging.getLogger(__name__)

# Calls are gathered by whoever hands over the last of so many, while they are still in its core's cache: a microsecond
# each, where another thread pays several and takes the interpreter away meanwhile. A thread gathers what is left over
# after a moment, makes columns of it and writes them.
_PORTION_ITEMS = 32
_TICK_S = 0.05
_MAX_RETRY_S = 5.0


class Item(Protocol):
    """What is handed over."""

    @property
    def num_rows(self) -> int: ...


ItemT = TypeVar("ItemT", bound=Item)
ItemT_contra = TypeVar("ItemT_contra", bound=Item, contravariant=True)


class Encoder(Protocol[ItemT_contra]):
    """Makes tables of items. Called by one thread at a time."""

    def add(self, items: Sequence[ItemT_contra]) -> None: ...

    def take(self) -> list[tuple[str, Callable[[], pa.Table]]]:
        """The folders to file what was added in, and what makes the tables, at leisure; what was added is forgotten."""
        ...


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
    ) -> None:
        self._storage = storage
        self._encoder = encoder
        self._settings = settings
        self._max_rows = settings.max_rows
        self._metadata = dict(metadata or {})
        self._items: list[ItemT] = []
        # Rows in the encoder, and rows in tables that are in no file yet.
        self._encoded = self._unpublished = 0
        self._tables: dict[str, list[pa.Table]] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0
        self._written = 0
        self._dropped = 0
        # Rows that were taken in, and of those the ones that are in a file or lost.
        self._handed = self._done = 0
        self._stopping = False
        self._hurry = threading.Event()
        self._name = f"{time.time_ns():020d}-{os.urandom(4).hex()}"
        self._number = 0
        self._retry_s = 0.0
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, item: ItemT) -> bool:
        """Hands over and returns; False when there was no room and it was dropped. With `block` waits for room."""
        num_rows = item.num_rows
        with self._lock:
            waiting = self._waiting
            if waiting and waiting + num_rows > self._max_rows and not self._make_room(num_rows):
                return False
            self._waiting += num_rows
            self._handed += num_rows
            self._items.append(item)
            if len(self._items) >= _PORTION_ITEMS:
                self._gather()
        return True

    @property
    def counts(self) -> LogCounts:
        with self._lock:
            return LogCounts(written=self._written, dropped=self._dropped, waiting=self._waiting)

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

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Writes what waits, unless the storage is away for longer."""
        self._stopping = True
        self._hurry.set()
        self._thread.join(timeout_s)

    def _make_room(self, num_rows: int) -> bool:
        """Holding the lock."""
        if self._settings.when_full == "drop" or self._stopping:
            if not self._dropped:
                _log.warning("the prediction log is full; predictions go on and are not logged until there is room")
            self._dropped += num_rows
            return False
        while self._waiting and self._waiting + num_rows > self._max_rows:
            self._changed.wait(timeout=1.0)
        return True

    def _run(self) -> None:
        due = time.monotonic() + self._settings.flush_s
        while True:
            stopping, hurry = self._stopping, self._hurry.is_set()
            self._hurry.clear()
            with self._lock:
                self._gather()
            if stopping or hurry or time.monotonic() >= due or self._encoded >= self._settings.segment_rows:
                due = time.monotonic() + (self._settings.flush_s if self._publish() else self._retry_s)
            if stopping and not self._items:
                return
            self._hurry.wait(_TICK_S)

    def _gather(self) -> None:
        """Holding the lock."""
        items, self._items = self._items, []
        if not items:
            return
        num_rows = sum(item.num_rows for item in items)
        try:
            self._encoder.add(items)
        except Exception:  # noqa: BLE001  # whatever one call holds
            # Neither the log nor whoever serves may fail because of one call: they are counted and the next go on.
            _log.exception("cannot log some predictions")
            self._waiting -= num_rows
            self._done += num_rows
            self._dropped += num_rows
        else:
            self._encoded += num_rows

    def _publish(self) -> bool:
        """One file for each folder; False when the storage is away: what waits goes on waiting."""
        with self._lock:
            taken = self._encoder.take()
            gathered, self._encoded = self._encoded, 0
        for folder, make in taken:
            try:
                table = make()
            except Exception:  # noqa: BLE001  # as above
                _log.exception("cannot log some predictions")
            else:
                self._tables.setdefault(folder, []).append(table)
        num_rows = sum(table.num_rows for parts in self._tables.values() for table in parts)
        lost = self._unpublished + gathered - num_rows
        self._unpublished = num_rows
        if lost:
            self._free(lost, dropped=True)
        for folder, tables in list(self._tables.items()):
            table = pa.concat_tables(tables, promote_options="permissive")
            path = f"{folder}/{self._name}-{self._number:08d}.parquet"
            try:
                self._storage.create(path, parquet_bytes(table, self._metadata))
            except (ZaphodError, OSError):
                if not self._retry_s:
                    _log.exception("cannot write the prediction log; what waits is kept and written later")
                self._retry_s = min(_MAX_RETRY_S, (self._retry_s or 0.1) * 2)
                return False
            self._number += 1
            self._retry_s = 0.0
            del self._tables[folder]
            self._unpublished -= table.num_rows
            self._free(table.num_rows)
        return True

    def _free(self, num_rows: int, *, dropped: bool = False) -> None:
        with self._changed:
            self._waiting -= num_rows
            self._done += num_rows
            if dropped:
                self._dropped += num_rows
            else:
                self._written += num_rows
            self._changed.notify_all()


def parquet_bytes(table: pa.Table, metadata: Mapping[str, str]) -> bytes:
    """A file of the log. Statistics of its times, so that a reader skips what it does not look for."""
    with contextlib.closing(pa.BufferOutputStream()) as sink:
        pq.write_table(
            table.replace_schema_metadata(metadata),
            sink,
            compression="zstd",
            compression_level=1,
            use_dictionary=[field.name for field in table.schema if pa.types.is_dictionary(field.type)] or False,
            write_statistics=["time"],
        )
        data: bytes = sink.getvalue().to_pybytes()
    return data
