"""What the supervisor decides."""

from __future__ import annotations

from streaming.policy import Assignment, Scale, assign, rescale, restart_pause_s, surplus
from streaming.queues.base import Position
from streaming.settings import PoolSettings


def position(partition: int, owner: str | None = None) -> Position:
    """A partition with nothing in it."""
    return Position(partition=partition, next_offset=0, end_offset=0, owner=owner, epoch=1, expired=False, oldest_s=0.0)


def test_a_lone_scorer_takes_all() -> None:
    """Nobody owns anything yet: the only scorer gets every partition."""
    shared = assign([position(i) for i in range(4)], ready=["a"], dead=[])

    assert shared == {"a": Assignment(frozenset({0, 1, 2, 3}))}


def test_a_newcomer_takes_half_and_nothing_else_moves() -> None:
    """Partitions are within one of each other after a scorer joined, and those that stay do not move."""
    shared = assign([position(i, "a") for i in range(5)], ready=["a", "b"], dead=[])

    assert shared["a"].partitions == {0, 1, 2}
    assert shared["b"].partitions == {3, 4}
    assert not shared["b"].steal


def test_what_a_dead_scorer_had_is_stolen() -> None:
    """Its leases need not run out; the survivor keeps what it has."""
    shared = assign([position(0, "a"), position(1, "gone"), position(2, "gone")], ready=["a"], dead=["gone"])

    assert shared == {"a": Assignment(frozenset({0, 1, 2}), steal=frozenset({1, 2}))}


def test_another_pools_lease_is_waited_for() -> None:
    """An owner that is neither ours nor known dead is not robbed."""
    shared = assign([position(0, "stranger")], ready=["a"], dead=["gone"])

    assert shared["a"] == Assignment(frozenset({0}))


def test_more_scorers_than_partitions() -> None:
    """Some have nothing to do; no partition has two owners."""
    shared = assign([position(0, "a"), position(1)], ready=["a", "b", "c"], dead=[])

    assert shared["a"].partitions == {0}
    assert sum(len(assignment.partitions) for assignment in shared.values()) == 2


def test_no_scorer_no_assignment() -> None:
    """Before anybody is ready there is nothing to tell."""
    assert assign([position(0)], ready=[], dead=[]) == {}


SETTINGS = PoolSettings(min_scorers=1, max_scorers=3, scale_up_age_s=1.0, scale_up_after_s=3.0, scale_down_after_s=60.0)


def test_lateness_that_lasts_adds_one() -> None:
    """A short burst changes nothing; three seconds of late events add a scorer, up to the most."""
    scale = Scale(wanted=1)
    scale = rescale(scale, oldest_s=5.0, lag=0, num_partitions=4, settings=SETTINGS, now=100.0)
    assert scale.wanted == 1
    scale = rescale(scale, oldest_s=0.0, lag=0, num_partitions=4, settings=SETTINGS, now=102.0)
    scale = rescale(scale, oldest_s=5.0, lag=0, num_partitions=4, settings=SETTINGS, now=103.5)
    assert scale.wanted == 1

    for now in range(104, 200):
        scale = rescale(scale, oldest_s=5.0, lag=0, num_partitions=4, settings=SETTINGS, now=float(now))

    assert scale.wanted == 3


def test_never_more_scorers_than_partitions() -> None:
    """A scorer without a partition would only hold memory."""
    scale = Scale(wanted=1)

    for now in range(100):
        scale = rescale(scale, oldest_s=9.0, lag=0, num_partitions=2, settings=SETTINGS, now=float(now))

    assert scale.wanted == 2


def test_many_young_events_are_late_too() -> None:
    """A backlog counts before the oldest of it has grown old."""
    scale = Scale(wanted=1)

    for now in range(5):
        scale = rescale(
            scale, oldest_s=0.1, lag=SETTINGS.scale_up_lag + 1, num_partitions=4, settings=SETTINGS, now=float(now)
        )

    assert scale.wanted == 2


def test_ease_that_lasts_takes_one_away() -> None:
    """After a minute without a late event one scorer goes, never the last."""
    scale = Scale(wanted=2)

    for now in range(59):
        scale = rescale(scale, oldest_s=0.0, lag=0, num_partitions=4, settings=SETTINGS, now=float(now))
    assert scale.wanted == 2
    for now in range(59, 400):
        scale = rescale(scale, oldest_s=0.0, lag=0, num_partitions=4, settings=SETTINGS, now=float(now))

    assert scale.wanted == 1


def test_the_idlest_scorer_goes_first() -> None:
    """Draining the one with the fewest partitions moves the least."""
    assert surplus({"a": 2, "b": 1, "c": 2}, wanted=2) == ["b"]
    assert surplus({"a": 2}, wanted=2) == []


def test_starts_that_fail_are_farther_and_farther_apart() -> None:
    """At once after a success, then 0.2 s doubled, never more than 10 s."""
    assert [restart_pause_s(number) for number in (0, 1, 2, 3, 50)] == [0.0, 0.2, 0.4, 0.8, 10.0]
