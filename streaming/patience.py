"""Waiting for a queue that cannot be used: an unreachable broker, a full disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from zaphod.errors import QueueUnavailableError

_log = logging.getLogger(__name__)

_T = TypeVar("_T")


def patiently(
    action: Callable[[], _T],
    *,
    stopping: threading.Event,
    first_s: float,
    longest_s: float,
    tell: Callable[[str | None], object],
) -> _T:
    """The action's result, once the queue can be used; said once when the waiting begins and once when it is over.

    first_s: the first pause, doubled for each further one up to longest_s. tell: called with the reason at each
    failure, with None when it is over.

    Raises: QueueUnavailableError when `stopping` is set meanwhile; whatever else the action raises.
    """
    failures = 0
    while True:
        try:
            result = action()
        except QueueUnavailableError as error:
            failures += 1
            if failures == 1:
                _log.warning("the queue cannot be used; waiting for it: %s", error.message)
            tell(error.message)
            if stopping.wait(min(first_s * 2.0 ** min(failures - 1, 30), longest_s)):
                raise
        else:
            if failures:
                _log.warning("the queue can be used again")
                tell(None)
            return result
