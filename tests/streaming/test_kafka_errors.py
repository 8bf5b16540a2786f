"""What the Kafka queue makes of a cluster's errors, and of times; the contract itself is tested on a broker."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from streaming.queues.base import Cause, Cursor, DeadLetter, MicroBatch, NewEvent, Output
from streaming.queues.kafka import KafkaConsumer, KafkaQueue, recent_ids
from streaming.queues.kafka_wire import Record
from streaming.queues.kafka_writer import PartitionWriter
from tests.streaming import mock_kafka
from tests.streaming.mock_kafka import MockCluster
from zaphod.errors import ConfigError, FencedError, QueueUnavailableError

TOPICS = ("s.events", "s.predictions", "s.dead-letters", "s.state")


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    """One broker with the topics of a stream of one partition."""
    made = MockCluster()
    made.create_topics(TOPICS, num_partitions=1)
    yield made
    made.close()


@pytest.fixture
def queue(cluster: MockCluster) -> Iterator[KafkaQueue]:
    """With three events. The mock answers a fetch late unless it is told to hurry."""
    made = KafkaQueue(cluster.servers, name="s", num_partitions=1, options={"fetch.wait.max.ms": "5"})
    made.produce([NewEvent(value=b"%d" % i, id=f"e{i}", created=time.time()) for i in range(3)])
    yield made
    made.close()


@pytest.fixture
def consumer(queue: KafkaQueue) -> Iterator[KafkaConsumer]:
    """That holds the partition."""
    made = queue.consumer("me", lease_s=30)
    assert made.acquire(0) is not None
    yield made
    made.close()


def polled(consumer: KafkaConsumer) -> MicroBatch:
    """The three events."""
    deadline = time.monotonic() + 20
    while True:
        batch = consumer.poll(max_events=10, wait_s=0.5)
        if batch is not None and len(batch.events) == 3:
            return batch
        assert time.monotonic() < deadline, batch


def commit(consumer: KafkaConsumer, batch: MicroBatch) -> None:
    """An answer each."""
    outputs = [Output(e.offset, e.id, e.key, b"answer " + e.value, {}, e.created) for e in batch.events]
    consumer.commit(batch, outputs=outputs, dead_letters=[])


def answers(queue: KafkaQueue) -> list[bytes]:
    """What a reader sees."""
    return [delivered.output.value for delivered in queue.read_outputs({0: Cursor()}, max_outputs=100)]


@pytest.mark.parametrize("error", [mock_kafka.COORDINATOR_NOT_AVAILABLE, mock_kafka.NOT_COORDINATOR])
@pytest.mark.parametrize("request_kind", [mock_kafka.END_TXN, mock_kafka.TXN_OFFSET_COMMIT])
def test_a_coordinator_that_moves_is_followed(
    cluster: MockCluster, queue: KafkaQueue, consumer: KafkaConsumer, request_kind: int, error: int
) -> None:
    """The commit succeeds without anybody being told."""
    batch = polled(consumer)
    cluster.fail(request_kind, error, error)

    commit(consumer, batch)

    assert answers(queue) == [b"answer 0", b"answer 1", b"answer 2"]


@pytest.mark.parametrize("error", [mock_kafka.INVALID_PRODUCER_EPOCH, mock_kafka.PRODUCER_FENCED])
@pytest.mark.parametrize("request_kind", [mock_kafka.END_TXN, mock_kafka.ADD_OFFSETS_TO_TXN])
def test_a_fenced_producer_loses_its_partition(
    cluster: MockCluster, consumer: KafkaConsumer, request_kind: int, error: int
) -> None:
    """A newer producer with the transactional id: the commit is refused and the partition is not polled any more."""
    batch = polled(consumer)
    cluster.fail(request_kind, error)

    with pytest.raises(FencedError):
        commit(consumer, batch)

    assert consumer.partitions == frozenset()
    with pytest.raises(FencedError):
        commit(consumer, batch)


def test_a_commit_that_never_ends_is_given_up_once_another_has_the_partition(
    queue: KafkaQueue, consumer: KafkaConsumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that lets the fenced wait instead of telling them: they see it by the lease."""

    def wait(*_: object, **__: object) -> None:
        raise QueueUnavailableError("timed out")

    batch = polled(consumer)
    with monkeypatch.context() as patch:
        patch.setattr(PartitionWriter, "write", wait)
        for _ in range(2):  # nobody else has it
            with pytest.raises(QueueUnavailableError):
                commit(consumer, batch)
    successor = queue.consumer("other", lease_s=30)
    assert successor.acquire(0, steal=True) is not None
    with monkeypatch.context() as patch:
        patch.setattr(PartitionWriter, "write", wait)
        with pytest.raises(FencedError):
            commit(consumer, batch)

    assert consumer.partitions == frozenset()
    successor.close()


