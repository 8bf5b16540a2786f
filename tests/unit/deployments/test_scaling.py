"""How many replicas a load asks for."""

from __future__ import annotations

import math
import threading

import pytest

from deployments.scaling import Busyness, ByLoad, wanted_replicas


@pytest.mark.parametrize(
    ("busy", "ongoing", "wanted"),
    [
        ([0.0], 0.0, 0),
        ([0.1], 0.0, 1),
        ([0.6], 0.0, 1),
        ([0.65], 0.0, 1),
        ([1.0], 0.0, 2),
        ([1.0, 1.0], 0.0, 4),
        ([0.4, 0.4, 0.4], 0.0, 2),
        ([0.1], 24.0, 3),
        ([0.0, 0.0], 20.0, 3),
    ],
    ids=["idle", "little", "on-target", "near-target", "saturated", "both-saturated", "too-many", "held", "held-two"],
)  # fmt: skip
def test_replicas_follow_the_larger_need(busy: list[float], ongoing: float, wanted: int) -> None:
    """Time in use and requests held are each brought to their target; what is near a target stays."""
    got = wanted_replicas(
        busy={str(i): share for i, share in enumerate(busy)},
        num_replicas=len(busy), target_busy=0.6, ongoing=ongoing, target_ongoing=8.0,
    )  # fmt: skip

    assert math.ceil(got) == wanted


def test_share_of_time_in_use_is_measured() -> None:
    """A thread that computes is busy, one that waits is not."""
    busyness = Busyness()

    def idle() -> float:
        threading.Event().wait(0.1)
        return busyness.measure()

    def busy() -> float:
        assert sum(i * i for i in range(3_000_000))
        return busyness.measure()

    # Of several: a CPU that one has to wait for is busy, and what a virtual machine's host takes is counted nowhere.
    assert min(idle() for _ in range(5)) < 0.5
    assert max(busy() for _ in range(3)) > 0.5


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_impossible_target_is_refused(share: float) -> None:
    """A target outside of 0 to 1 is an error when the application is deployed."""
    with pytest.raises(ValueError, match="target_busy"):
        ByLoad(target_busy=share)
