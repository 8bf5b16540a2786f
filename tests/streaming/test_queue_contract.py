"""What every queue must do, whatever it is made of."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from streaming.queues import factory
from streaming.queues.base import (
    Cause,
    Commit,
    Consumer,
    Cursor,
    DeadLetter,
    Event,
    MicroBatch,
    NewEvent,
    Output,
    Queue,
)
from streaming.settings import QueueSettings
from tests.conftest import wait_for
from zaphod.errors import FencedError

LEASE_S = 30.0
OpenQueue: TypeAlias = Callable[[], Queue]


@pytest.fixture(params=["sqlite", "redis", "kafka"])
def open_queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenQueue]:
    """Opens the same two-partition stream as often as it is called, as other processes would."""
    opened: list[Queue] = []
    settings = QueueSettings(kind=request.param, path=str(tmp_path / "stream"), name=tmp_path.name, partitions=2)
    if request.param != "sqlite":
        server = request.getfixturevalue(f"{request.param}_server")
        document = settings.model_dump() | {"url": server.url, "options": getattr(server, "options", {})}
        settings = QueueSettings.model_validate(document)

    def opening() -> Queue:
        opened.append(factory.open_queue(settings))
        return opened[-1]

    yield opening
    for queue in opened:
        # One that was opened in another thread has been closed there.
        with contextlib.suppress(sqlite3.ProgrammingError):
            queue.close()


@pytest.fixture
def queue(open_queue: OpenQueue) -> Queue:
    """The stream, opened once."""
    return open_queue()


def new_events(num: int, *, key: str | None = "k", start: int = 0) -> list[NewEvent]:
    """Events of one key with ids `e0`, `e1`, …"""
    return [NewEvent(value=b"%d" % i, id=f"e{i}", key=key, created=time.time()) for i in range(start, start + num)]


def answers(batch: MicroBatch) -> list[Output]:
    """An output for each event."""
    return [Output(e.offset, e.id, e.key, b"answer " + e.value, {}, e.created) for e in batch.events]


def letter(event: Event) -> DeadLetter:
    """A dead letter for the event."""
    return DeadLetter(
        event.offset, event.id, event.key, event.value, event.headers, event.created,
        Cause.UNPROCESSABLE, "Expected JSON, got something else", 1, 3,
    )  # fmt: skip


def polled(consumer: Consumer, *, num: int) -> MicroBatch:
    """So many events, which may take a broker more than one answer; polling again gives the same and more."""
    deadline = time.monotonic() + 20
    while True:
        batch = consumer.poll(max_events=num, wait_s=1)
        if batch is not None and len(batch.events) == num:
            return batch
        assert time.monotonic() < deadline, batch


def produce_in_a_thread(open_queue: OpenQueue) -> None:
    """One event, as another process would."""
    queue = open_queue()
    queue.produce(new_events(1))
    queue.close()


def partition_of(key: str) -> int:
    """Where a key's events are, of two partitions."""
    return NewEvent(value=b"", id="", key=key, created=0.0).partition(2)


def everything(queue: Queue) -> list[bytes]:
    """Every output so far."""
    cursors = {partition: Cursor() for partition in range(queue.num_partitions)}
    return [delivered.output.value for delivered in queue.read_outputs(cursors, max_outputs=1000)]


def test_events_come_in_the_order_of_their_key(queue: Queue) -> None:
    """What one key sent is polled in order, with id, key, value and headers as they were sent."""
    event = NewEvent(value=b"\x00\xff", id="a", key="k", headers={"ce_id": "é"}, created=12.5)
    queue.produce([event, *new_events(5)])
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))

    batch = polled(consumer, num=6)

    assert batch.events[0] == Event(0, "a", "k", b"\x00\xff", {"ce_id": "é"}, 12.5)
    assert [event.value for event in batch.events[1:]] == [b"0", b"1", b"2", b"3", b"4"]
    assert [event.offset for event in batch.events] == list(range(6))
    consumer.close()


def test_a_commit_moves_on_and_shows_the_outputs(queue: Queue, open_queue: OpenQueue) -> None:
    """Committed events do not come again; their outputs are read elsewhere, once and in order."""
    queue.produce(new_events(5))
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))
    first = polled(consumer, num=3)

    consumer.commit(first, outputs=answers(first), dead_letters=[])
    second = polled(consumer, num=2)

    assert [event.value for event in second.events] == [b"3", b"4"]
    assert everything(open_queue()) == [b"answer 0", b"answer 1", b"answer 2"]
    assert sum(position.lag for position in queue.positions()) == 2
    consumer.close()


