"""The life of whoever consumes partitions: step after step until it is stopped, its leases renewed beside it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from streaming.patience import patiently
from streaming.queues.base import Consumer
from zaphod.errors import QueueUnavailableError

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class Loop:
    """Runs in one thread; `stop` may be called from another or from a signal handler."""

    def __init__(
        self,
        consumer: Consumer,
        *,
        lease_s: float,
        first_s: float,
        longest_s: float,
        stopping: threading.Event | None = None,
        tell: Callable[[str | None], object] = lambda _: None,
    ) -> None:
        """stopping: when somebody else looks at it too. first_s, longest_s, tell: as `patiently` takes them."""
        self._consumer = consumer
        self._lease_s = lease_s
        self._first_s = first_s
        self._longest_s = longest_s
        self._stopping = stopping or threading.Event()
        self._tell = tell

    def stop(self) -> None:
        """The step at hand is finished, the leases are given back, then `run` returns."""
        self._stopping.set()
        self._consumer.wake()

    def run(self, step: Callable[[], object]) -> None:
        """Until `stop`. Outages of the queue are waited out."""
        renewal = threading.Thread(target=self._renew, name="renew", daemon=True)
        renewal.start()
        try:
            while not self._stopping.is_set():
                self.patiently(step)
        except QueueUnavailableError:
            _log.warning("stopped while the queue could not be used; what was not committed is read again by the next")
        finally:
            self._stopping.set()
            self._consumer.close()
            renewal.join()

    def patiently(self, action: Callable[[], _T]) -> _T:
        """Waits out an unreachable queue or a full disk. Raises: QueueUnavailableError when it shall stop meanwhile."""
        return patiently(
            action, stopping=self._stopping, first_s=self._first_s, longest_s=self._longest_s, tell=self._tell
        )  # fmt: skip

    def _renew(self) -> None:
        failing = False
        while not self._stopping.wait(self._lease_s / 3):
            try:
                self._consumer.renew()
            except QueueUnavailableError as error:
                if not failing:
                    _log.warning("cannot renew the leases; the fence keeps a late commit out: %s", error.message)
                failing = True
            else:
                failing = False
