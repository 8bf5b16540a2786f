"""Events at a rate."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from streaming import producer
from streaming.queues.base import NewEvent
from streaming.queues.sqlite import SqliteQueue

NUM = 400


def read(queue: SqliteQueue) -> list[NewEvent]:
    """What was produced, in order."""
    consumer = queue.consumer("me", lease_s=30)
    consumer.acquire(0)
    batch = consumer.poll(max_events=10 * NUM, wait_s=0)
    consumer.close()
    assert batch is not None
    return [NewEvent(value=event.value, id=event.id, created=event.created) for event in batch.events]


@pytest.mark.parametrize("rate", [None, 4_000.0, 100_000.0])
def test_each_event_is_sent_once_as_of_when_it_was_due(tmp_path: Path, rate: float | None) -> None:
    """In order, up to the limit; time spent in waiting to be written counts as latency."""
    queue = SqliteQueue(tmp_path / "stream", num_partitions=1)
    events = (NewEvent(value=b"{}", id=str(number), created=0.0) for number in itertools.count())

    assert producer.feed(queue, events, rate=rate, limit=NUM) == NUM

    found = read(queue)
    assert [event.id for event in found] == [str(number) for number in range(NUM)]
    if rate is not None:
        gaps = [later.created - earlier.created for earlier, later in itertools.pairwise(found)]
        assert gaps == pytest.approx([1 / rate] * (NUM - 1), abs=1e-6)
    queue.close()
