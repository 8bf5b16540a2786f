"""Removes what is old from a stream, now and then."""

from __future__ import annotations

import logging
import time

from streaming.queues.base import Queue
from zaphod.errors import QueueUnavailableError

_log = logging.getLogger(__name__)

# Of the time that things are kept: so much longer some stay.
_SHARE = 0.02
_LEAST_S = 1.0


class Trimmer:
    """For whoever looks after a stream; cheap to ask often."""

    def __init__(self, queue: Queue, *, keep_s: float | None) -> None:
        """keep_s: `queue.keep_s`; nothing is removed when None."""
        self._queue = queue
        self._keep_s = keep_s
        self._due = 0.0
        self._failing = False

    def step(self) -> None:
        """Removes a part of what is due. Raises: ConfigError."""
        if self._keep_s is None or time.monotonic() < self._due:
            return
        try:
            if self._queue.trim(keep_s=self._keep_s):
                return
        except QueueUnavailableError as error:
            # Not what a stream is for: it goes on without.
            if not self._failing:
                _log.warning("cannot remove what is old; it is tried again: %s", error.message)
            self._failing = True
        else:
            self._failing = False
        self._due = time.monotonic() + max(_LEAST_S, _SHARE * self._keep_s)
