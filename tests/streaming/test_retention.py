"""What is old is removed, and nobody is ever given something else in its place."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest
import redis

from streaming.queues import factory
from streaming.queues.base import Cursor, NewEvent, Queue
from streaming.queues.log import LogReader
from streaming.queues.sqlite import SqliteQueue
from streaming.reader import Reader
from streaming.settings import QueueSettings
from streaming.trim import Trimmer
from tests.conftest import wait_for
from tests.streaming import trimming
from tests.streaming.conftest import RedisServer
from tests.streaming.test_queue_contract import answers, everything, letter, new_events, partition_of, polled
from zaphod import machine
from zaphod.errors import ConfigError, QueueUnavailableError, TrimmedError

WINDOW_S = 0.05
OpenQueue: TypeAlias = Callable[[], Queue]
PARTITION = partition_of("k")


@pytest.fixture(params=["sqlite", "redis"])
def open_queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenQueue]:
    """Opens the same two-partition stream as often as it is called, as other processes would."""
    opened: list[Queue] = []
    document = {"kind": request.param, "path": str(tmp_path / "stream"), "name": tmp_path.name, "partitions": 2}
    if request.param == "redis":
        document["url"] = request.getfixturevalue("redis_server").url
    settings = QueueSettings.model_validate(document | {"dedupe_window_s": WINDOW_S})

    def opening() -> Queue:
        opened.append(factory.open_queue(settings))
        return opened[-1]

    yield opening
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(open_queue: OpenQueue) -> Queue:
    """The stream, opened once."""
    return open_queue()


def commit(queue: Queue, num: int, *, dead: bool = True) -> None:
    """So many events, of which one in three is a dead letter, unless told otherwise."""
    consumer = queue.consumer("me", lease_s=30)
    assert consumer.acquire(PARTITION, steal=True) is not None
    batch = polled(consumer, num=num)
    letters = [letter(event) for event in batch.events if dead and event.offset % 3 == 2]
    outputs = [output for output in answers(batch) if not dead or output.offset % 3 != 2]
    consumer.commit(batch, outputs=outputs, dead_letters=letters)
    consumer.close()


def trim_all(queue: Queue) -> None:
    """Whatever its age, once nobody can send it again unseen."""
    time.sleep(2 * WINDOW_S)  # the window's own time
    while queue.trim(keep_s=0):
        pass


def test_what_is_young_stays(queue: Queue) -> None:
    """Until its time is over, and then it goes; what is committed later has a time of its own."""
    queue.produce(new_events(6))
    began = time.time()
    commit(queue, 3)
    assert queue.trim(keep_s=60) == 0
    assert everything(queue) == [b"answer 0", b"answer 1"]
    wait_for(lambda: bool(queue.trim(keep_s=0.5)), what="something old")
    assert time.time() >= began + 0.5
    wait_for(lambda: queue.trim(keep_s=0.5) == 0, what="nothing more")
    assert everything(queue) == []
    commit(queue, 3)
    assert queue.trim(keep_s=60) == 0
    assert everything(queue) == [b"answer 3", b"answer 4"]


def test_what_waits_and_what_is_dead_stays(queue: Queue, open_queue: OpenQueue) -> None:
    """However old: events that are not scored come all the same, and dead letters keep their bytes."""
    queue.produce(new_events(8))
    commit(queue, 4)

    trim_all(queue)

    assert everything(queue) == []
    assert sum(position.lag for position in queue.positions()) == 4
    (entry,) = queue.read_dead_letters({0: Cursor(), 1: Cursor()}, max_letters=10)
    assert entry.letter.value == b"2"
    consumer = open_queue().consumer("other", lease_s=30)
    consumer.acquire(PARTITION)
    assert [event.value for event in polled(consumer, num=4).events] == [b"4", b"5", b"6", b"7"]
    consumer.close()


def test_a_reader_behind_the_first_that_is_kept_is_told(queue: Queue, open_queue: OpenQueue) -> None:
    """One that had read all goes on, one that begins gets what is there; who would miss something gets an error."""
    queue.produce(new_events(12))
    commit(queue, 4)
    other = open_queue()
    early = {PARTITION: Cursor(0, 0)}
    assert [each.output.offset for each in other.read_outputs(early, max_outputs=10)] == [1, 3]
    reader = Reader(other)
    assert len(reader.read(wait_s=0)) == 3

    trim_all(queue)
    commit(queue, 4)

    with pytest.raises(TrimmedError, match="after output 0/0: outputs up to 0/3 were removed"):
        other.read_outputs(early, max_outputs=10)
    assert [each.output.offset for each in reader.read(wait_s=5)] == [4, 6, 7]
    assert everything(open_queue()) == [b"answer 4", b"answer 6", b"answer 7"]
    trim_all(queue)
    commit(queue, 4)
    assert [each.output.offset for each in reader.read(wait_s=5)] == [9, 10]


def test_a_replay_begins_at_the_first_that_is_kept(queue: Queue) -> None:
    """And says so; outputs of it come after those that were removed."""
    queue.produce(new_events(6))
    commit(queue, 4)
    reader = Reader(queue)
    reader.read(wait_s=0)
    trim_all(queue)

    assert queue.replay(PARTITION, offset=0) == 4

    commit(queue, 2)
    assert queue.replay(PARTITION, offset=5) == 5
    commit(queue, 1)
    found = [*reader.read(wait_s=5), *reader.read(wait_s=0)]
    assert [(each.cursor.generation, each.output.offset) for each in found] == [(1, 4)]
    assert queue.replay(PARTITION, offset=0) == 4
    trim_all(queue)
    assert queue.replay(PARTITION, offset=0) == 4


def test_an_emptied_stream_goes_on(queue: Queue, open_queue: OpenQueue) -> None:
    """With the offsets that it had."""
    queue.produce(new_events(3))
    commit(queue, 3)
    trim_all(queue)
    assert queue.replay(PARTITION, offset=0) == 3

    queue.produce(new_events(3, start=10))
    commit(open_queue(), 3)

    assert everything(queue) == [b"answer 10", b"answer 11"]
    assert {position.end_offset for position in queue.positions()} == {0, 6}
    assert queue.trim(keep_s=60) == 0


def test_repeated_ids_are_known_for_the_window(tmp_path: Path) -> None:
    """Although everything else may go at once."""
    queue = SqliteQueue(tmp_path / "stream", num_partitions=2, dedupe_window_s=60)
    queue.produce(new_events(3))
    commit(queue, 3)

    assert queue.trim(keep_s=1e-9) == 2

    assert queue.produce(new_events(4)) == 1
    queue.close()


def test_the_disk_gets_its_room_back(tmp_path: Path) -> None:
    """The log's files take no more than what is kept; outputs are written where others were."""
    queue = SqliteQueue(tmp_path / "stream", num_partitions=2, dedupe_window_s=WINDOW_S)

    def used(name: str) -> int:
        return (tmp_path / "stream" / f"p{PARTITION:04d}.{name}").stat().st_blocks * 512

    for start in range(0, 20_000, 2_000):
        value = b"x" * 500
        queue.produce(
            [NewEvent(value=value, id=f"e{i}", key="k", created=time.time()) for i in range(start, start + 2_000)]
        )
        commit(queue, 2_000, dead=False)
        trim_all(queue)

    assert used("log") < 100_000
    assert used("index") < 20_000
    assert used("out.db") < 5_000_000
    queue.close()


