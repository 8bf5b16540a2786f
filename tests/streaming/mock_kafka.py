"""librdkafka's own mock cluster, through its C functions: brokers that fail on demand.

It proves how our client behaves on errors. It proves nothing about exactly once: it forgets offsets that are sent to a
transaction, shows what was aborted, and fences nobody.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path

import confluent_kafka

# Requests and errors by their numbers in Kafka's protocol.
PRODUCE, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT = 0, 25, 26, 28
COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR, POLICY_VIOLATION = 15, 16, 44
INVALID_PRODUCER_EPOCH, PRODUCER_FENCED = 47, 90

_PRODUCER = 0


class MockCluster:
    """Some brokers inside this process, on loopback."""

    def __init__(self, *, num_brokers: int = 1) -> None:
        folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
        (path,) = folder.glob("librdkafka-*.so*")
        self._library = ctypes.CDLL(str(path))
        for name in ("rd_kafka_new", "rd_kafka_mock_cluster_new"):
            getattr(self._library, name).restype = ctypes.c_void_p
        self._library.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
        message = ctypes.create_string_buffer(512)
        client = self._library.rd_kafka_new(_PRODUCER, None, message, len(message))
        self._client = ctypes.c_void_p(client)
        self._cluster = ctypes.c_void_p(self._library.rd_kafka_mock_cluster_new(self._client, num_brokers))
        self.num_brokers = num_brokers

    @property
    def servers(self) -> str:
        return str(self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    def create_topics(self, names: Sequence[str], *, num_partitions: int) -> None:
        """It has no request for that."""
        for name in names:
            self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), num_partitions, 1)

    def fail(self, request: int, *errors: int) -> None:
        """The next requests of a kind get these answers."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, ctypes.c_int16(request), ctypes.c_size_t(len(errors)), array
        )

    def set_reachable(self, reachable: bool) -> None:  # noqa: FBT001
        """All brokers, down or up."""
        change = self._library.rd_kafka_mock_broker_set_up if reachable else self._library.rd_kafka_mock_broker_set_down
        for number in range(1, self.num_brokers + 1):
            change(self._cluster, ctypes.c_int32(number))

    def close(self) -> None:
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)
