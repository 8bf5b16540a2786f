"""Workers, somebody who replaces them and shares the partitions out, traffic, and a verifier that knows only ids."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import msgspec
import psutil

from streaming import policy
from streaming.queues import factory
from streaming.queues.base import Cause, Cursor, NewEvent, Position, Queue
from streaming.settings import QueueSettings
from tests.faults import workers
from zaphod.errors import QueueUnavailableError
from zaphod.registry import CHAMPION, Registry

NUM_KEYS = 25
EVERY_S = 0.05
"""Time between two parcels of events."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.faults.workers"])
_TELL_AGAIN_S = 0.3


def row(count: int = 3) -> bytes:
    """Of the small models."""
    return msgspec.json.encode({"amount": 100.0, "balance": None, "count": count, "kind": "a"})


@dataclass
class Traffic:
    """A producer that retries, and whose events are sometimes poison. sent: ids in order, by key.

    fragile: whether the model is one that fails on some events. num_crashing: how many events that kill the process
    there may be; each costs several workers.
    """

    settings: QueueSettings
    rng: random.Random
    rate: int
    fragile: bool = False
    num_crashing: int = 0
    sent: dict[str, list[str]] = field(default_factory=dict)
    unprocessable: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    _number: int = 0

    def run(self) -> None:
        """Until stopped: a parcel of events every now and then, one in ten sent twice."""
        try:
            queue = patiently_opened(self.settings)
            while not self.stop.wait(EVERY_S):
                self.produce(queue, [self.event() for _ in range(max(1, int(self.rate * EVERY_S)))])
            queue.close()
        except BaseException as error:  # noqa: BLE001  # for the thread that looks
            self.error = error

    def produce(self, queue: Queue, events: list[NewEvent]) -> None:
        """As a producer does that does not know whether it was heard: the same ids until it is."""
        for _ in range(2 if self.rng.random() < 0.1 else 1):
            while True:
                try:
                    queue.produce(events)
                except QueueUnavailableError:
                    time.sleep(0.05)
                else:
                    break

    def event(self) -> NewEvent:
        """The next one."""
        number, key = self._number, f"k{self.rng.randrange(NUM_KEYS)}"
        self._number += 1
        identifier, value = f"e{number}", row()
        self.sent.setdefault(key, []).append(identifier)
        if number % 100 == 13:
            self.unprocessable.add(identifier)
            value = b"{poison"
        elif self.fragile and number % 200 == 77:
            self.failing.add(identifier)
            value = row(workers.FAILS)
        elif number % 500 == 250 and self.num_crashing > 0:
            self.num_crashing -= 1
            self.failing.add(identifier)
            value = row(workers.CRASHES)
        return NewEvent(value=value, id=identifier, key=key, created=time.time())


@dataclass
class Member:
    """One worker, and what is known of it."""

    name: str
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    draining: bool = False
    told: policy.Assignment | None = None
    told_at: float = 0.0

    def send(self, *order: object) -> None:
        with contextlib.suppress(OSError):  # it may be dead
            self.pipe.send(order)

    def signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(psutil.Error):
            psutil.Process(self.process.pid).send_signal(number)

    @property
    def frozen(self) -> bool:
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED
        return False


