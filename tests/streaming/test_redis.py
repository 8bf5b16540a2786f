"""What a Redis server does to a stream by its configuration, and by coming back without what it had acknowledged."""

from __future__ import annotations

import contextlib
import io
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis
from rich.console import Console

from streaming.display import tell_risks
from streaming.outcomes import OutcomeConsumer
from streaming.queues.base import Commit, Consumer, Cursor, MicroBatch, NewEvent, Output
from streaming.queues.redis import RedisQueue
from tests.conftest import wait_for
from tests.streaming.conftest import RedisServer
from zaphod import machine
from zaphod.errors import ConfigError, FencedError, QueueUnavailableError
from zaphod.monitoring.outcomes import open_outcomes
from zaphod.monitoring.settings import LogSettings

KEY = "k"
LEASE_S = 30.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One of its own, which may be killed."""
    folder = tmp_path / "redis"
    folder.mkdir()
    made = RedisServer(folder, machine.free_port())
    made.start()
    yield made
    made.kill()


@pytest.fixture
def queue(server: RedisServer) -> Iterator[RedisQueue]:
    """A stream of one partition."""
    with contextlib.closing(RedisQueue(server.url, name="s", num_partitions=1)) as opened:
        yield opened


def send(queue: RedisQueue, name: str) -> None:
    """Three events, acknowledged."""
    events = [NewEvent(value=name.encode(), id=f"{name}{i}", key=KEY, created=time.time()) for i in range(3)]
    assert queue.produce(events) == 3


def answers(batch: MicroBatch) -> list[Output]:
    """An output for each event, with its value."""
    return [Output(e.offset, e.id, e.key, e.value, {}, e.created) for e in batch.events]


def polled(consumer: Consumer) -> MicroBatch:
    """The three that wait, whatever the server is doing."""
    found: list[MicroBatch] = []

    def came() -> bool:
        with contextlib.suppress(QueueUnavailableError):
            batch = consumer.poll(max_events=10, wait_s=1)
            found.extend([] if batch is None else [batch])
        return bool(found)

    wait_for(came, what="the events")
    return found[0]


def come_back_without(server: RedisServer, kept: Path) -> None:
    """Killed, and started with its files as they were."""
    server.kill()
    shutil.rmtree(server.folder)
    shutil.copytree(kept, server.folder)
    server.start()


def outputs(queue: RedisQueue) -> list[str]:
    """Ids, in order."""
    return [each.output.id for each in queue.read_outputs({0: Cursor()}, max_outputs=100)]


def test_answers_to_lost_events_do_not_take_the_place_of_others(
    server: RedisServer, queue: RedisQueue, tmp_path: Path
) -> None:
    """The server loses events that were polled; the next ones stand at their offsets."""
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(0)
    kept = Path(shutil.copytree(server.folder, tmp_path / "kept"))
    send(queue, "lost")
    batch = polled(consumer)

    come_back_without(server, kept)
    with pytest.raises(QueueUnavailableError, match="started again"):
        consumer.commit_all([Commit(batch, answers(batch), [])])
    send(queue, "new")

    assert consumer.commit_all([Commit(batch, answers(batch), [])]) == [False]
    with pytest.raises(FencedError):
        consumer.commit(batch, outputs=answers(batch), dead_letters=[])
    assert outputs(queue) == []
    again = polled(consumer)
    assert [event.id for event in again.events] == ["new0", "new1", "new2"]
    assert again.epoch > batch.epoch
    assert consumer.commit_all([Commit(again, answers(again), [])]) == [True]
    assert outputs(queue) == ["new0", "new1", "new2"]
    consumer.close()


def test_outcomes_in_the_place_of_lost_ones_are_taken(server: RedisServer, queue: RedisQueue, tmp_path: Path) -> None:
    """Under a lease that the server has forgotten, too."""
    log = open_outcomes(LogSettings(uri=str(tmp_path / "log")))
    assert log is not None
    kept = Path(shutil.copytree(server.folder, tmp_path / "kept"))
    consumer = OutcomeConsumer(queue, log, lease_s=LEASE_S)

    def tell(name: str) -> None:
        value = b'{"prediction_id": "%s", "value": 1}' % name.encode()
        queue.produce([NewEvent(value=value, id=name, key=KEY, created=time.time())])

    def taken() -> bool:
        with contextlib.suppress(QueueUnavailableError):
            return consumer.step() == 1
        return False

    tell("lost")
    wait_for(taken, what="the first")
    come_back_without(server, kept)
    tell("new")
    wait_for(taken, what="the second")
    log.close()
    found = pq.read_table(tmp_path / "log" / "outcomes").column("prediction_id").to_pylist()
    assert sorted(found) == ["lost", "new"]


def test_a_lease_of_another_is_not_taken_again(server: RedisServer, queue: RedisQueue) -> None:
    """It was stolen while the connection was away."""
    consumer, other = queue.consumer("me", lease_s=LEASE_S), queue.consumer("other", lease_s=LEASE_S)
    consumer.acquire(0)
    server.kill()
    server.start()

    def stolen() -> bool:
        with contextlib.suppress(QueueUnavailableError):
            return other.acquire(0, steal=True) is not None
        return False

    wait_for(stolen, what="the other's lease")
    with pytest.raises(QueueUnavailableError, match="started again"):
        consumer.poll(max_events=10, wait_s=0)
    assert consumer.poll(max_events=10, wait_s=0) is None
    assert consumer.partitions == frozenset()
    consumer.close()
    other.close()


def test_a_server_that_comes_back_whole_loses_nobody_a_partition(server: RedisServer, queue: RedisQueue) -> None:
    """What was polled is scored again, at once: no lease has to run out."""
    consumer = queue.consumer("me", lease_s=LEASE_S)
    consumer.acquire(0)
    send(queue, "e")
    batch = polled(consumer)
    server.kill()
    server.start()

    with pytest.raises(QueueUnavailableError, match="started again"):
        consumer.commit_all([Commit(batch, answers(batch), [])])
    assert consumer.commit_all([Commit(batch, answers(batch), [])]) == [False]
    again = polled(consumer)
    assert again.events == batch.events
    assert consumer.commit_all([Commit(again, answers(again), [])]) == [True]
    assert outputs(queue) == ["e0", "e1", "e2"]
    consumer.close()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"appendonly": "yes", "appendfsync": "always"}, ""),
        ({"appendonly": "yes", "appendfsync": "no"}, ""),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "acknowledges before it writes"),
        ({"appendonly": "no"}, "in memory alone"),
    ],
)
def test_what_a_server_may_lose_is_said(server: RedisServer, settings: dict[str, str], told: str) -> None:
    """By its configuration, before anything is sent."""
    with redis.Redis.from_url(server.url) as client:
        for name, value in settings.items():
            client.config_set(name, value)
    console = Console(file=io.StringIO())
    with contextlib.closing(RedisQueue(server.url, name="s", num_partitions=1)) as queue, console.capture() as text:
        tell_risks(queue, console)
    assert told in text.get()
    assert bool(text.get()) == bool(told)


def test_a_server_that_keeps_its_configuration_to_itself_is_used(server: RedisServer) -> None:
    """Rented ones do not let everybody ask."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("appendfsync", "everysec")
        client.acl_setuser("guest", enabled=True, passwords=["+secret"], keys=["*"], commands=["+@all", "-config"])
    url = server.url.replace("redis://", "redis://guest:secret@")
    with contextlib.closing(RedisQueue(url, name="s", num_partitions=1)) as queue:
        assert queue.risks == []


def test_a_server_that_may_evict_is_refused(server: RedisServer) -> None:
    """It would throw events away when its memory is short."""
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="maxmemory-policy noeviction"):
        RedisQueue(server.url, name="s", num_partitions=1)