def test_what_waits_elsewhere_may_be_scored_with_it(queue: Queue) -> None:
    """Others' events come at most so many, never the polled partition's, and each batch is committed for itself."""
    keys = [next(key for key in "abcdefgh" if partition_of(key) == partition) for partition in (0, 1)]
    for start, key in zip((0, 10), keys, strict=True):
        queue.produce(new_events(3, key=key, start=start))
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(0)
    consumer.acquire(1)
    values: set[bytes] = set()
    deadline = time.monotonic() + 20

    while len(values) < 6:
        assert time.monotonic() < deadline, values
        batch = consumer.poll(max_events=3, wait_s=1)
        if batch is None:
            continue
        others = consumer.poll_others(batch, max_events=2)
        assert batch.partition not in {other.partition for other in others}
        assert sum(len(other.events) for other in others) <= 2
        for each in (batch, *others):
            consumer.commit(each, outputs=answers(each), dead_letters=[])
            values |= {event.value for event in each.events}

    assert len(everything(queue)) == 6
    consumer.close()


def test_without_a_commit_the_same_events_come_again(queue: Queue) -> None:
    """A consumer that died before its commit has changed nothing."""
    queue.produce(new_events(3))
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))

    first = polled(consumer, num=3)
    again = polled(consumer, num=3)

    assert first == again
    assert everything(queue) == []
    consumer.close()


def test_a_stolen_lease_fences_the_owner_before(queue: Queue, open_queue: OpenQueue) -> None:
    """A zombie's commit is refused whole and its events are answered by the new owner alone."""
    queue.produce(new_events(3))
    partition = partition_of("k")
    zombie, successor = queue.consumer("old", lease_s=LEASE_S), open_queue().consumer("new", lease_s=LEASE_S)
    zombie.acquire(partition)
    stale = polled(zombie, num=3)

    assert successor.acquire(partition) is None
    lease = successor.acquire(partition, steal=True)
    with pytest.raises(FencedError):
        zombie.commit(stale, outputs=answers(stale), dead_letters=[letter(stale.events[0])])
    with pytest.raises(FencedError):
        zombie.note_attempt(stale, attempts=1)

    assert lease is not None
    assert not lease.clean
    assert everything(queue) == []
    fresh = polled(successor, num=3)
    successor.commit(fresh, outputs=answers(fresh), dead_letters=[])
    assert len(everything(queue)) == 3
    assert partition not in zombie.partitions
    zombie.close()
    successor.close()


def test_a_batch_is_committed_once(queue: Queue) -> None:
    """The same batch again, as after a lost answer, changes nothing."""
    queue.produce(new_events(2))
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))
    batch = polled(consumer, num=2)
    consumer.commit(batch, outputs=answers(batch), dead_letters=[])

    consumer.commit(batch, outputs=answers(batch), dead_letters=[letter(batch.events[0])])

    assert len(everything(queue)) == 2
    assert queue.read_dead_letters({0: Cursor(), 1: Cursor()}, max_letters=10) == []
    consumer.close()


def test_a_released_lease_is_free_and_clean(queue: Queue, open_queue: OpenQueue) -> None:
    """The next owner need not wait, and knows that nobody died."""
    consumer, other = queue.consumer("me", lease_s=LEASE_S), open_queue().consumer("other", lease_s=LEASE_S)
    first = consumer.acquire(0)
    consumer.release(0)

    second = other.acquire(0)

    assert first is not None
    assert second is not None
    assert second.clean
    assert second.epoch > first.epoch
    consumer.close()
    other.close()


