"""Reads a Kafka topic from any place up to its end, apart from any consumer group."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streaming.queues.kafka_wire import Record, to_record
from zaphod.errors import ConfigError, QueueUnavailableError

ClientConfig: TypeAlias = Mapping[str, str | int | float | bool]

CALL_TIMEOUT_S = 5.0
"""A broker that does not answer for so long is unreachable."""

_LONGEST_POLL_S = 0.2
_AUTHENTICATION = frozenset(
    {
        KafkaError._AUTHENTICATION,  # the client's name for its own codes
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)


class TopicReader:
    """One client for all partitions of a topic; committed messages only. Not thread-safe."""

    def __init__(self, config: ClientConfig, topic: str) -> None:
        self._topic = topic
        self._consumer = confluent_kafka.Consumer(
            {
                **config,
                "group.id": "zaphod-readers",  # asked for by the client, never joined
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        # Per partition: how far the client has come, and what of that nobody has read yet.
        self._fetched: dict[int, int] = {}
        self._waiting: dict[int, deque[Record]] = {}

    def ends(self, partition: int) -> tuple[int, int]:
        """The first offset that is kept and the one after the last committed message. Raises: QueueUnavailableError."""
        with translated():
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self._topic, partition), timeout=CALL_TIMEOUT_S
            )
        return int(low), int(high)

    def since(self, partition: int, *, seconds: float) -> int:
        """The offset of the first message written after a moment, the end when there is none."""
        asked = TopicPartition(self._topic, partition, int(seconds * 1000))
        with translated():
            (found,) = self._consumer.offsets_for_times([asked], timeout=CALL_TIMEOUT_S)
        return int(found.offset) if found.offset >= 0 else self.ends(partition)[1]

    def follows(self, partition: int) -> bool:
        """Whether `go_to` was ever called for it."""
        return partition in self._fetched

    def go_to(self, partition: int, offset: int) -> None:
        """Reads on from there."""
        with translated():
            if partition in self._fetched:
                self._consumer.incremental_unassign([TopicPartition(self._topic, partition)])
            self._consumer.incremental_assign([TopicPartition(self._topic, partition, offset)])
        self._fetched[partition] = offset
        self._waiting[partition] = deque()

    def read(self, partition: int, *, up_to: int, most: int) -> list[Record]:
        """Messages of one partition from where it is, so many at most, none from the offset `up_to` on.

        Raises: QueueUnavailableError when the broker has nothing more although it should.
        """
        found: list[Record] = []
        waiting = self._waiting[partition]
        heard = time.monotonic()
        while len(found) < most:
            if waiting:
                if waiting[0].offset >= up_to:
                    break
                found.append(waiting.popleft())
            elif self._fetched[partition] >= up_to:
                break
            elif self._fetch(_LONGEST_POLL_S):
                heard = time.monotonic()
            elif time.monotonic() - heard > CALL_TIMEOUT_S:
                raise QueueUnavailableError("Cannot use the Kafka cluster: it does not answer. It is tried again.")
        return found

    def wait(self, *, timeout_s: float) -> bool:
        """Whether a message waits to be read, of any partition, or comes in time."""
        deadline = time.monotonic() + timeout_s
        while not any(self._waiting.values()):
            left_s = deadline - time.monotonic()
            if not self._fetch(max(0.0, min(left_s, _LONGEST_POLL_S))) and left_s <= 0:
                return False
        return True

    def close(self) -> None:
        self._consumer.close()

    def _fetch(self, timeout_s: float) -> bool:
        """Whether anything came: a message, or word that a partition has no more."""
        message = self._consumer.poll(timeout_s)
        if message is None:
            return False
        error = message.error()
        if error is None:
            record = to_record(message)
            self._fetched[record.partition] = record.offset + 1
            self._waiting[record.partition].append(record)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._fetched[message.partition() or 0] = message.offset() or 0
        elif not error.retriable():
            raise unavailable(error)
        return True


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Kafka's errors as ours."""
    try:
        yield
    except KafkaException as error:
        raise unavailable(error.args[0]) from error


def unavailable(error: KafkaError) -> ConfigError | QueueUnavailableError:
    """What is to be said of an error that is not about a lease."""
    if error.code() in _AUTHENTICATION:
        return ConfigError(f"Cannot use the Kafka cluster: {error.str()}. Check queue.options.")
    return QueueUnavailableError(f"Cannot use the Kafka cluster: {error.str()}. It is tried again.")
