"""The life of a consumer: leases are renewed beside its steps, outages said and waited out, leases given back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.loop import Loop
from streaming.queues.sqlite import SqliteConsumer, SqliteQueue
from zaphod.errors import QueueUnavailableError

DOWN = QueueUnavailableError("Cannot use the queue: the disk is full. It is tried again.")


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqliteQueue]:
    """A stream of one partition."""
    opened = SqliteQueue(tmp_path / "stream", num_partitions=1)
    yield opened
    opened.close()


@pytest.fixture
def consumer(queue: SqliteQueue) -> SqliteConsumer:
    """Holds the partition."""
    made = queue.consumer("me", lease_s=30)
    made.acquire(0)
    return made


def loop_of(consumer: SqliteConsumer) -> Loop:
    """One that renews and retries within milliseconds."""
    return Loop(consumer, lease_s=0.003, first_s=0.001, longest_s=0.001)


def test_leases_are_renewed_while_a_step_lasts(consumer: SqliteConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow model costs no lease."""
    loop, renewed = loop_of(consumer), threading.Semaphore(0)
    monkeypatch.setattr(consumer, "renew", renewed.release)

    def step() -> None:
        for _ in range(3):
            assert renewed.acquire(timeout=30)
        loop.stop()

    loop.run(step)


def test_renewals_that_fail_are_said_once_an_outage(
    consumer: SqliteConsumer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With the reason; the loop goes on, for the fence keeps a late commit out."""
    loop, outcomes, over = loop_of(consumer), iter([DOWN, DOWN, None, DOWN]), threading.Event()

    def renew() -> None:
        try:
            outcome = next(outcomes)
        except StopIteration:
            over.set()
            return
        if outcome is not None:
            raise outcome

    def step() -> None:
        assert over.wait(30)
        loop.stop()

    monkeypatch.setattr(consumer, "renew", renew)
    loop.run(step)

    told = [record.getMessage() for record in caplog.records if record.name == "streaming.loop"]
    assert [message.count("the disk is full") for message in told] == [1, 1]


def test_an_outage_is_waited_out(consumer: SqliteConsumer) -> None:
    """The step is repeated until the queue can be used."""
    loop, failures = loop_of(consumer), iter([DOWN, DOWN])

    def step() -> None:
        for failure in failures:
            raise failure
        loop.stop()

    loop.run(step)

    assert next(failures, None) is None


def test_stopped_in_an_outage_it_gives_the_leases_back(
    queue: SqliteQueue, consumer: SqliteConsumer, caplog: pytest.LogCaptureFixture
) -> None:
    """What was not committed is for the next owner, who need not wait."""
    loop = loop_of(consumer)

    def step() -> None:
        loop.stop()
        raise DOWN

    loop.run(step)

    assert queue.positions()[0].owner is None
    assert "stopped while the queue could not be used" in caplog.text