def test_an_expired_lease_is_free(queue: Queue, open_queue: OpenQueue) -> None:
    """Who does not renew loses the partition; who does keeps it."""
    lease_s = 0.3
    short, other = queue.consumer("short", lease_s=lease_s), open_queue().consumer("other", lease_s=LEASE_S)
    while True:
        short.acquire(0, steal=True)
        short.acquire(1, steal=True)
        deadline = time.monotonic() + 2 * lease_s
        renewed = 0.0
        while time.monotonic() < deadline:
            renewed = time.monotonic()
            short.renew()
        refused = other.acquire(0) is None
        if time.monotonic() < renewed + lease_s:
            break
        # This process stood still, or the queue: the lease was over by then, perhaps.
    assert refused

    time.sleep(1.5 * lease_s)  # the lease's own time is what is tested

    assert other.acquire(0) is not None
    short.renew()
    short.poll(max_events=1, wait_s=0)
    assert short.partitions == {1}
    short.close()
    other.close()


def test_an_attempt_is_remembered_for_the_successor(queue: Queue, open_queue: OpenQueue) -> None:
    """What was noted before a process died is what its successor is told; a commit forgets it."""
    queue.produce(new_events(2))
    partition = partition_of("k")
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition)
    batch = polled(consumer, num=1)
    consumer.note_attempt(batch, attempts=2)

    successor = open_queue().consumer("other", lease_s=LEASE_S)
    lease = successor.acquire(partition, steal=True)

    assert lease is not None
    assert lease.attempts == 2
    again = polled(successor, num=1)
    successor.commit(again, outputs=answers(again), dead_letters=[])
    third = open_queue().consumer("third", lease_s=LEASE_S).acquire(partition, steal=True)
    assert third is not None
    assert third.attempts == 0
    consumer.close()
    successor.close()


def test_a_repeated_id_is_dropped(queue: Queue) -> None:
    """What a producer sends again is answered once, whether it never enters the log or is passed over there."""
    queue.produce(new_events(3))
    queue.produce(new_events(4))
    queue.produce(new_events(4))
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))

    batch = polled(consumer, num=4)
    consumer.commit(batch, outputs=answers(batch), dead_letters=[])

    def nothing_waits() -> bool:
        assert consumer.poll(max_events=10, wait_s=0.1) is None
        return all(position.lag == 0 for position in queue.positions())

    wait_for(nothing_waits, what="the end of the log")
    assert everything(queue) == [b"answer 0", b"answer 1", b"answer 2", b"answer 3"]
    consumer.close()


def test_a_repeated_id_is_dropped_by_the_next_owner(queue: Queue, open_queue: OpenQueue) -> None:
    """The window is the stream's, not a consumer's."""
    queue.produce(new_events(2))
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))
    batch = polled(consumer, num=2)
    consumer.commit(batch, outputs=answers(batch), dead_letters=[])
    consumer.close()

    queue.produce([*new_events(2), *new_events(1, start=7)])
    successor = open_queue().consumer("other", lease_s=LEASE_S)
    successor.acquire(partition_of("k"))

    assert [event.id for event in polled(successor, num=1).events] == ["e7"]
    successor.close()


def test_dead_letters_keep_everything(queue: Queue) -> None:
    """A dead letter holds the original bytes, cause, attempts and version, and is committed with its batch."""
    queue.produce([NewEvent(value=b"\x00bad", id="x", key="k", headers={"h": "1"}, created=1.0)])
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))
    batch = polled(consumer, num=1)
    consumer.commit(batch, outputs=[], dead_letters=[letter(batch.events[0])])

    (entry,) = queue.read_dead_letters({0: Cursor(), 1: Cursor()}, max_letters=10)

    assert (entry.partition, entry.letter) == (partition_of("k"), letter(batch.events[0]))
    assert entry.letter.value == b"\x00bad"
    assert sum(position.lag for position in queue.positions()) == 0
    assert queue.drop_dead_letter(entry.partition, entry.cursor)
    assert not queue.drop_dead_letter(entry.partition, entry.cursor)
    assert queue.read_dead_letters({0: Cursor(), 1: Cursor()}, max_letters=10) == []
    consumer.close()


def test_answers_may_come_in_any_order(queue: Queue) -> None:
    """A batch whose outputs and letters are not in the order of their events is committed whole all the same."""
    queue.produce(new_events(6))
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))
    batch = polled(consumer, num=6)
    letters = [letter(event) for event in batch.events if event.offset % 2]

    consumer.commit(
        batch,
        outputs=[output for output in reversed(answers(batch)) if output.offset % 2 == 0],
        dead_letters=letters[::-1],
    )

    entries = queue.read_dead_letters({0: Cursor(), 1: Cursor()}, max_letters=10)
    assert sorted(entry.letter.offset for entry in entries) == [1, 3, 5]
    assert sorted(everything(queue)) == [b"answer 0", b"answer 2", b"answer 4"]
    assert sum(position.lag for position in queue.positions()) == 0
    consumer.close()


