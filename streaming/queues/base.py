"""What a queue must do for Zaphod: one contract that every backend keeps and one suite that holds it to it.

A stream is cut into partitions. A partition is a log of events; one consumer at a time holds its lease, reads on from
the committed offset and commits outputs, dead letters and the next offset in one atomic step. Every new lease has a
higher epoch; a commit under an older one is refused whole, so a consumer that was thought dead can do no harm.
"""

from __future__ import annotations

import enum
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from zaphod.errors import FencedError, TrimmedError

NO_HEADERS: Mapping[str, str] = {}


class Guarantee(enum.StrEnum):
    """What a backend promises about an event's output when processes die at any point."""

    EXACTLY_ONCE = "exactly_once"
    AT_LEAST_ONCE = "at_least_once"


class NewEvent(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a producer appends.

    id: unique; the same id again within the window is dropped as a producer's retry. key: events with the same key keep
    their order; without one the id decides the partition. created: seconds since the epoch.
    """

    value: bytes
    id: str
    created: float
    key: str | None = None
    headers: Mapping[str, str] = NO_HEADERS

    def partition(self, num_partitions: int) -> int:
        """The same in every process and release: CRC-32 of key or id."""
        return zlib.crc32((self.id if self.key is None else self.key).encode()) % num_partitions


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event in a partition's log. offset counts from 0 without gaps."""

    offset: int
    id: str
    key: str | None
    value: bytes
    headers: Mapping[str, str]
    created: float


class Output(msgspec.Struct, frozen=True, gc=False):
    """The answer to one event, which it shares offset, id, key and created with."""

    offset: int
    id: str
    key: str | None
    value: bytes
    headers: Mapping[str, str]
    created: float


class Cause(enum.StrEnum):
    """Why an event is a dead letter."""

    UNPROCESSABLE = "unprocessable"
    """It cannot be decoded or breaks the schema: never retried."""

    FAILED = "failed"
    """The model failed on it, or the process died of it, as often as was allowed."""


class DeadLetter(msgspec.Struct, frozen=True, gc=False):
    """An event that got no answer: its original bytes and what became of it. version: of the model that refused it."""

    offset: int
    id: str
    key: str | None
    value: bytes
    headers: Mapping[str, str]
    created: float
    cause: Cause
    reason: str
    attempts: int
    version: int


class MicroBatch(msgspec.Struct, frozen=True):
    """Events of one partition, in order, that wait for their commit. Under this epoch and no other."""

    partition: int
    epoch: int
    events: list[Event]

    @property
    def first(self) -> int:
        return self.events[0].offset

    @property
    def next_offset(self) -> int:
        """Where the partition goes on after this batch."""
        return self.events[-1].offset + 1


class Commit(msgspec.Struct, frozen=True):
    """A micro-batch with what became of its events."""

    batch: MicroBatch
    outputs: Sequence[Output]
    dead_letters: Sequence[DeadLetter]


@dataclass(frozen=True, slots=True)
class Position:
    """One partition at one moment. oldest_s: age of the oldest waiting event in seconds, 0 when none waits.

    owner: holder of the lease, None when it was released; expired: its time has run out.
    """

    partition: int
    next_offset: int
    end_offset: int
    owner: str | None
    epoch: int
    expired: bool
    oldest_s: float

    @property
    def lag(self) -> int:
        return self.end_offset - self.next_offset


class Cursor(msgspec.Struct, frozen=True, gc=False):
    """A reader's place in one partition's outputs: after this replay generation's offset.

    Without arguments before the first output that is kept.
    """

    generation: int = 0
    offset: int = -1


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """An output as a reader sees it. committed: seconds since the epoch."""

    partition: int
    cursor: Cursor
    output: Output
    committed: float


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to consume a partition.

    clean: the owner before gave it back; otherwise it died, perhaps of an event. attempts: how often the event at
    next_offset was noted as about to be scored, by owners that did not come back.
    """

    partition: int
    epoch: int
    next_offset: int
    clean: bool
    attempts: int


@dataclass(frozen=True, slots=True)
class DeadEntry:
    """A dead letter and where it lies."""

    partition: int
    cursor: Cursor
    letter: DeadLetter


class Consumer(Protocol):
    """One scorer's hold on its partitions. One thread polls and commits; `renew` and `wake` may come from others."""

    def acquire(self, partition: int, *, steal: bool = False) -> Lease | None:
        """Takes the lease when it is free or expired; with `steal` from anybody. None: somebody else has it."""
        ...

    def release(self, partition: int) -> None:
        """Gives the lease back, so that the next owner need not wait."""
        ...

    def renew(self) -> None:
        """Extends every lease by its time to live; partitions that went to another are no longer polled."""
        ...

    @property
    def partitions(self) -> frozenset[int]: ...

    def poll(self, *, max_events: int, wait_s: float) -> MicroBatch | None:
        """What waits in one partition, at once when anything does; None when nothing came for `wait_s` or on `wake`.

        Partitions take turns. Polling again without a commit gives the same events again.
        Raises: QueueUnavailableError.
        """
        ...

    def poll_others(self, batch: MicroBatch, *, max_events: int) -> list[MicroBatch]:
        """What is known, without asking a broker, to wait in partitions beside the polled one: so many events in all.

        For who scores them in one call and commits each for itself. Empty is always right.
        """
        ...

    def commit(self, batch: MicroBatch, *, outputs: Sequence[Output], dead_letters: Sequence[DeadLetter]) -> None:
        """Outputs and dead letters, each in any order, and the offset after the batch: all or nothing.

        The same batch again, because the answer was lost, changes nothing.

        Raises: FencedError when the lease went to another, nothing was written; QueueUnavailableError, when it may be
        tried again.
        """
        ...

    def commit_all(self, commits: Sequence[Commit]) -> list[bool]:
        """As `commit`, each of another partition and for itself; False where that raises FencedError.

        Raises: QueueUnavailableError; some may be done then, and all may be tried again.
        """
        ...

    def note_attempt(self, batch: MicroBatch, *, attempts: int) -> None:
        """Keeps, before a suspect event is scored, how often it was tried, should the process die of it.

        Raises: FencedError, QueueUnavailableError.
        """
        ...

    def wake(self) -> None:
        """Ends a waiting poll."""
        ...

    def close(self) -> None:
        """Releases every lease."""
        ...


class Queue(Protocol):
    """A stream on some broker. Cheap to open; each process opens its own.

    risks: what the broker may lose by its configuration, one sentence each.
    """

    guarantee: Guarantee
    risks: Sequence[str]
    spans_nodes: bool
    num_partitions: int

    def produce(self, events: Sequence[NewEvent]) -> int:
        """Appends, durable when it returns; returns how many were new. Raises: QueueUnavailableError."""
        ...

    def consumer(self, owner: str, *, lease_s: float) -> Consumer:
        """owner: unique among all that consume."""
        ...

    def positions(self) -> list[Position]:
        """Every partition as it is now."""
        ...

    def read_outputs(self, cursors: Mapping[int, Cursor], *, max_outputs: int) -> list[Delivered]:
        """Committed outputs after each partition's cursor, in order within a partition; at once, perhaps none.

        Raises: TrimmedError when some after a cursor were removed.
        """
        ...

    def output_ends(self) -> dict[int, Cursor]:
        """Where each partition's outputs end now: read on from there to see only new ones."""
        ...

    def wait_outputs(self, *, timeout_s: float) -> bool:
        """Blocks until an output may have been committed since the last wait, or the time is over (False)."""
        ...

    def read_dead_letters(self, cursors: Mapping[int, Cursor], *, max_letters: int) -> list[DeadEntry]:
        """After each partition's cursor, oldest first within a partition."""
        ...

    def drop_dead_letter(self, partition: int, cursor: Cursor) -> bool:
        """False when it is not there any more."""
        ...

    def replay(self, partition: int, *, offset: int) -> int:
        """Scores again from an offset on; outputs are added, none is replaced. A running consumer is fenced.

        Returns where the partition goes on: never later than it would have, for no event may be passed over, and not
        before the first event that is kept.
        """
        ...

    def trim(self, *, keep_s: float) -> int:
        """Removes what is older than that, some at a time: outputs since their commit, events once they are committed.

        An event is kept for as long as its id is known, too; dead letters are kept for good. From any process at any
        time. Returns how many went; 0 when there is nothing more to do now. Raises: ConfigError where the broker does
        it; QueueUnavailableError.
        """
        ...

    def close(self) -> None: ...


def check_kept(partition: int, cursor: Cursor, removed: Cursor | None) -> None:
    """removed: the newest output that was. Raises: TrimmedError when it comes after the cursor."""
    if removed is None or cursor == Cursor():
        return
    if (cursor.generation, cursor.offset) < (removed.generation, removed.offset):
        raise TrimmedError(
            f"Cannot read on in partition {partition} after output {cursor.generation}/{cursor.offset}: outputs up to "
            f"{removed.generation}/{removed.offset} were removed. Begin again at the first that is kept."
        )


def fenced(partition: int) -> FencedError:
    """What is to be said of a commit that came too late."""
    return FencedError(
        f"Cannot commit to partition {partition}: another owner holds its lease. Its events are scored there."
    )
