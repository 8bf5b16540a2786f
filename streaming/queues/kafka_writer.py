"""The one transactional producer of a partition. Who opens it fences whoever had it before, for good."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from streaming.queues.base import fenced
from streaming.queues.kafka_topic import CALL_TIMEOUT_S, ClientConfig, unavailable
from streaming.queues.kafka_wire import Headers
from zaphod.errors import QueueUnavailableError

# Committed readers wait for an open transaction of a dead owner; its successor ends it sooner, if there is one.
_TRANSACTION_TIMEOUT_S = 10.0
_FENCED = frozenset(
    {
        KafkaError._FENCED,  # the client's name for its own code
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.UNKNOWN_PRODUCER_ID,
    }
)


@dataclass(frozen=True, slots=True)
class Write:
    """A message for one partition of a topic."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    headers: Headers = field(default_factory=list)


class PartitionWriter:
    """Writes messages and the consumed offset in one transaction. Not thread-safe."""

    def __init__(self, config: ClientConfig, *, name: str, partition: int, events: str, group: Any) -> None:
        """name: the transactional id, the same for every owner. group: metadata of the client that consumes.

        Raises: QueueUnavailableError.
        """
        self._partition = partition
        self._events = events
        self._group = group
        self._in_doubt: Hashable = None
        self._producer = confluent_kafka.Producer(
            {
                **config,
                "transactional.id": name,
                "transaction.timeout.ms": int(_TRANSACTION_TIMEOUT_S * 1000),
                "linger.ms": 0,
                # The marker of one transaction may not be written yet when the next begins: asked again soon.
                "retry.backoff.ms": 2,
            }
        )
        try:
            self._producer.init_transactions(CALL_TIMEOUT_S)
        except KafkaException as error:
            raise unavailable(error.args[0]) from error

    def write(self, token: Hashable, writes: Sequence[Write], *, next_offset: int | None) -> None:
        """All or nothing. token: names what is written; the same again after an error goes on where that was.

        Raises: FencedError when another has opened the partition, or one cannot tell: open it again to go on;
        QueueUnavailableError when the same may be tried again.
        """
        if self._in_doubt is None:
            self._fill(writes, next_offset)
        elif self._in_doubt != token:
            raise fenced(self._partition)  # what was in doubt is not known to be there
        try:
            self._producer.commit_transaction(CALL_TIMEOUT_S)
        except KafkaException as error:
            self._in_doubt = token
            if _may_pass(error.args[0]):
                raise unavailable(error.args[0]) from error
            raise fenced(self._partition) from error
        self._in_doubt = None

    def close(self) -> None:
        """What was not committed is not sent."""
        self._producer.purge()

    def _fill(self, writes: Sequence[Write], next_offset: int | None) -> None:
        try:
            self._producer.begin_transaction()
            for write in writes:
                self._producer.produce(
                    write.topic, value=write.value, key=write.key, headers=write.headers, partition=self._partition
                )
            if next_offset is not None:
                offsets = [TopicPartition(self._events, self._partition, next_offset)]
                self._producer.send_offsets_to_transaction(offsets, self._group, CALL_TIMEOUT_S)
        except KafkaException as error:
            if _may_pass(error.args[0]):
                self._abort()
                raise unavailable(error.args[0]) from error
            raise fenced(self._partition) from error
        except BufferError as error:
            self._abort()
            raise QueueUnavailableError(f"Cannot use the Kafka cluster: {error}. It is tried again.") from error

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(CALL_TIMEOUT_S)
        except KafkaException as error:
            raise fenced(self._partition) from error


def _may_pass(error: KafkaError) -> bool:
    return error.code() not in _FENCED and not error.fatal() and (error.retriable() or error.txn_requires_abort())
