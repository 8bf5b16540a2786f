"""Outputs are read as they come, each once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming import reader
from streaming.queues.base import NewEvent, Output
from streaming.queues.sqlite import SqliteConsumer, SqliteQueue
from streaming.reader import Reader


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqliteQueue]:
    """A stream of two partitions."""
    opened = SqliteQueue(tmp_path / "stream", num_partitions=2)
    yield opened
    opened.close()


@pytest.fixture
def consumer(queue: SqliteQueue) -> Iterator[SqliteConsumer]:
    """Holds both."""
    made = queue.consumer("me", lease_s=30)
    made.acquire(0)
    made.acquire(1)
    yield made
    made.close()


def answer(queue: SqliteQueue, consumer: SqliteConsumer, *ids: str) -> None:
    """Events of these ids and their outputs."""
    queue.produce([NewEvent(value=b"", id=name, created=time.time()) for name in ids])
    while (batch := consumer.poll(max_events=100, wait_s=0)) is not None:
        outputs = [Output(event.offset, event.id, None, b"", {}, event.created) for event in batch.events]
        consumer.commit(batch, outputs=outputs, dead_letters=[])


def read(opened: Reader, *, wait_s: float = 0.0) -> list[str]:
    """Ids, by name."""
    return sorted(delivered.output.id for delivered in opened.read(wait_s=wait_s))


def test_outputs_are_read_once_whenever_they_come(queue: SqliteQueue, consumer: SqliteConsumer) -> None:
    """Before the reader begins, between two reads, and after a read that found none."""
    answer(queue, consumer, "a", "b")
    opened = Reader(queue)

    assert read(opened) == ["a", "b"]
    answer(queue, consumer, "c")
    assert read(opened, wait_s=30) == ["c"]
    assert read(opened) == []
    answer(queue, consumer, "d", "e")
    assert read(opened) == ["d", "e"]


def test_what_is_more_than_one_read_takes_comes_with_the_next(
    queue: SqliteQueue, consumer: SqliteConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a wait for further ones."""
    monkeypatch.setattr(reader, "_MAX_AT_ONCE", 2)
    answer(queue, consumer, "a", "b", "c", "d", "e")
    opened = Reader(queue)

    found = [read(opened, wait_s=30) for _ in range(3)]

    assert [len(ids) for ids in found] == [2, 2, 1]
    assert sorted(name for ids in found for name in ids) == ["a", "b", "c", "d", "e"]
