"""The pool on a real Ray: scorers, supervisor and broker die and freeze while events flow, and all of it is made good.

ZAPHOD_POOL_FAULTS sets how many faults (a few by default), ZAPHOD_SEED which. The queues themselves get far more faults
in test_scorer_faults.py, which needs no Ray.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import yaml

from streaming.queues.base import Queue
from streaming.queues.sqlite import SqliteQueue
from streaming.settings import QueueSettings
from tests.conftest import ROOT, wait_for
from tests.faults.crew import Traffic, patiently_opened, two_versions, verify
from tests.streaming.conftest import RedisServer
from tests.streaming.pools import NUM_PARTITIONS, scorers_of, write_settings
from zaphod import machine
from zaphod.errors import QueueUnavailableError
from zaphod.registry import CHAMPION, Registry
from zaphod.settings import load_ray_env

NUM_FAULTS = int(os.environ.get("ZAPHOD_POOL_FAULTS", "4"))
SEED = int(os.environ.get("ZAPHOD_SEED", "1"))

pytestmark = [pytest.mark.cluster, pytest.mark.fault, pytest.mark.timeout(240 + 20 * NUM_FAULTS)]


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
    said_before: int = 0
    done: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        """`python -m streaming` in its own process."""
        with (self.home / "pool.log").open("ab") as log:
            self.said_before = log.tell()
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "streaming", "--config", str(self.config)],
                cwd=self.home, env=self.environ, stdout=log, stderr=log,
            )  # fmt: skip

    def check(self) -> bool:
        """Raises: AssertionError with its last words when the supervisor has given up: nothing may make it."""
        assert self.supervisor is not None
        assert self.supervisor.poll() is None, f"the supervisor ended by itself: {self.said()[-2_000:]}"
        return True

    def said(self) -> str:
        """What the pool has written so far."""
        return (self.home / "pool.log").read_text(errors="replace")

    def stop(self) -> None:
        """SIGTERM, and a clean end."""
        assert self.supervisor is not None
        # One that was started a moment ago does not know of signals yet.
        log = self.home / "pool.log"
        wait_for(lambda: b"starting" in log.read_bytes()[self.said_before :], timeout_s=60, what="its first word")
        self.supervisor.terminate()
        assert self.supervisor.wait(timeout=60) == 0

    def scorers(self) -> list[psutil.Process]:
        """The scorer actors of this run's Ray."""
        return scorers_of(machine.marked_processes(self.ray_home / "ray"))

    def fault(self) -> None:
        """One, chosen at random, but of all at least one on the supervisor; what it finds in its way is part of it."""
        faults = [self.kill_scorer, self.freeze_scorer, self.kill_supervisor, self.promote]
        faults += [self.kill_broker] if self.broker is not None else []
        chosen = self.rng.choice(faults)
        if self.done.total() == NUM_FAULTS - 1 and not self.done[self.kill_supervisor.__name__]:
            chosen = self.kill_supervisor
        wait_for(lambda: bool(self.scorers()) and self.check(), timeout_s=60, what="a scorer to be hit")
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
        f"--dashboard-agent-listen-port={machine.free_port()}",
    ]  # fmt: skip
    subprocess.run(command, env=environ, check=True, capture_output=True, timeout=100, start_new_session=True)
    yield home, {**os.environ, **ray_env, "RAY_ADDRESS": f"{machine.RAY_HOST}:{port}"}
    machine.end_marked(home / "ray")


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that has not been started yet."""
    (tmp_path / "redis").mkdir()
    made = RedisServer(tmp_path / "redis", machine.free_port())
    yield made
    if made.process is not None:
        made.kill()


def over_redis(config: Path, broker: RedisServer) -> QueueSettings:
    """Puts the queue into the settings."""
    settings = yaml.safe_load(config.read_text())
    settings["queue"] |= {"kind": "redis", "url": broker.url, "name": "faults"}
    config.write_text(yaml.safe_dump(settings))
    return QueueSettings.model_validate(settings["queue"])


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_nothing_is_lost_doubled_or_out_of_order(
    ray_environ: tuple[Path, dict[str, str]], registry: Registry, tmp_path: Path, broker: RedisServer, kind: str
) -> None:
    """Scorers, supervisor and broker die, scorers freeze, models change, producers repeat, events are poison."""
    home, environ = ray_environ
    models = two_versions(tmp_path / "registry", registry)
    config = write_settings(tmp_path, registry=models.uri, model="binary", num_scorers=2)
    settings = QueueSettings(path=str(tmp_path / "var/stream"), partitions=NUM_PARTITIONS)
    if kind == "redis":
        broker.start()
        settings = over_redis(config, broker)
    rng = random.Random(SEED)
    run = Run(tmp_path, home, config, environ, models, broker if kind == "redis" else None, rng)
    traffic = Traffic(settings, random.Random(SEED + 1), rate=400)
    producer = threading.Thread(target=traffic.run, daemon=True)
    queue = patiently_opened(settings)
    run.start()
    wait_for(lambda: all(p.owner for p in queue.positions()), timeout_s=60, what="the pool at work")
    producer.start()
    try:
        while run.done.total() < NUM_FAULTS:
            time.sleep(rng.uniform(0.3, 1.5))  # random moments are the point
            run.fault()
    finally:
        traffic.stop.set()
        producer.join()
    assert traffic.error is None, traffic.error
    assert run.done["kill_supervisor"]

    def is_scored() -> bool:
        run.check()
        return all(position.lag == 0 for position in settled(queue).positions())

    wait_for(is_scored, timeout_s=120, what="everything scored")
    run.stop()
    verify(queue, traffic)
    queue.close()


def test_a_broker_that_is_away_is_waited_for(
    ray_environ: tuple[Path, dict[str, str]], registry: Registry, tmp_path: Path, broker: RedisServer
) -> None:
    """Before the start and among the work: the pool says what it waits for, and goes on by itself."""
    home, environ = ray_environ
    config = write_settings(tmp_path, registry=registry.uri, model="binary@1", num_scorers=1)
    settings = over_redis(config, broker)
    run = Run(tmp_path, home, config, environ, registry, broker, random.Random(SEED))
    run.start()
    wait_for(lambda: "waiting for it" in run.said(), timeout_s=60, what="word of what is missing")
    broker.start()
    queue = patiently_opened(settings)
    traffic = Traffic(settings, random.Random(SEED), rate=400)
    traffic.produce(queue, [traffic.event() for _ in range(200)])
    wait_for(lambda: run.check() and all(p.lag == 0 for p in queue.positions()), timeout_s=60, what="all scored")
    broker.kill()
    wait_for(lambda: run.said().count("waiting for it") >= 2, what="word of the loss")
    broker.start()
    traffic.produce(settled(queue), [traffic.event() for _ in range(200)])
    wait_for(lambda: run.check() and all(p.lag == 0 for p in queue.positions()), timeout_s=60, what="all scored")
    run.stop()
    verify(queue, traffic)
    queue.close()


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

    def at_work() -> bool:
        return any(position.owner for position in queue.positions())

    def kill_newborn() -> bool:
        for process in run.scorers():
            if process.pid not in killed and not at_work():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
                    killed.add(process.pid)
        return len(killed) >= 2 or at_work()

    wait_for(kill_newborn, timeout_s=60, what="scorers to kill")
    while len(killed) < 2:  # one was quicker
        run.stop()
        killed.clear()
        run.start()
        wait_for(kill_newborn, timeout_s=60, what="scorers to kill")
    wait_for(lambda: all(p.owner for p in queue.positions()), timeout_s=60, what="the pool at work")
    run.check()
    run.stop()
    queue.close()


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