class Crew:
    """Does for processes what the supervisor does for actors, by the same policy, many times faster."""

    def __init__(
        self, settings: QueueSettings, registry: Registry, log: Path, *, num_workers: int, fenced: bool = True
    ) -> None:
        self.log = log
        self.num_workers = num_workers
        self.leases: list[tuple[int, int, float]] = []  # partition, epoch, when
        self.queue = patiently_opened(settings)
        self.positions: list[Position] = []
        self.members: dict[str, Member] = {}
        self._settings = settings
        self._registry = registry
        self._fenced = fenced
        self._gone: set[str] = set()
        self._count = 0

    def until(self, condition: Callable[[], bool], *, timeout_s: float) -> bool:
        """Looks after the workers until the condition holds; False when it did not in time."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.tick()
            time.sleep(0.01)
        return True

    def rest(self, seconds: float) -> None:
        """Looks after them for a while."""
        self.until(lambda: False, timeout_s=seconds)

    def tick(self) -> None:
        """Replaces the dead, drains the surplus, moves partitions."""
        for member in list(self.members.values()):
            self._hear(member)
            if not member.process.is_alive():
                self._gone.add(member.name)
                del self.members[member.name]
        active = [member for member in self.members.values() if not member.draining]
        for _ in range(self.num_workers - len(active)):
            self._start()
        for member in active[self.num_workers :]:
            member.draining = True
            member.send("stop")
        with contextlib.suppress(QueueUnavailableError):
            self.positions = self.queue.positions()
            self._share()

    def active(self) -> list[Member]:
        """Those that own something."""
        owners = {position.owner for position in self.positions if not position.expired}
        return [m for m in self.members.values() if m.name in owners and m.process.is_alive() and not m.draining]

    def all_scored(self) -> bool:
        """Now: what the last tick saw may be from before the last events."""
        try:
            return all(position.lag == 0 for position in self.queue.positions())
        except QueueUnavailableError:
            return False

    def end(self) -> None:
        """Kills what is left."""
        for member in self.members.values():
            member.signal(signal.SIGKILL)
            member.process.join()
            self._hear(member)
        self.members.clear()

    def _start(self) -> None:
        self._count += 1
        name = f"w{self._count}-{time.monotonic_ns()}"
        ours, theirs = _CONTEXT.Pipe()
        job = workers.Job(self._settings, self._registry.uri, name, self.log, self._fenced)
        process = _CONTEXT.Process(target=workers.work, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()
        self.members[name] = Member(name, process, ours)

    def _hear(self, member: Member) -> None:
        with contextlib.suppress(EOFError, OSError):
            while member.pipe.poll():
                told = member.pipe.recv()
                if told == "ready":
                    member.ready = True
                else:
                    self.leases.append(told)

    def _share(self) -> None:
        silent = {position.owner for position in self.positions if position.expired}
        ready = [m.name for m in self.members.values() if m.ready and not m.draining and m.name not in silent]
        for name, assignment in policy.assign(self.positions, ready=ready, dead=self._gone).items():
            member = self.members[name]
            owned = {position.partition for position in self.positions if position.owner == name}
            if owned == assignment.partitions:
                member.told = None
            elif member.told != assignment or time.monotonic() - member.told_at > _TELL_AGAIN_S:
                member.send("assign", assignment.partitions, assignment.steal)
                member.told, member.told_at = assignment, time.monotonic()


def patiently_opened(settings: QueueSettings) -> Queue:
    """The queue, once it can be used."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return factory.open_queue(settings)
        except QueueUnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def two_versions(folder: Path, source: Registry) -> Registry:
    """A registry with the same model twice."""
    made = Registry.open(str(folder))
    files = source.load("binary", 1).files
    for _ in range(2):
        made.publish("binary", files)
    made.set_alias("binary", alias=CHAMPION, version=1, action="promote", why="test")
    return made


def verify(queue: Queue, traffic: Traffic, *, leases: Collection[tuple[int, int, float]] = ()) -> None:
    """Every event sent has one output, or one dead letter if it was poison, in the order of its key.

    Of the leases taken, no output was committed under an older one than its partition had by then.
    """
    beginning = {partition: Cursor() for partition in range(queue.num_partitions)}
    delivered = queue.read_outputs(beginning, max_outputs=10_000_000)
    letters = [entry.letter for entry in queue.read_dead_letters(beginning, max_letters=10_000_000)]
    sent = {identifier for ids in traffic.sent.values() for identifier in ids}
    by_cause = {cause: Counter(letter.id for letter in letters if letter.cause is cause) for cause in Cause}
    assert by_cause[Cause.UNPROCESSABLE] == Counter(traffic.unprocessable)
    assert by_cause[Cause.FAILED] == Counter(traffic.failing)
    answered = sent - traffic.unprocessable - traffic.failing
    assert Counter(each.output.id for each in delivered) == Counter(answered)
    by_key: dict[str, list[str]] = {}
    for each in delivered:
        assert each.output.key is not None
        by_key.setdefault(each.output.key, []).append(each.output.id)
    for key, identifiers in by_key.items():
        assert identifiers == [identifier for identifier in traffic.sent[key] if identifier in answered]
    newest = dict.fromkeys(range(queue.num_partitions), 0)
    for each in delivered:
        if leases:
            epoch = int(each.output.headers[workers.EPOCH])
            assert epoch >= newest[each.partition], "an older lease wrote after a newer one"
            newest[each.partition] = epoch
            taken = [when for partition, other, when in leases if partition == each.partition and other > epoch]
            assert not taken or each.committed <= min(taken), "committed under a lease that another had taken over"
