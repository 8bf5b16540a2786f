"""Reads outputs as they are committed, and measures how old each one's event is by then."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from streaming.queues.base import Cursor, Delivered, Queue

_MAX_AT_ONCE = 1_000
_LONGEST_WAIT_S = 1.0


class Reader:
    """Follows every partition from a place on. Outputs of one partition come in order."""

    def __init__(self, queue: Queue, *, cursors: Mapping[int, Cursor] | None = None) -> None:
        """cursors: from the beginning when None; `queue.output_ends()` for new ones only."""
        self._queue = queue
        start = cursors or {}
        self._cursors = {partition: start.get(partition, Cursor()) for partition in range(queue.num_partitions)}
        # All that was there before the last wait has been read: nothing can be there before the next one ends.
        self._all_read = False

    def read(self, *, wait_s: float) -> list[Delivered]:
        """What is there, at once; else what comes within `wait_s`; empty when nothing did."""
        deadline = time.monotonic() + wait_s
        while True:
            left_s = deadline - time.monotonic()
            if self._all_read:
                self._queue.wait_outputs(timeout_s=max(0.0, min(left_s, _LONGEST_WAIT_S)))
            found = self._queue.read_outputs(self._cursors, max_outputs=_MAX_AT_ONCE)
            self._all_read = len(found) < _MAX_AT_ONCE
            if found or left_s <= 0:
                for delivered in found:
                    self._cursors[delivered.partition] = delivered.cursor
                return found

    def follow(self) -> Iterator[Delivered]:
        """For ever."""
        while True:
            yield from self.read(wait_s=1.0)
