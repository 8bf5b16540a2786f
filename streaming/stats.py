"""What a scorer counts of itself, cheap enough for every event."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from streaming.queues.base import MicroBatch

# Event to commit, in seconds: 40 steps a decade from 10 us to 1000 s, so that a quantile is right within 6 %.
_EDGES = np.logspace(-5, 3, 321)


class Latency(msgspec.Struct, frozen=True):
    """Counts per step of the fixed scale; addable across scorers."""

    counts: list[int]

    def quantile(self, share: float) -> float:
        """Seconds; the upper edge of the step that holds it, 0 when nothing was counted."""
        cumulated = np.cumsum(self.counts)
        if not len(cumulated) or cumulated[-1] == 0:
            return 0.0
        step = int(np.searchsorted(cumulated, share * cumulated[-1]))
        return float(_EDGES[min(step, len(_EDGES) - 1)])

    def __add__(self, other: Latency) -> Latency:
        return Latency([mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)])


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A scorer at one moment. pid and node: where it runs; waiting: why it cannot use the queue."""

    pid: int
    node: str
    partitions: tuple[int, ...]
    num_events: int
    num_batches: int
    num_dead: int
    num_fenced: int
    latency: Latency
    version: int
    waiting: str | None


@dataclass(slots=True)
class Stats:
    """Written by the scoring thread alone."""

    num_events: int = 0
    num_batches: int = 0
    num_dead: int = 0
    fenced: int = 0
    waiting: str | None = None
    started: float = field(default_factory=time.time)
    _counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(_EDGES) + 1, dtype=np.int64))

    def count(self, batch: MicroBatch, *, num_dead: int, now: float) -> None:
        """now: when the commit was done, seconds since the epoch."""
        self.num_events += len(batch.events)
        self.num_batches += 1
        self.num_dead += num_dead
        ages = now - np.array([event.created for event in batch.events])
        np.add.at(self._counts, np.searchsorted(_EDGES, ages), 1)

    def status(self, partitions: frozenset[int], *, version: int, node: str) -> Status:
        return Status(
            pid=os.getpid(),
            node=node,
            partitions=tuple(sorted(partitions)),
            num_events=self.num_events,
            num_batches=self.num_batches,
            num_dead=self.num_dead,
            num_fenced=self.fenced,
            latency=Latency(self._counts.tolist()),
            version=version,
            waiting=self.waiting,
        )


def no_latency() -> Latency:
    """Nothing counted yet."""
    return Latency([0] * (len(_EDGES) + 1))