def test_a_file_system_that_cannot_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first call, not only when there is something to remove."""

    class Libc:
        @staticmethod
        def fallocate(*_: object) -> int:
            return -1

    queue = SqliteQueue(tmp_path / "stream", num_partitions=2)
    monkeypatch.setattr("streaming.queues.log._libc", lambda: Libc)
    monkeypatch.setattr("ctypes.get_errno", lambda: 95)

    with pytest.raises(ConfigError, match="file system"):
        queue.trim(keep_s=60)
    queue.close()


def test_a_reader_of_the_log_never_sees_what_was_freed(tmp_path: Path) -> None:
    """Before it has come on, or while it reads: the right events or an error."""
    queue = SqliteQueue(tmp_path / "stream", num_partitions=2, dedupe_window_s=WINDOW_S)
    stop = threading.Event()
    seen: list[str] = []

    def read() -> None:
        log = LogReader(tmp_path / "stream", f"p{PARTITION:04d}")
        rng = random.Random(1)
        while not stop.is_set():
            offset = rng.randrange(max(1, log.end))
            with contextlib.suppress(TrimmedError):
                found = log.read(offset, max_events=50)
                seen.extend(f"{event.offset}: {event.id}" for event in found if event.id != f"e{event.offset}")
        log.close()

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(0, 3_000, 100):
        queue.produce(new_events(100, start=start))
        commit(queue, 100)
        trim_all(queue)
    stop.set()
    for reader in readers:
        reader.join()

    assert seen == []
    queue.close()


def test_whoever_removes_may_be_killed(tmp_path: Path) -> None:
    """`kill -9` amid it: every event is answered once all the same, and the next one goes on.

    It begins with what was read before it began.
    """
    context = multiprocessing.get_context("forkserver")
    queue = SqliteQueue(tmp_path / "stream", num_partitions=2, dedupe_window_s=WINDOW_S)
    rng = random.Random(1)
    reader = Reader(queue)
    found: list[int] = []
    for start in range(0, 600, 30):
        ready, tells = context.Pipe(duplex=False)
        arguments = (tmp_path / "stream", WINDOW_S, time.time(), tells)
        process = context.Process(target=trimming.trim_forever, args=arguments, daemon=True)
        process.start()
        tells.close()
        ready.recv()
        ready.close()
        queue.produce(new_events(30, start=start))
        commit(queue, 30)
        found += [each.output.offset for each in reader.read(wait_s=5)]
        time.sleep(rng.uniform(0.0, 0.1))  # random moments are the point
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    assert found == [offset for offset in range(600) if offset % 3 != 2]
    assert len(everything(queue)) < len(found), "each was killed before it had removed anything"
    trim_all(queue)
    assert queue.replay(PARTITION, offset=0) == 600
    assert everything(queue) == []
    queue.close()


def test_a_full_server_gets_room_again(tmp_path: Path) -> None:
    """At `maxmemory` every write is refused; what is old goes all the same, and writing goes on."""
    server = RedisServer(tmp_path, machine.free_port())
    server.start()
    settings = QueueSettings.model_validate(
        {"kind": "redis", "url": server.url, "partitions": 2, "dedupe_window_s": WINDOW_S}
    )
    queue = factory.open_queue(settings)
    value = b"x" * 1_000
    try:
        for start in range(0, 10_000, 1_000):
            ids = [f"e{i}" for i in range(start, start + 1_000)]
            queue.produce([NewEvent(value=value, id=each, key="k", created=time.time()) for each in ids])
            commit(queue, 1_000, dead=False)
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) // 2)
        with pytest.raises(QueueUnavailableError, match="maxmemory"):
            queue.produce(new_events(1, start=1_000_000))
        trim_all(queue)
        assert queue.produce(new_events(1, start=1_000_000)) == 1
    finally:
        queue.close()
        server.kill()


def test_it_is_done_now_and_then() -> None:
    """Again at once while there is more, else after a while; never without a time; a failure ends nothing."""

    class Fake:
        def __init__(self, *results: int | Exception) -> None:
            self.results = list(results)
            self.calls = 0

        def trim(self, *, keep_s: float) -> int:
            assert keep_s == 60.0
            self.calls += 1
            result = self.results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result

    queue = Fake(5, 2, 0, 7)
    trimmer = Trimmer(queue, keep_s=60.0)  # type: ignore[arg-type]
    for _ in range(10):
        trimmer.step()
    assert queue.calls == 3
    failing = Fake(QueueUnavailableError("away"), 0)
    trimmer = Trimmer(failing, keep_s=60.0)  # type: ignore[arg-type]
    trimmer.step()
    trimmer.step()
    assert failing.calls == 1
    Trimmer(failing, keep_s=None).step()  # type: ignore[arg-type]
    assert failing.calls == 1


def test_kafka_does_it_by_itself() -> None:
    """A setting that would do nothing is refused."""
    with pytest.raises(ValueError, match=r"retention\.ms"):
        QueueSettings(kind="kafka", keep_s=60.0)
