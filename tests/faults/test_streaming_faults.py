"""Faults at random while events flow: nothing is lost, doubled or out of order, by a verifier that knows only ids.

ZAPHOD_FAULTS sets how many (a few by default), ZAPHOD_SEED which.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil
import pytest
import yaml

from streaming.queues.base import Cursor, NewEvent, Queue
from streaming.queues.redis import RedisQueue
from streaming.queues.sqlite import SqliteQueue
from tests.conftest import ROOT, wait_for
from tests.streaming.conftest import RedisServer
from tests.streaming.pools import NUM_PARTITIONS, write_settings
from zaphod import machine
from zaphod.errors import QueueUnavailableError
from zaphod.registry import CHAMPION, Registry
from zaphod.settings import load_ray_env

NUM_FAULTS = int(os.environ.get("ZAPHOD_FAULTS", "8"))
SEED = int(os.environ.get("ZAPHOD_SEED", "1"))
RATE = 400
NUM_KEYS = 25

pytestmark = [pytest.mark.cluster, pytest.mark.fault, pytest.mark.timeout(240 + 20 * NUM_FAULTS)]

ROW = {"amount": 100.0, "balance": None, "count": 3, "kind": "a"}


@dataclass
class Traffic:
    """A producer that retries, and poisons one event in fifty. sent: ids in order, by key."""

    open_queue: Callable[[], Queue]
    rng: random.Random
    sent: dict[str, list[str]] = field(default_factory=dict)
    poison: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until stopped: a hundred events a quarter of a second, some of them sent twice."""
        queue = self.open_queue()
        number = 0
        while not self.stop.wait(0.25):
            events = [self._event(number + i) for i in range(RATE // 4)]
            number += len(events)
            for _ in range(2 if self.rng.random() < 0.2 else 1):
                self._produce(queue, events)
        queue.close()

    def _event(self, number: int) -> NewEvent:
        identifier, key = f"e{number}", f"k{self.rng.randrange(NUM_KEYS)}"
        self.sent.setdefault(key, []).append(identifier)
        if number % 50 == 13:
            self.poison.add(identifier)
            return NewEvent(value=b"{poison", id=identifier, key=key, created=time.time())
        return NewEvent(value=msgspec.json.encode(ROW), id=identifier, key=key, created=time.time())

    def _produce(self, queue: Queue, events: list[NewEvent]) -> None:
        while True:
            try:
                queue.produce(events)
            except QueueUnavailableError:
                time.sleep(0.1)  # as a producer would, with the same ids
            else:
                return


@dataclass
class Run:
    """The pool under test and what can be done to it. ray_home: whose mark the processes of its Ray bear."""

    home: Path
    ray_home: Path
    config: Path
    environ: dict[str, str]
    registry: Registry
    broker: RedisServer | None
    rng: random.Random
    supervisor: subprocess.Popen[bytes] | None = None
    done: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        """`python -m streaming` in its own process."""
        with (self.home / "pool.log").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "streaming", "--config", str(self.config)],
                cwd=self.home, env=self.environ, stdout=log, stderr=log,
            )  # fmt: skip

    def check(self) -> None:
        """Raises: AssertionError with its last words when the supervisor has given up: nothing may make it."""
        assert self.supervisor is not None
        last_words = (self.home / "pool.log").read_text(errors="replace")[-2_000:]
        assert self.supervisor.poll() is None, f"the supervisor ended by itself: {last_words}"

    def scorers(self) -> list[psutil.Process]:
        """The scorer actors of this run's Ray."""
        found = []
        for process in machine.marked_processes(self.ray_home / "ray"):
            with contextlib.suppress(psutil.Error):
                if "ScorerActor" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def fault(self) -> None:
        """One, chosen at random; what it finds in its way is part of it."""
        self.check()
        faults = [self.kill_scorer, self.freeze_scorer, self.kill_supervisor, self.promote]
        faults += [self.kill_broker] if self.broker is not None else []
        chosen = self.rng.choice(faults)
        with contextlib.suppress(psutil.Error, IndexError):
            chosen()
            self.done[chosen.__name__] += 1

    def kill_scorer(self) -> None:
        """`kill -9`."""
        self.rng.choice(self.scorers()).kill()

    def freeze_scorer(self) -> None:
        """SIGSTOP past the lease, then SIGCONT: a zombie."""
        victim = self.rng.choice(self.scorers())
        victim.send_signal(signal.SIGSTOP)
        time.sleep(2.5)  # the lease is two seconds
        victim.send_signal(signal.SIGCONT)

    def kill_supervisor(self) -> None:
        """`kill -9`, then a new start."""
        assert self.supervisor is not None
        self.supervisor.kill()
        self.supervisor.wait()
        self.start()

    def kill_broker(self) -> None:
        """`kill -9`, then a new start on the same files."""
        assert self.broker is not None
        self.broker.kill()
        self.broker.start()

    def promote(self) -> None:
        """The other version, forth and back."""
        aliases = self.registry.state("binary").aliases
        version = 3 - aliases[CHAMPION]
        self.registry.set_alias("binary", alias=CHAMPION, version=version, action="promote", why="fault test")


