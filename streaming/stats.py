"""What a scorer counts of itself, cheap enough for every event."""

from __future__ import annotations

import bisect
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from streaming.queues.base import Cause, DeadLetter, MicroBatch
from zaphod.monitoring.segments import LogCounts

# Event to commit, in seconds: 40 steps a decade from 10 us to 1000 s, so that a quantile is right within 6 %.
_EDGES_ARRAY = np.logspace(-5, 3, 321)
_EDGES: list[float] = _EDGES_ARRAY.tolist()
_MANY = 64
# Upper edges of the sizes of micro-batches.
BATCH_SIZES = tuple(2**power for power in range(15))


class Latency(msgspec.Struct, frozen=True):
    """Counts per step of the fixed scale, and their sum in seconds; addable across scorers."""

    counts: list[int]
    sum_s: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float) -> float:
        """Seconds; the upper edge of the step that holds it, 0 when nothing was counted."""
        cumulated = np.cumsum(self.counts)
        if not len(cumulated) or cumulated[-1] == 0:
            return 0.0
        step = int(np.searchsorted(cumulated, share * cumulated[-1]))
        return _EDGES[min(step, len(_EDGES) - 1)]

    def at_most(self, seconds: float) -> int:
        """How many were counted up to this; exact at the scale's own steps."""
        return sum(self.counts[: bisect.bisect_right(_EDGES, seconds)])

    def __add__(self, other: Latency) -> Latency:
        counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        return Latency(counts, self.sum_s + other.sum_s)


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Of one partition, or of several added up, since the scorer began.

    dead: number of dead letters; batch_sizes: per step of `BATCH_SIZES`.
    """

    num_events: int
    dead: Mapping[Cause, int]
    batch_sizes: list[int]
    latency: Latency

    @property
    def num_dead(self) -> int:
        return sum(self.dead.values())

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            num_events=self.num_events + other.num_events,
            dead={cause: self.dead[cause] + other.dead[cause] for cause in Cause},
            batch_sizes=[mine + theirs for mine, theirs in zip(self.batch_sizes, other.batch_sizes, strict=True)],
            latency=self.latency + other.latency,
        )


NOTHING = Counts(
    num_events=0,
    dead=dict.fromkeys(Cause, 0),
    batch_sizes=[0] * (len(BATCH_SIZES) + 1),
    latency=Latency([0] * (len(_EDGES) + 1)),
)


def total(counts: Iterable[Counts]) -> Counts:
    """All added up."""
    return sum(counts, NOTHING)


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A scorer at one moment. pid and node: where it runs; waiting: why it cannot use the queue.

    num_logged, num_unlogged: rows that the prediction log has written, and dropped for want of room.
    """

    pid: int
    node: str
    partitions: tuple[int, ...]
    counts: dict[int, Counts]
    num_fenced: int
    num_acquired: int
    version: int
    waiting: str | None
    num_logged: int = 0
    num_unlogged: int = 0


@dataclass(slots=True)
class _Tally:
    """The mutable half of Counts."""

    num_events: int = 0
    dead: Counter[Cause] = field(default_factory=Counter)
    sum_s: float = 0.0
    batch_sizes: list[int] = field(default_factory=lambda: [0] * (len(BATCH_SIZES) + 1))
    latency: list[int] = field(default_factory=lambda: [0] * (len(_EDGES) + 1))

    def counts(self) -> Counts:
        return Counts(
            num_events=self.num_events,
            dead={cause: self.dead[cause] for cause in Cause},
            batch_sizes=self.batch_sizes.copy(),
            latency=Latency(self.latency.copy(), self.sum_s),
        )


@dataclass(slots=True)
class Stats:
    """Written by the scoring thread alone."""

    num_fenced: int = 0
    num_acquired: int = 0
    waiting: str | None = None
    _tallies: dict[int, _Tally] = field(default_factory=dict)

    def count(self, batch: MicroBatch, *, dead_letters: Sequence[DeadLetter], now: float) -> None:
        """now: when the commit was done, seconds since the epoch."""
        tally = self._tallies.get(batch.partition)
        if tally is None:
            tally = self._tallies[batch.partition] = _Tally()
        tally.num_events += len(batch.events)
        tally.dead.update(letter.cause for letter in dead_letters)
        tally.batch_sizes[(len(batch.events) - 1).bit_length()] += 1
        ages_s = [now - event.created for event in batch.events]
        tally.sum_s += sum(ages_s)
        if len(ages_s) < _MANY:  # as most batches are when latency counts; for these numpy takes longer
            for age_s in ages_s:
                tally.latency[bisect.bisect_left(_EDGES, age_s)] += 1
        else:
            for step, number in Counter(np.searchsorted(_EDGES_ARRAY, ages_s).tolist()).items():
                tally.latency[step] += number

    def status(self, partitions: frozenset[int], *, version: int, node: str, logged: LogCounts | None = None) -> Status:
        return Status(
            pid=os.getpid(),
            node=node,
            partitions=tuple(sorted(partitions)),
            counts={partition: tally.counts() for partition, tally in list(self._tallies.items())},
            num_fenced=self.num_fenced,
            num_acquired=self.num_acquired,
            version=version,
            waiting=self.waiting,
            num_logged=0 if logged is None else logged.written,
            num_unlogged=0 if logged is None else logged.dropped,
        )
