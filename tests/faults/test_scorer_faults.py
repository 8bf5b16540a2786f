"""Scorers that die and freeze at named points and at random, for every queue: nothing is lost, doubled or out of order.

ZAPHOD_FAULTS sets how many faults a queue gets (some by default; the long run takes 1,000), ZAPHOD_SEED which.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.queues.base import Guarantee
from streaming.settings import QueueSettings
from tests.faults.crew import Crew, Member, Traffic, patiently_opened, two_versions, verify
from tests.faults.workers import POINTS
from tests.streaming.conftest import KafkaServer, RedisServer
from zaphod import machine
from zaphod.registry import CHAMPION, Registry

NUM_FAULTS = int(os.environ.get("ZAPHOD_FAULTS", "0"))
DEFAULT_FAULTS = {"sqlite": 110, "redis": 80, "kafka": 12}
SEED = int(os.environ.get("ZAPHOD_SEED", "1"))
LEASE_S = 1.0
KINDS = ("sqlite", "redis", "kafka")

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300 + 10 * max(NUM_FAULTS, 80))]


class Broker:
    """What a queue's server is, if it has one; only Redis keeps its events when it is killed."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.server: RedisServer | KafkaServer | None = None
        self.settings = QueueSettings(kind=kind, path=str(folder / "stream"), partitions=4, lease_s=LEASE_S)  # type: ignore[arg-type]  # one of the kinds
        if kind != "sqlite":
            self.server = (RedisServer if kind == "redis" else KafkaServer)(folder, machine.free_port())
            self.server.start()
            options = getattr(self.server, "options", {})
            document = self.settings.model_dump() | {"url": self.server.url, "options": options}
            self.settings = QueueSettings.model_validate(document)
        self.may_die = kind == "redis"

    def restart(self, *, away_s: float) -> None:
        """`kill -9`, some time without, a new start on the same files."""
        assert self.server is not None
        self.server.kill()
        time.sleep(away_s)  # as long as it is away
        self.server.start()


@pytest.fixture(params=KINDS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    """Of one queue, for one test."""
    made = Broker(request.param, tmp_path)
    yield made
    if made.server is not None:
        made.server.kill()


class Faults:
    """One after the other at random; each is done to a scorer at work, or it is not counted."""

    def __init__(self, crew: Crew, broker: Broker, registry: Registry, rng: random.Random) -> None:
        self.done: Counter[str] = Counter()
        self._crew = crew
        self._broker = broker
        self._registry = registry
        self._rng = rng
        self._frozen: dict[str, tuple[Member, float]] = {}

    @property
    def num_done(self) -> int:
        return sum(number for what, number in self.done.items() if ":" not in what)

    def do(self) -> None:
        """One."""
        chosen = self._rng.choice(
            [self._kill_somewhere] * 4 + [self._kill, self._freeze, self._promote, self._resize]
            + [self._restart_broker] * self._broker.may_die
        )  # fmt: skip
        if chosen():
            self.done[chosen.__name__] += 1

    def thaw(self, *, before: float) -> None:
        """SIGCONT to those whose time in the ice ends before a moment: zombies."""
        for name, (member, until) in list(self._frozen.items()):
            if until <= before:
                member.signal(signal.SIGCONT)
                del self._frozen[name]

    def _victims(self) -> list[Member]:
        self.thaw(before=time.monotonic())
        return [member for member in self._crew.active() if member.name not in self._frozen]

    def _victim(self) -> Member | None:
        found: list[Member] = []

        def is_there() -> bool:
            found[:] = self._victims()
            return bool(found)

        return self._rng.choice(found) if self._crew.until(is_there, timeout_s=30) else None

    def _kill_somewhere(self) -> bool:
        victim, point = self._victim(), self._rng.choice(POINTS)
        if victim is None:
            return False
        others = [member for member in self._victims() if member is not victim]
        if "acquire" in point and not others:
            return False  # there would be nothing to acquire
        victim.send("arm", point, signal.SIGKILL)
        if "acquire" in point:
            others[0].signal(signal.SIGKILL)
        if self._crew.until(lambda: not victim.process.is_alive(), timeout_s=LEASE_S):
            self.done[f"at: {point}"] += 1
            return True
        victim.send("arm", "", signal.SIGKILL)
        return False

    def _kill(self) -> bool:
        victim = self._victim()
        if victim is not None:
            victim.signal(signal.SIGKILL)
        return victim is not None

    def _freeze(self) -> bool:
        """SIGSTOP before a commit or anywhere; others take over while more goes wrong; after the lease it is thawed."""
        victim = self._victim()
        if victim is None:
            return False
        if self._rng.random() < 0.7:
            victim.send("arm", "before commit", signal.SIGSTOP)
        else:
            victim.signal(signal.SIGSTOP)
        stopped = self._crew.until(lambda: victim.frozen, timeout_s=2.0)
        victim.send("arm", "", signal.SIGSTOP)
        self._frozen[victim.name] = (victim, time.monotonic() + 1.5 * LEASE_S)
        return stopped

    def _promote(self) -> bool:
        version = 3 - self._registry.state("binary").aliases[CHAMPION]
        self._registry.set_alias("binary", alias=CHAMPION, version=version, action="promote", why="fault test")
        return True

    def _resize(self) -> bool:
        self._crew.num_workers = self._rng.choice([number for number in (1, 2, 3) if number != self._crew.num_workers])
        return True

    def _restart_broker(self) -> bool:
        self._broker.restart(away_s=self._rng.choice([0.0, 0.3]))
        return True


def test_nothing_is_lost_doubled_or_out_of_order(broker: Broker, registry: Registry, tmp_path: Path) -> None:
    """Whatever dies, freezes, moves or changes while events flow, each is answered once, in the order of its key."""
    num_faults = NUM_FAULTS or DEFAULT_FAULTS[broker.settings.kind]
    rng = random.Random(SEED)
    models = two_versions(tmp_path / "registry", registry)
    crew = Crew(broker.settings, models, tmp_path / "workers.log", num_workers=2)
    traffic = Traffic(
        broker.settings, random.Random(SEED + 1), rate=300, fragile=True, num_crashing=1 + num_faults // 40
    )
    producer = threading.Thread(target=traffic.run, daemon=True)
    faults = Faults(crew, broker, models, rng)
    amid_work = {f"at: {point}" for point in ("after poll", "before commit", "after commit")}
    began = time.monotonic()
    try:
        assert crew.until(lambda: len(crew.active()) == 2, timeout_s=60)
        producer.start()
        while faults.num_done < num_faults or not amid_work & set(faults.done):
            crew.rest(rng.uniform(0.0, 0.1))  # random moments are the point
            faults.do()
            assert traffic.error is None, traffic.error
        faults.thaw(before=math.inf)
        traffic.stop.set()
        producer.join()
        assert crew.until(crew.all_scored, timeout_s=120), crew.positions
    finally:
        traffic.stop.set()
        crew.end()
    took_s = time.monotonic() - began
    sys.stdout.write(f"{broker.settings.kind}: {num_faults} faults in {took_s:.0f} s, {faults.done}\n")
    assert crew.queue.guarantee is Guarantee.EXACTLY_ONCE
    verify(crew.queue, traffic, leases=crew.leases)
    crew.queue.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_waited_out(small_disk: Path, registry: Registry, tmp_path: Path) -> None:
    """Nothing can be written for seconds: scorers say so, and go on once there is room."""
    settings = QueueSettings(path=str(small_disk / "stream"), partitions=4, lease_s=LEASE_S)
    models = two_versions(tmp_path / "registry", registry)
    crew = Crew(settings, models, tmp_path / "workers.log", num_workers=2)
    traffic = Traffic(settings, random.Random(SEED), rate=300)
    producer = threading.Thread(target=traffic.run, daemon=True)
    filler = small_disk / "filler"
    try:
        assert crew.until(lambda: len(crew.active()) == 2, timeout_s=60)
        producer.start()
        crew.rest(1.0)
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 65_536)

        def is_said() -> bool:
            # By the commit when there was one at hand, else by the next renewal.
            return "disk is full" in crew.log.read_text(errors="replace")

        assert crew.until(is_said, timeout_s=30), crew.log.read_text(errors="replace")
        filler.unlink()
        crew.rest(1.0)
        traffic.stop.set()
        producer.join()
        assert crew.until(crew.all_scored, timeout_s=60), crew.positions
    finally:
        traffic.stop.set()
        crew.end()
    verify(crew.queue, traffic, leases=crew.leases)
    crew.queue.close()


@pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "unfenced"])
def test_the_verifier_sees_a_missing_fence(broker: Broker, registry: Registry, tmp_path: Path, *, fenced: bool) -> None:
    """A zombie that commits after its partition was taken over: refused with the fence, found without it."""
    models = two_versions(tmp_path / "registry", registry)
    crew = Crew(broker.settings, models, tmp_path / "workers.log", num_workers=1, fenced=fenced)
    traffic = Traffic(broker.settings, random.Random(SEED), rate=300)
    queue = patiently_opened(broker.settings)
    try:
        assert crew.until(lambda: len(crew.active()) == 1, timeout_s=60)
        (zombie,) = crew.active()
        zombie.send("arm", "before commit", signal.SIGSTOP)
        for _ in range(10):  # the first may be scored before it has heard that it is armed
            traffic.produce(queue, [traffic.event() for _ in range(20)])
            if crew.until(lambda: zombie.frozen, timeout_s=2.0):
                break
        assert zombie.frozen
        # Leases run out one after the other: who took over some alone would freeze with them.
        assert crew.until(lambda: all(position.expired for position in crew.positions), timeout_s=20)
        crew.num_workers = 2
        assert crew.until(lambda: len(crew.members) == 2, timeout_s=20)
        (successor,) = (member for member in crew.members.values() if member is not zombie)
        successor.send("arm", "after poll", signal.SIGSTOP)
        assert crew.until(lambda: successor.frozen, timeout_s=30)
        committed = sum(position.next_offset for position in queue.positions())
        zombie.signal(signal.SIGCONT)
        # Its commit comes before its successor's, or never.
        crew.until(
            lambda: sum(position.next_offset for position in queue.positions()) > committed,
            timeout_s=2.0 if fenced else 30.0,
        )
        successor.signal(signal.SIGCONT)
        assert crew.until(crew.all_scored, timeout_s=60)
    finally:
        crew.end()
    with contextlib.nullcontext() if fenced else pytest.raises(AssertionError):
        verify(queue, traffic, leases=crew.leases)
    queue.close()
    crew.queue.close()