def test_replay_scores_again_and_keeps_the_old_outputs(queue: Queue) -> None:
    """After a replay events come again, a running consumer is fenced, and new outputs are read after the old."""
    queue.produce(new_events(4))
    partition = partition_of("k")
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition)
    batch = polled(consumer, num=4)
    consumer.commit(batch, outputs=answers(batch), dead_letters=[])
    ends = queue.output_ends()

    queue.replay(partition, offset=2)

    with pytest.raises(FencedError):
        consumer.note_attempt(batch, attempts=1)
    assert consumer.acquire(partition) is not None
    again = polled(consumer, num=2)
    assert again.first == 2
    consumer.commit(again, outputs=answers(again), dead_letters=[])
    assert [d.output.offset for d in queue.read_outputs(ends, max_outputs=10)] == [2, 3]
    assert len(everything(queue)) == 6
    consumer.close()


@pytest.mark.parametrize("offset", [2, 3, 100])
def test_a_replay_passes_over_nothing(queue: Queue, offset: int) -> None:
    """From an offset that has not been scored yet, or is not there yet, the partition goes on where it was."""
    queue.produce(new_events(4))
    partition = partition_of("k")
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition)
    batch = polled(consumer, num=2)
    consumer.commit(batch, outputs=answers(batch), dead_letters=[])

    assert queue.replay(partition, offset=offset) == 2

    assert sum(position.lag for position in queue.positions()) == 2
    assert consumer.acquire(partition) is not None
    assert [event.value for event in polled(consumer, num=2).events] == [b"2", b"3"]
    consumer.close()


def test_a_waiting_poll_hears_a_producer_and_a_wake(queue: Queue, open_queue: OpenQueue) -> None:
    """A poll returns as soon as an event is there, not at the end of its wait; `wake` ends it too."""
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))
    polled: list[MicroBatch | None] = []
    thread = threading.Thread(target=produce_in_a_thread, args=(open_queue,), daemon=True)

    thread.start()
    while not polled or polled[-1] is None:
        polled.append(consumer.poll(max_events=1, wait_s=20))
    thread.join()
    waker = threading.Timer(0.1, consumer.wake)
    waker.start()
    consumer.commit(polled[-1], outputs=[], dead_letters=[])
    began = time.monotonic()

    assert consumer.poll(max_events=1, wait_s=60) is None
    assert time.monotonic() - began < 30
    consumer.close()


def test_a_reader_hears_a_commit(queue: Queue, open_queue: OpenQueue) -> None:
    """A reader that waits for outputs is woken by the commit."""
    queue.produce(new_events(1))
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(partition_of("k"))
    batch = polled(consumer, num=1)
    queue.wait_outputs(timeout_s=0)  # begins to listen
    while queue.wait_outputs(timeout_s=0):
        pass

    consumer.commit(batch, outputs=answers(batch), dead_letters=[])

    assert queue.wait_outputs(timeout_s=20)
    assert everything(queue) == [b"answer 0"]
    consumer.close()


def test_a_reader_hears_a_commit_whose_companion_fails(queue: Queue) -> None:
    """Two commits at once: each for itself. Readers hear of the one when the other is refused."""
    keys = [next(key for key in "abcdefgh" if partition_of(key) == partition) for partition in (0, 1)]
    for start, key in zip((0, 10), keys, strict=True):
        queue.produce(new_events(1, key=key, start=start))
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(0)
    first = polled(consumer, num=1)
    consumer.acquire(1)
    second = first
    deadline = time.monotonic() + 20
    while second.partition == 0:
        assert time.monotonic() < deadline
        second = consumer.poll(max_events=1, wait_s=1) or first
    queue.replay(1, offset=0)
    queue.wait_outputs(timeout_s=0)  # begins to listen
    while queue.wait_outputs(timeout_s=0):
        pass

    commits = [Commit(batch, answers(batch), []) for batch in (first, second)]
    assert consumer.commit_all(commits) == [True, False]

    assert queue.wait_outputs(timeout_s=20)
    assert everything(queue) == [b"answer 0"]
    consumer.close()
