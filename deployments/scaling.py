"""When to add and remove replicas: by how busy their event loops are and how many requests they hold.

Ray's own policy counts the requests that a replica holds. One that answers each in microseconds, one after the other,
holds none whenever it is looked at, however many wait in their sockets: it would never be scaled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

BUSY = "busy"
_DEFAULT_TARGET_BUSY = 0.6


class Busyness:
    """The share of time in which one thread ran or waited for a CPU, from Linux' scheduler; elsewhere, in which it ran.

    Waiting counts, since on a crowded machine a thread that never sleeps runs but a part of the time.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic, used: Callable[[], float] | None = None) -> None:
        """Measures the thread that makes it."""
        self._clock = clock
        self._used = used or _thread_seconds()
        self._then = clock(), self._used()
        self.ratio = 0.0

    def measure(self) -> float:
        """The share since the last measurement, from 0 to 1."""
        now, used = self._clock(), self._used()
        before, used_before = self._then
        if now > before:
            self.ratio = min(1.0, max(0.0, (used - used_before) / (now - before)))
            self._then = now, used
        return self.ratio


def _thread_seconds() -> Callable[[], float]:
    path = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    if not path.exists():
        clock = time.pthread_getcpuclockid(threading.get_ident())
        return lambda: time.clock_gettime(clock)

    def read() -> float:
        ran, waited, _ = path.read_text().split()
        return (int(ran) + int(waited)) / 1e9

    return read


def wanted_replicas(
    *, busy: Mapping[str, float], num_replicas: int, target_busy: float, ongoing: float, target_ongoing: float
) -> float:
    """Replicas at which both figures would be at their targets; busy: by replica, ongoing: of all together.

    Within a tenth of the target nothing changes: what is measured is never quite still.
    """
    by_ongoing = ongoing / target_ongoing
    by_busy = sum(busy.values()) / target_busy
    wanted = round(max(by_busy, by_ongoing), 6)  # Ray rounds up: 2.0000000000000004 would be three
    if abs(wanted - num_replicas) <= 0.1 * num_replicas:
        return float(num_replicas)
    return wanted


class ByLoad:
    """Ray's autoscaling policy: `policy_function: deployments.scaling:ByLoad`.

    target_busy: share of time that a replica should have work, besides Ray's own `target_ongoing_requests`.
    """

    def __init__(self, *, target_busy: float = _DEFAULT_TARGET_BUSY) -> None:
        if not 0.0 < target_busy <= 1.0:
            raise ValueError(f"Expected a share above 0 and up to 1, got {target_busy} - at `target_busy`")
        self._target_busy = target_busy

    def __call__(self, ctx: AutoscalingContext) -> tuple[float, dict[str, object]]:
        found = ctx.aggregated_metrics.get(BUSY, {}) if ctx.aggregated_metrics else {}
        wanted = wanted_replicas(
            busy={replica.unique_id: share for replica, share in found.items()},
            num_replicas=max(1, ctx.current_num_replicas),
            target_busy=self._target_busy,
            ongoing=ctx.total_num_requests,
            target_ongoing=ctx.config.get_target_ongoing_requests() if ctx.config else 1.0,
        )
        return wanted, {}