@pytest.fixture(scope="module")
def ray_environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """One Ray for all runs of this module, which outlives supervisors."""
    home = tmp_path_factory.mktemp("faults")
    ray_env = load_ray_env(ROOT / "configs/ray.env")
    machine.ensure_ray_token(ray_env)
    environ = {**os.environ, **ray_env, machine.MARK: str(home / "ray")}
    port = machine.free_port()
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", f"--node-ip-address={machine.RAY_HOST}",
        f"--port={port}", "--include-dashboard=false", f"--ray-client-server-port={machine.free_port()}",
        f"--dashboard-agent-listen-port={machine.free_port(machine.RAY_HOST)}",
    ]  # fmt: skip
    subprocess.run(command, env=environ, check=True, capture_output=True, timeout=100, start_new_session=True)
    yield home, {**os.environ, **ray_env, "RAY_ADDRESS": f"{machine.RAY_HOST}:{port}"}
    machine.end_marked(home / "ray")


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_nothing_is_lost_doubled_or_out_of_order(
    ray_environ: tuple[Path, dict[str, str]], registry: Registry, tmp_path: Path, kind: str
) -> None:
    """Scorers, supervisor and broker die, scorers freeze, models change, producers repeat, events are poison."""
    home, environ = ray_environ
    broker: RedisServer | None = None
    if kind == "redis":
        (tmp_path / "redis").mkdir()
        broker = RedisServer(tmp_path / "redis", machine.free_port())
        broker.start()
    models = two_versions(tmp_path / "registry", registry)
    config = write_settings(tmp_path, registry=models.uri, model="binary", num_scorers=2)
    if broker is not None:
        settings = yaml.safe_load(config.read_text())
        settings["queue"] |= {"kind": "redis", "url": broker.url, "name": "faults"}
        config.write_text(yaml.safe_dump(settings))

    def open_queue() -> Queue:
        if broker is not None:
            return RedisQueue(broker.url, name="faults", num_partitions=NUM_PARTITIONS)
        return SqliteQueue(tmp_path / "var/stream", num_partitions=NUM_PARTITIONS)

    rng = random.Random(SEED)
    run = Run(tmp_path, home, config, environ, models, broker, rng)
    traffic = Traffic(open_queue, random.Random(SEED + 1))
    producer = threading.Thread(target=traffic.run)
    queue = open_queue()
    run.start()
    wait_for(lambda: all(p.owner for p in queue.positions()), timeout_s=60, what="the pool at work")
    producer.start()
    lags = []
    for _ in range(NUM_FAULTS):
        time.sleep(rng.uniform(0.3, 1.5))  # random moments are the point
        lags.append(sum(p.lag for p in settled(queue).positions()))
        run.fault()
    traffic.stop.set()
    producer.join()

    def is_scored() -> bool:
        run.check()
        return all(position.lag == 0 for position in settled(queue).positions())

    wait_for(is_scored, timeout_s=120, what="everything scored")
    assert run.supervisor is not None
    run.supervisor.terminate()
    run.supervisor.wait(timeout=60)

    assert sum(run.done.values()) >= NUM_FAULTS // 2, run.done
    verify(queue, traffic)
    queue.close()
    if broker is not None:
        broker.kill()


def test_scorers_that_die_while_they_start_are_replaced(
    ray_environ: tuple[Path, dict[str, str]], registry: Registry, tmp_path: Path
) -> None:
    """The first scorers of a pool, killed before they have said a word: the supervisor starts others."""
    home, environ = ray_environ
    config = write_settings(tmp_path, registry=registry.uri, model="binary@1", num_scorers=2)
    run = Run(tmp_path, home, config, environ, registry, None, random.Random(SEED))
    queue = SqliteQueue(tmp_path / "var/stream", num_partitions=NUM_PARTITIONS)
    run.start()
    killed: set[int] = set()

    def kill_newborn() -> bool:
        for process in run.scorers():
            if process.pid not in killed and not any(position.owner for position in queue.positions()):
                process.kill()
                killed.add(process.pid)
        return len(killed) >= 2

    wait_for(kill_newborn, timeout_s=60, what="scorers to kill")
    wait_for(lambda: all(p.owner for p in queue.positions()), timeout_s=60, what="the pool at work")
    run.check()
    assert run.supervisor is not None
    run.supervisor.terminate()
    assert run.supervisor.wait(timeout=60) == 0
    queue.close()


def two_versions(folder: Path, source: Registry) -> Registry:
    """A registry with the same model twice."""
    made = Registry.open(str(folder))
    files = source.load("binary", 1).files
    for _ in range(2):
        made.publish("binary", files)
    made.set_alias("binary", alias=CHAMPION, version=1, action="promote", why="test")
    return made


def settled(queue: Queue) -> Queue:
    """The queue, once it answers."""
    deadline = time.monotonic() + 30
    while True:
        try:
            queue.positions()
        except QueueUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return queue


def verify(queue: Queue, traffic: Traffic) -> None:
    """Every event sent has one output, or one dead letter if it was poison, in the order of its key."""
    beginning = {partition: Cursor() for partition in range(NUM_PARTITIONS)}
    outputs = [delivered.output for delivered in queue.read_outputs(beginning, max_outputs=10_000_000)]
    letters = [entry.letter for entry in queue.read_dead_letters(beginning, max_letters=10_000_000)]
    sent = {identifier for ids in traffic.sent.values() for identifier in ids}
    assert len(sent) > 500
    assert Counter(letter.id for letter in letters) == Counter(traffic.poison)
    assert Counter(output.id for output in outputs) == Counter(sent - traffic.poison)
    by_key: dict[str, list[str]] = {}
    for output in outputs:
        assert output.key is not None
        by_key.setdefault(output.key, []).append(output.id)
    for key, identifiers in by_key.items():
        assert identifiers == [identifier for identifier in traffic.sent[key] if identifier not in traffic.poison]