def test_a_commit_goes_on_when_the_cluster_is_back(
    cluster: MockCluster, queue: KafkaQueue, consumer: KafkaConsumer
) -> None:
    """Unreachable among a commit: it may be tried again, and then succeeds or is fenced, never half done."""
    batch = polled(consumer)
    cluster.set_reachable(False)
    with pytest.raises(QueueUnavailableError, match="Kafka"):
        commit(consumer, batch)

    cluster.set_reachable(True)
    deadline = time.monotonic() + 30
    while True:
        try:
            commit(consumer, batch)
        except QueueUnavailableError:
            assert time.monotonic() < deadline
        else:
            break

    assert answers(queue) == [b"answer 0", b"answer 1", b"answer 2"]


def test_a_letter_whose_removal_is_refused_is_not_called_dropped(
    cluster: MockCluster, queue: KafkaQueue, consumer: KafkaConsumer
) -> None:
    """The client gives such a message up and has nothing left to send: that is no success."""
    batch = polled(consumer)
    first = batch.events[0]
    letter = DeadLetter(
        first.offset, first.id, first.key, first.value, first.headers, first.created, Cause.FAILED, "why", 1, 1
    )
    outputs = [Output(e.offset, e.id, e.key, b"answer", {}, e.created) for e in batch.events[1:]]
    consumer.commit(batch, outputs=outputs, dead_letters=[letter])
    (entry,) = queue.read_dead_letters({0: Cursor()}, max_letters=10)
    cluster.fail(mock_kafka.PRODUCE, mock_kafka.POLICY_VIOLATION)

    with pytest.raises(QueueUnavailableError, match="Kafka"):
        queue.drop_dead_letter(0, entry.cursor)

    assert queue.read_dead_letters({0: Cursor()}, max_letters=10) == [entry]
    assert queue.drop_dead_letter(0, entry.cursor)
    assert queue.read_dead_letters({0: Cursor()}, max_letters=10) == []


def test_other_partitions_than_the_topics_have_are_refused(cluster: MockCluster) -> None:
    """Keys would change places."""
    with pytest.raises(ConfigError, match="has 1"):
        KafkaQueue(cluster.servers, name="s", num_partitions=2)


def test_an_unreachable_cluster_is_said_so() -> None:
    """Not an error of the settings: it may come back."""
    with pytest.raises(QueueUnavailableError, match="Kafka"):
        KafkaQueue("127.0.0.1:1", name="s", num_partitions=1)


class Past:
    """A topic that knows when its messages were written, as the brokers of the tests do not."""

    def __init__(self, *records: tuple[str, float]) -> None:
        self.records = [
            Record(0, offset, None, b"x", {"zaphod-id": event_id}, written)
            for offset, (event_id, written) in enumerate(records)
        ]
        self._at = 0

    def ends(self, partition: int) -> tuple[int, int]:
        return partition, len(self.records)

    def since(self, partition: int, *, seconds: float) -> int:
        return next((record.offset for record in self.records if record.written >= seconds), self.ends(partition)[1])

    def go_to(self, partition: int, offset: int) -> None:
        self._at = partition + offset

    def read(self, partition: int, *, up_to: int, most: int) -> list[Record]:
        return self.records[self._at : min(up_to, self._at + most)]


def test_ids_of_a_backlog_are_those_of_its_time() -> None:
    """Each owner that goes on anywhere, or replays, takes the same events for repeats: by when they were written."""
    began = time.time() - 3_600
    past = Past(("a", began), ("b", began + 1), ("a", began + 599), ("a", began + 900), ("b", began + 1_200))

    def found(next_offset: int) -> list[int]:
        ids = recent_ids(past, 0, next_offset, window_s=600.0)  # type: ignore[arg-type]  # as a reader
        return [each.offset for each in past.records[next_offset:] if ids.is_new(each, window_s=600.0)]

    assert found(0) == [0, 1, 3, 4]
    assert [found(next_offset) for next_offset in (1, 2)] == [[1, 3, 4], [3, 4]]


def test_at_the_end_of_the_log_ids_are_those_of_now() -> None:
    """Nothing waits: what comes next is written now."""
    past = Past(("old", time.time() - 700), ("new", time.time() - 500))

    ids = recent_ids(past, 0, 2, window_s=600.0)  # type: ignore[arg-type]  # as above

    assert [ids.is_new(each, window_s=600.0) for each in past.records] == [True, False]
