"""The embedded queue: logs of events in plain files, outputs in SQLite, for one machine.

    stream.json           the number of partitions, for good
    p0003.log, …          the events of partition 3: written by producers, read by its consumer (`log.py`)
    p0003.out.db          its lease, offset, outputs and dead letters: written by its consumer alone
    bells/p0003, bells/out  sockets of those who wait

Offset and outputs stand in one file because a transaction over several files in WAL mode is atomic only per file.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from streaming.queues.base import (
    NO_HEADERS,
    Cause,
    Commit,
    Cursor,
    DeadEntry,
    DeadLetter,
    Delivered,
    Guarantee,
    Lease,
    MicroBatch,
    NewEvent,
    Output,
    Position,
    check_kept,
    fenced,
)
from streaming.queues.bell import Bell, Heard, Listener
from streaming.queues.checkpoint import LOG_PAGES, Checkpointer
from streaming.queues.log import EventLog, LogReader
from zaphod.errors import ConfigError, QueueUnavailableError, TrimmedError
from zaphod.storage import LocalStorage

Durability: TypeAlias = Literal["os", "disk"]

_STREAM_FILE = "stream.json"
# 1 had its events in SQLite too.
_FORMAT = 2
# Commits survive the death of any process either way; "disk" also the loss of power, at an fsync each.
_SYNCHRONOUS = {"os": "NORMAL", "disk": "FULL"}
_PAGE_BYTES = 2048
# Of an output beside its value: id, key, times.
_ROW_BYTES = 80
# Offsets of a replay generation: 17 million million, and half a million generations.
_GENERATION = 1 << 44
_BUSY_TIMEOUT_S = 5.0
_ACQUIRE_TIMEOUT_S = 0.02
# Outputs removed in one transaction, for which a commit may wait, and transactions in one go.
_REMOVED_AT_ONCE, _MAX_REMOVALS = 1_000, 10
# Bells are not lost, but a listener may come a moment after a bell's last look into the folder.
_LONGEST_WAIT_S = 0.25

_OUT_TABLES = """
CREATE TABLE IF NOT EXISTS outputs (
    place INTEGER PRIMARY KEY, id TEXT NOT NULL, key TEXT, value BLOB NOT NULL, headers TEXT, created REAL NOT NULL,
    committed REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS dead_letters (
    generation INTEGER NOT NULL, "offset" INTEGER NOT NULL, id TEXT NOT NULL, key TEXT, value BLOB NOT NULL,
    headers TEXT, created REAL NOT NULL, cause TEXT NOT NULL, reason TEXT NOT NULL, attempts INTEGER NOT NULL,
    version INTEGER NOT NULL, PRIMARY KEY (generation, "offset")
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS state (
    one INTEGER PRIMARY KEY CHECK (one = 1), generation INTEGER NOT NULL, next INTEGER NOT NULL, epoch INTEGER NOT NULL,
    owner TEXT, expires REAL NOT NULL, tried INTEGER NOT NULL, attempts INTEGER NOT NULL
);
INSERT OR IGNORE INTO state VALUES (1, 0, 0, 0, NULL, 0, -1, 0);
CREATE TABLE IF NOT EXISTS removed (one INTEGER PRIMARY KEY CHECK (one = 1), place INTEGER NOT NULL);
"""

_MOVE = "UPDATE state SET next = ?, tried = -1 WHERE epoch = ? AND next = ?"
_IS_THERE = "SELECT 1 FROM state WHERE epoch = ? AND next = ?"
_OUTPUT = "INSERT INTO outputs VALUES (?, ?, ?, ?, ?, ?, ?)"
_DEAD_LETTER = "INSERT INTO dead_letters VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_ACQUIRE = """
UPDATE state SET epoch = epoch + 1, owner = ?, expires = ? WHERE ? OR owner IS NULL OR expires < ?
RETURNING epoch, generation, next
"""
_RELEASE = "UPDATE state SET owner = NULL, expires = 0, tried = -1 WHERE epoch = ?"
_RENEW = "UPDATE state SET expires = ? WHERE epoch = ?"
_NOTE = "UPDATE state SET tried = next, attempts = ? WHERE epoch = ? AND next = ?"
_REPLAY = """
UPDATE state SET generation = generation + 1, next = max(?, min(next, ?)), epoch = epoch + 1, owner = NULL, tried = -1
RETURNING next
"""
_READ_OUTPUTS = """
SELECT place, id, key, value, headers, created, committed FROM outputs WHERE place > ? ORDER BY place LIMIT ?
"""
_DROP_DEAD = 'DELETE FROM dead_letters WHERE generation = ? AND "offset" = ?'
_REMOVED = "SELECT max(place) FROM removed"
_OLDEST_OUTPUT = "SELECT committed FROM outputs ORDER BY place LIMIT 1"
_OLD_OUTPUTS = """
SELECT max(place), count(*) FROM (SELECT place, committed FROM outputs ORDER BY place LIMIT ?) WHERE committed < ?
"""
_OUTPUT_END = "SELECT generation, next - 1 FROM state"
_READ_DEAD = """
SELECT generation, "offset", id, key, value, headers, created, cause, reason, attempts, version FROM dead_letters
WHERE (generation, "offset") > (?, ?) ORDER BY generation, "offset" LIMIT ?
"""


class StreamFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """stream.json."""

    num_partitions: int
    format: int = 1


class SqliteQueue:
    """A stream in a folder of this machine's disk (not of a network file system: SQLite's locks fail there)."""

    guarantee = Guarantee.EXACTLY_ONCE
    risks: Sequence[str] = ()
    spans_nodes = False

    def __init__(
        self, folder: Path, *, num_partitions: int, durability: Durability = "os", dedupe_window_s: float = 600.0
    ) -> None:
        """Makes the stream when it is new. Raises: ConfigError when it exists with other partitions or another form."""
        self._folder = folder.absolute()
        self._durability = durability
        self._dedupe_window_s = dedupe_window_s
        self.num_partitions = num_partitions
        with _translated(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            _check_stream_file(self._folder, num_partitions)
            self._logs = [
                EventLog(self._folder, _name(partition), dedupe_window_s=dedupe_window_s, disk=durability == "disk")
                for partition in range(num_partitions)
            ]
            self._outputs = [self._open(partition) for partition in range(num_partitions)]
        for partition in range(num_partitions):
            self._forget_lost(partition)
        self._bells: dict[int, Bell] = {}
        self._output_listener: Listener | None = None

    def produce(self, events: Sequence[NewEvent]) -> int:
        by_partition: dict[int, list[NewEvent]] = {}
        for event in events:
            by_partition.setdefault(event.partition(self.num_partitions), []).append(event)
        appended: dict[int, int] = {}
        try:
            with _translated(self._folder):
                for partition, mine in by_partition.items():
                    appended[partition] = self._logs[partition].append(mine)
        finally:
            # When all are there: who is woken by the first would score it alone.
            rung: set[str] = set()
            for partition, new in appended.items():
                if new:
                    self._bell(partition).ring(rung=rung)
        return sum(appended.values())

    def consumer(self, owner: str, *, lease_s: float) -> SqliteConsumer:
        with _translated(self._folder):
            return SqliteConsumer(self._folder, owner=owner, lease_s=lease_s, durability=self._durability)

    def positions(self) -> list[Position]:
        now = time.time()
        with _translated(self._folder):
            return [self._position(partition, now) for partition in range(self.num_partitions)]

    def read_outputs(self, cursors: Mapping[int, Cursor], *, max_outputs: int) -> list[Delivered]:
        found: list[Delivered] = []
        with _translated(self._folder):
            for partition, cursor in cursors.items():
                parameters = (_place(cursor.generation, cursor.offset), max_outputs - len(found))
                rows = self._outputs[partition].execute(_READ_OUTPUTS, parameters).fetchall()
                if cursor != Cursor():
                    # Asked last: nothing goes unseen.
                    (removed,) = self._outputs[partition].execute(_REMOVED).fetchone()
                    check_kept(partition, cursor, None if removed is None else Cursor(*divmod(removed, _GENERATION)))
                found.extend(_delivered(partition, row) for row in rows)
        return found

    def output_ends(self) -> dict[int, Cursor]:
        with _translated(self._folder):
            rows = [connection.execute(_OUTPUT_END).fetchone() for connection in self._outputs]
        return {partition: Cursor(*row) for partition, row in enumerate(rows)}

    def wait_outputs(self, *, timeout_s: float) -> bool:
        if self._output_listener is None:
            self._output_listener = Listener()
            self._output_listener.listen(_out_bell(self._folder))
            return True  # whatever was committed before the first wait
        return self._output_listener.wait(timeout_s) is not Heard.NOTHING

    def read_dead_letters(self, cursors: Mapping[int, Cursor], *, max_letters: int) -> list[DeadEntry]:
        found: list[DeadEntry] = []
        for partition, cursor in cursors.items():
            with _translated(self._folder):
                parameters = (cursor.generation, cursor.offset, max_letters - len(found))
                rows = self._outputs[partition].execute(_READ_DEAD, parameters).fetchall()
            for row in rows:
                generation, offset, identifier, key, value, headers, created, cause, *rest = row
                letter = DeadLetter(
                    offset, identifier, key, value, _headers(headers) if headers else NO_HEADERS, created,
                    Cause(cause), rest[0], rest[1], rest[2],
                )  # fmt: skip
                found.append(DeadEntry(partition, Cursor(generation, offset), letter))
        return found

    def drop_dead_letter(self, partition: int, cursor: Cursor) -> bool:
        with _translated(self._folder):
            dropped = self._outputs[partition].execute(_DROP_DEAD, (cursor.generation, cursor.offset))
        return dropped.rowcount == 1

    def replay(self, partition: int, *, offset: int) -> int:
        with _translated(self._folder), _transaction(self._outputs[partition]) as connection:
            # The new epoch fences a consumer that is reading on from the old place.
            ((goes_on,),) = connection.execute(_REPLAY, (self._logs[partition].first, offset)).fetchall()
        return int(goes_on)

    def trim(self, *, keep_s: float) -> int:
        now = time.time()
        with _translated(self._folder):
            return sum(self._trim(partition, keep_s, now) for partition in range(self.num_partitions))

    def close(self) -> None:
        for log in self._logs:
            log.close()
        for connection in self._outputs:
            connection.close()
        for bell in self._bells.values():
            bell.close()
        if self._output_listener is not None:
            self._output_listener.close()

    def _position(self, partition: int, now: float) -> Position:
        next_offset, epoch, owner, expires = (
            self._outputs[partition].execute("SELECT next, epoch, owner, expires FROM state").fetchone()
        )
        log = self._logs[partition]
        oldest = None
        with contextlib.suppress(TrimmedError):  # it has gone on since, and what is behind it was removed
            oldest = log.read(next_offset, max_events=1)
        return Position(
            partition=partition,
            next_offset=next_offset,
            end_offset=log.end,
            owner=owner,
            epoch=epoch,
            expired=expires < now,
            oldest_s=max(0.0, now - oldest[0].created) if oldest else 0.0,
        )

    def _trim(self, partition: int, keep_s: float, now: float) -> int:
        self._logs[partition].check_freeing()
        # As in an acquisition: an owner that hangs in a commit is not waited for.
        path = _path(self._folder, partition)
        with contextlib.closing(_connect(path, self._durability, timeout_s=_ACQUIRE_TIMEOUT_S)) as output:
            try:
                # First what also a full disk allows. The log tells which ids were seen: those it has to keep.
                before = now - max(keep_s, self._dedupe_window_s)
                removed = self._trim_events(self._logs[partition], output, before=before)
                return removed + self._trim_outputs(output, before=now - keep_s)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                return 0

    def _trim_outputs(self, output: sqlite3.Connection, *, before: float) -> int:
        removed = num = 0
        oldest = output.execute(_OLDEST_OUTPUT).fetchone()
        for _ in range(_MAX_REMOVALS if oldest and oldest[0] < before else 0):
            with _transaction(output):
                place, num = output.execute(_OLD_OUTPUTS, (_REMOVED_AT_ONCE, before)).fetchone()
                if num:
                    output.execute("DELETE FROM outputs WHERE place <= ?", (place,))
                    output.execute("INSERT OR REPLACE INTO removed VALUES (1, ?)", (place,))
            removed += num
            if num < _REMOVED_AT_ONCE:
                break
        return removed

    def _trim_events(self, log: EventLog, output: sqlite3.Connection, *, before: float) -> int:
        first = log.first
        try:
            offset = log.first_since(before, end=output.execute("SELECT next FROM state").fetchone()[0])
        except TrimmedError:
            return 0  # by another, just now
        if offset <= first:
            return 0
        with _transaction(output):
            # A replay may have gone back; it looks in a transaction, too, how far it may.
            (next_offset,) = output.execute("SELECT next FROM state").fetchone()
            offset = max(log.first, min(offset, int(next_offset)))
            place = log.drop_before(offset)
        log.free(offset, place)
        return offset - first

    def _open(self, partition: int) -> sqlite3.Connection:
        connection = _connect(_path(self._folder, partition), self._durability)
        connection.executescript(_OUT_TABLES)
        return connection

    def _forget_lost(self, partition: int) -> None:
        """After a loss of power the log may end before what was consumed of it: its next events are new ones."""
        with _translated(self._folder):
            (next_offset,) = self._outputs[partition].execute("SELECT next FROM state").fetchone()
        end = self._logs[partition].end
        if next_offset > end:
            self.replay(partition, offset=end)

    def _bell(self, partition: int) -> Bell:
        if partition not in self._bells:
            self._bells[partition] = Bell(_in_bell(self._folder, partition))
        return self._bells[partition]


class SqliteConsumer:
    """Reads and commits through connections of its own; made by `SqliteQueue.consumer`."""

    def __init__(self, folder: Path, *, owner: str, lease_s: float, durability: Durability) -> None:
        self._folder = folder
        self._owner = owner
        self._lease_s = lease_s
        self._durability = durability
        self._listener = Listener()
        self._bell = Bell(_out_bell(folder))
        self._checkpointer = Checkpointer()
        self._held: dict[int, _Held] = {}
        self._turn: list[int] = []

    @property
    def partitions(self) -> frozenset[int]:
        return frozenset(self._held)

    def acquire(self, partition: int, *, steal: bool = False) -> Lease | None:
        now = time.time()
        with _translated(self._folder):
            # An owner that hangs in the middle of a commit holds the file: the other partitions must not wait for it.
            path = _path(self._folder, partition)
            output = _connect(path, self._durability, timeout_s=_ACQUIRE_TIMEOUT_S)
            try:
                with _transaction(output):
                    owner, tried, attempts = output.execute("SELECT owner, tried, attempts FROM state").fetchone()
                    row = output.execute(_ACQUIRE, (self._owner, now + self._lease_s, steal, now)).fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                    raise
                row = None
            if row is None:
                output.close()
                return None
            output.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000:.0f}")
            epoch, generation, next_offset = row
            log = LogReader(self._folder, _name(partition))
        self._forget(partition)
        self._held[partition] = _Held(
            log=log, output=output, path=path, epoch=epoch, generation=generation, next_offset=next_offset
        )  # fmt: skip
        self._turn.append(partition)
        self._listener.listen(_in_bell(self._folder, partition))
        return Lease(
            partition=partition,
            epoch=epoch,
            next_offset=next_offset,
            clean=owner is None,
            attempts=attempts if tried == next_offset else 0,
        )

    def release(self, partition: int) -> None:
        held = self._held.get(partition)
        if held is not None:
            with _translated(self._folder):
                held.output.execute(_RELEASE, (held.epoch,))
            self._forget(partition)

    def renew(self) -> None:
        expires = time.time() + self._lease_s
        for partition, held in list(self._held.items()):
            with (
                _translated(self._folder),
                contextlib.closing(_connect(_path(self._folder, partition), self._durability)) as connection,
            ):
                if connection.execute(_RENEW, (expires, held.epoch)).rowcount == 0:
                    held.lost = True
                    self.wake()

    def poll(self, *, max_events: int, wait_s: float) -> MicroBatch | None:
        deadline, woken = time.monotonic() + wait_s, False
        while True:
            batch = self._poll_now(max_events)
            left_s = deadline - time.monotonic()
            if batch is not None or left_s <= 0 or woken:
                return batch
            # A bell alone ends nothing: it may have rung for events that have been taken since.
            woken = self._listener.wait(min(left_s, _LONGEST_WAIT_S)) is Heard.WAKE

    def poll_others(self, batch: MicroBatch, *, max_events: int) -> list[MicroBatch]:
        found: list[MicroBatch] = []
        for partition in self._turn:
            if max_events > 0 and partition != batch.partition and not self._held[partition].lost:
                other = self._read(partition, max_events)
                if other is not None:
                    found.append(other)
                    max_events -= len(other.events)
        return found

    def commit(self, batch: MicroBatch, *, outputs: Sequence[Output], dead_letters: Sequence[DeadLetter]) -> None:
        if not all(self.commit_all([Commit(batch, outputs, dead_letters)])):
            raise fenced(batch.partition)

    def commit_all(self, commits: Sequence[Commit]) -> list[bool]:
        try:
            return [self._commit(each) for each in commits]
        finally:
            # Also when one failed: the ones before are there.
            self._bell.ring()

    def note_attempt(self, batch: MicroBatch, *, attempts: int) -> None:
        held = self._held.get(batch.partition)
        with _translated(self._folder):
            if held is None or not held.output.execute(_NOTE, (attempts, batch.epoch, batch.first)).rowcount:
                self._forget(batch.partition)
                raise fenced(batch.partition)

    def wake(self) -> None:
        self._listener.wake()

    def close(self) -> None:
        for partition in list(self._held):
            with contextlib.suppress(QueueUnavailableError):
                self.release(partition)
            self._forget(partition)
        self._listener.close()
        self._bell.close()
        self._checkpointer.close()

    def _commit(self, each: Commit) -> bool:
        """False when the lease went to another; nothing was written."""
        batch = each.batch
        held = self._held.get(batch.partition)
        if held is None or held.epoch != batch.epoch:
            return False
        now = time.time()
        with _translated(self._folder), _transaction(held.output) as connection:
            moved = connection.execute(_MOVE, (batch.next_offset, batch.epoch, batch.first)).rowcount
            if not moved:
                moved = connection.execute(_IS_THERE, (batch.epoch, batch.next_offset)).fetchone() is not None
            else:
                first = _place(held.generation, 0)
                rows = [
                    (first + o.offset, o.id, o.key, o.value, _packed(o.headers) if o.headers else None, o.created, now)
                    for o in each.outputs
                ]
                connection.executemany(_OUTPUT, rows)
                if each.dead_letters:
                    letters = [(held.generation, *_dead_record(letter)) for letter in each.dead_letters]
                    connection.executemany(_DEAD_LETTER, letters)
        if not moved:
            self._forget(batch.partition)
            return False
        held.next_offset = batch.next_offset
        self._checkpointer.note(held.path, pages=_pages(each.outputs))
        return True

    def _poll_now(self, max_events: int) -> MicroBatch | None:
        for _ in range(len(self._turn)):
            partition = self._turn[0]
            held = self._held[partition]
            if held.lost:
                self._forget(partition)
                continue
            self._turn.append(self._turn.pop(0))
            batch = self._read(partition, max_events)
            if batch is not None:
                return batch
        return None

    def _read(self, partition: int, max_events: int) -> MicroBatch | None:
        held = self._held[partition]
        if held.log.end <= held.next_offset:
            return None
        with _translated(self._folder):
            try:
                events = held.log.read(held.next_offset, max_events=max_events)
            except TrimmedError:
                held.lost = True  # scored by another since, and removed
                return None
        return MicroBatch(partition, held.epoch, events)

    def _forget(self, partition: int) -> None:
        held = self._held.pop(partition, None)
        if held is None:
            return
        held.log.close()
        held.output.close()
        if partition in self._turn:
            self._turn.remove(partition)
        self._listener.ignore(_in_bell(self._folder, partition))


class _Held:
    """A partition while its lease is ours.

    path: of the output's file. generation: of its replays; another one comes with another epoch.
    """

    __slots__ = ("epoch", "generation", "log", "lost", "next_offset", "output", "path")

    def __init__(
        self,
        *,
        log: LogReader,
        output: sqlite3.Connection,
        path: Path,
        epoch: int,
        generation: int,
        next_offset: int,
    ) -> None:
        self.log = log
        self.output = output
        self.path = path
        self.epoch = epoch
        self.generation = generation
        self.next_offset = next_offset
        self.lost = False


def _connect(path: Path, durability: Durability, *, timeout_s: float = _BUSY_TIMEOUT_S) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=timeout_s, isolation_level=None)
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {_SYNCHRONOUS[durability]}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    return connection


class _transaction:  # noqa: N801  # used as a function; a generator would take three times as long, at every commit
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __enter__(self) -> sqlite3.Connection:
        self._connection.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:  # a full disk has rolled back already
                self._connection.execute("ROLLBACK")


class _translated:  # noqa: N801  # as above
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, sqlite3.OperationalError | OSError):
            raise QueueUnavailableError(f"Cannot use the queue {self._folder}: {error}. It is tried again.") from error


def _check_stream_file(folder: Path, num_partitions: int) -> None:
    storage = LocalStorage(folder)
    try:
        storage.create(_STREAM_FILE, msgspec.json.encode(StreamFile(num_partitions, _FORMAT)))
    except FileExistsError:
        existing = msgspec.json.decode(storage.read(_STREAM_FILE), type=StreamFile)
        if existing.num_partitions != num_partitions:
            raise ConfigError(
                f"Cannot open the queue {folder} with {num_partitions} partitions: it was made with "
                f"{existing.num_partitions}, and keys would change places. Use that number, or another folder."
            ) from None
        if existing.format != _FORMAT:
            raise ConfigError(
                f"Cannot open the queue {folder}: its files have form {existing.format}, this release reads form "
                f"{_FORMAT}. Use another folder."
            ) from None


def _name(partition: int) -> str:
    return f"p{partition:04d}"


def _path(folder: Path, partition: int) -> Path:
    return folder / f"{_name(partition)}.out.db"


def _in_bell(folder: Path, partition: int) -> Path:
    return folder / "bells" / _name(partition)


def _out_bell(folder: Path) -> Path:
    return folder / "bells" / "out"


def _dead_record(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.offset, letter.id, letter.key, letter.value, _packed(letter.headers) if letter.headers else None,
        letter.created, letter.cause.value, letter.reason, letter.attempts, letter.version,
    )  # fmt: skip


def _packed(headers: Mapping[str, str]) -> str:
    return msgspec.json.encode(headers).decode()


def _headers(text: str) -> Mapping[str, str]:
    headers: dict[str, str] = msgspec.json.decode(text, type=dict[str, str])
    return headers


def _delivered(partition: int, row: tuple[Any, ...]) -> Delivered:
    place, identifier, key, value, headers, created, committed = row
    generation, offset = divmod(place, _GENERATION)
    output = Output(offset, identifier, key, value, _headers(headers) if headers else NO_HEADERS, created)
    return Delivered(partition, Cursor(generation, offset), output, committed)


def _pages(outputs: Sequence[Output]) -> int:
    """How many a commit writes, about: state, table and inner pages, and the outputs, taken to be of one size."""
    return 4 + (len(outputs) * (len(outputs[0].value) + _ROW_BYTES) // _PAGE_BYTES if outputs else 0)


def _place(generation: int, offset: int) -> int:
    """One number for both: SQLite appends to a table by such a key without moving what is there."""
    return generation * _GENERATION + offset
