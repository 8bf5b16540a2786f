"""The pool at one moment, for people and for metrics."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace

from streaming.queues.base import Position
from streaming.stats import NOTHING, Counts, Status, total


@dataclass(frozen=True)
class PoolView:
    """counts: by partition, of all scorers since the supervisor began. num_lost: scorers that died.

    ready: every partition has had an owner. num_logged, num_unlogged: as a scorer's.
    """

    ready: bool
    positions: tuple[Position, ...]
    counts: dict[int, Counts]
    num_scorers: int
    num_fenced: int
    num_acquired: int
    num_lost: int
    versions: frozenset[int]
    waiting: str | None
    num_logged: int = 0
    num_unlogged: int = 0

    @property
    def lag(self) -> int:
        return sum(position.lag for position in self.positions)

    @functools.cached_property
    def total(self) -> Counts:
        """Of all partitions."""
        return total(self.counts.values())


@dataclass(slots=True)
class Totals:
    """Adds up what scorers counted, those that are gone too."""

    counts: dict[int, Counts] = field(default_factory=dict)
    num_fenced: int = 0
    num_acquired: int = 0
    num_logged: int = 0
    num_unlogged: int = 0

    def add(self, status: Status) -> None:
        for partition, counts in status.counts.items():
            self.counts[partition] = self.counts.get(partition, NOTHING) + counts
        self.num_fenced += status.num_fenced
        self.num_acquired += status.num_acquired
        self.num_logged += status.num_logged
        self.num_unlogged += status.num_unlogged

    def copy(self) -> Totals:
        return replace(self, counts=dict(self.counts))
