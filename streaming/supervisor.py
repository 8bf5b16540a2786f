"""Keeps the pool as it should be: starts scorers, notices their death, shares out the partitions, scales, drains."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from streaming import policy
from streaming.actor import MAX_CONCURRENCY, ScorerActor
from streaming.queues.base import Position, Queue
from streaming.settings import StreamingSettings
from streaming.stats import Status
from streaming.trim import Trimmer
from streaming.view import PoolView, Totals
from zaphod.errors import EnvironmentNotReadyError, QueueUnavailableError

_log = logging.getLogger(__name__)

_TICK_S = 0.1
_TELL_AGAIN_S = 1.0
_LATE_S = 60.0
# Its partitions are taken over when its lease ends; so much later its process is taken to hang for good.
_SILENT_S = 10.0


@dataclass(slots=True)
class _Member:
    """One scorer actor as the supervisor sees it. end: fails or returns when the actor is gone."""

    name: str
    actor: Any  # Ray makes the handle's methods at run time
    end: ray.ObjectRef[None]
    asked: ray.ObjectRef[Status]
    status: Status | None = None
    heard: float = 0.0
    draining: bool = False
    told: policy.Assignment | None = None
    told_at: float = 0.0


class Supervisor:
    """Runs in the driver. Its death stops no event from being lost or doubled: leases run out, offsets stay."""

    def __init__(self, settings: StreamingSettings, queue: Queue, *, stopping: threading.Event | None = None) -> None:
        """stopping: when somebody else may ask to stop before there is a supervisor."""
        self._settings = settings
        self._queue = queue
        self._pool = uuid.uuid4().hex[:8]
        self._count = 0
        self._members: dict[str, _Member] = {}
        self._gone: set[str] = set()
        self._num_lost = 0
        self._totals = Totals()
        self._positions: tuple[Position, ...] = ()
        self._waiting: str | None = None
        self._scale = policy.Scale(wanted=min(settings.pool.min_scorers, queue.num_partitions))
        self._stopping = stopping or threading.Event()
        self._ready = False
        self._has_run = False
        self._num_failed = 0
        self._start_at = 0.0
        self._trimmer = Trimmer(queue, keep_s=settings.queue.keep_s)
        self._silence_s = max(_SILENT_S, 3 * settings.queue.lease_s)

    def run(self, *, on_tick: Callable[[PoolView], object]) -> None:
        """Until `stop`, then drains. on_tick: called about ten times a second.

        Raises: EnvironmentNotReadyError when no scorer could ever start, because of the model or the settings.
        """
        late_at = time.monotonic() + _LATE_S
        try:
            while not self._stopping.is_set():
                self.tick()
                self._ready = self._ready or self._all_owned()
                if not self._ready and time.monotonic() > late_at:
                    _log.warning("not every partition has a scorer yet, still trying: %s", self.hindrance())
                    late_at += _LATE_S
                on_tick(self.view())
        finally:
            self._drain([*self._members.values()])

    def stop(self) -> None:
        """From any thread or a signal handler."""
        self._stopping.set()

    def view(self) -> PoolView:
        statuses = [member.status for member in self._members.values() if member.status is not None]
        totals = self._totals.copy()
        for status in statuses:
            totals.add(status)
        return PoolView(
            ready=self._ready,
            positions=self._positions,
            counts=totals.counts,
            num_scorers=len(self._members),
            num_fenced=totals.num_fenced,
            num_acquired=totals.num_acquired,
            num_lost=self._num_lost,
            versions=frozenset(status.version for status in statuses),
            waiting=self._waiting or next((status.waiting for status in statuses if status.waiting), None),
            num_logged=totals.num_logged,
            num_unlogged=totals.num_unlogged,
        )

    def tick(self) -> None:
        """Looks once, decides, acts; waits at most a tenth of a second for something to happen."""
        self._notice()
        try:
            self._positions = tuple(self._queue.positions())
            self._waiting = None
        except QueueUnavailableError as error:
            if self._waiting is None:
                _log.warning("the queue cannot be used; waiting for it: %s", error.message)
            self._waiting = error.message
            self._stopping.wait(_TICK_S)
            return
        self._resize()
        self._share()
        self._trimmer.step()

    def _notice(self) -> None:
        """Collects deaths, which wake it at once, and reports."""
        members = list(self._members.values())
        if not members:
            return
        ended, _ = ray.wait([member.end for member in members], num_returns=1, timeout=_TICK_S)
        for member in members:
            if member.end in ended:
                self._bury(member)
            else:
                self._hear(member)

    def _hear(self, member: _Member) -> None:
        ready, _ = ray.wait([member.asked], timeout=0)
        if ready:
            try:
                member.status = ray.get(member.asked)
            except RayError:
                return  # its end says so too
            member.heard = time.monotonic()
            member.asked = member.actor.status.remote()
            self._has_run, self._num_failed = True, 0
        elif member.status is not None and time.monotonic() - member.heard > self._silence_s:
            _log.warning("scorer %s does not answer; it is ended and replaced", member.name)
            member.heard = time.monotonic()
            _end_hung(member.status)

    def _bury(self, member: _Member) -> None:
        del self._members[member.name]
        if member.status is not None:
            self._totals.add(member.status)
        try:
            ray.get(member.end)
        except RayError as error:
            self._num_lost += 1
            if member.status is None:
                self._failed_start(error)
            else:
                _log.warning("scorer %s died; its partitions move to others", member.name)
        self._gone.add(member.name)
        ray.kill(member.actor)

    def _failed_start(self, error: RayError) -> None:
        """A scorer died before it worked: of its own, as on a wrong setting, or by accident, as one out of memory."""
        if isinstance(error, RayActorError) and error.actor_init_failed and not self._has_run:
            # None ever ran: starting it again and again would hide why.
            raise EnvironmentNotReadyError(f"Cannot start a scorer: {_cause(error)}") from error
        self._num_failed += 1
        pause_s = policy.restart_pause_s(self._num_failed)
        self._start_at = time.monotonic() + pause_s
        _log.warning("a scorer died while it started; the next starts in %.1f s: %s", pause_s, _cause(error))

    def _resize(self) -> None:
        self._scale = policy.rescale(
            self._scale,
            oldest_s=max((position.oldest_s for position in self._positions), default=0.0),
            lag=sum(position.lag for position in self._positions),
            num_partitions=len(self._positions),
            settings=self._settings.pool,
            now=time.monotonic(),
        )
        active = {name: member for name, member in self._members.items() if not member.draining}
        if time.monotonic() >= self._start_at:
            for _ in range(self._scale.wanted - len(active)):
                self._start()
        owned = {name: len(member.status.partitions) if member.status else 0 for name, member in active.items()}
        for name in policy.surplus(owned, wanted=self._scale.wanted):
            _log.info("draining scorer %s: no event has been late for a while", name)
            self._members[name].draining = True
            self._members[name].actor.drain.remote()

    def _start(self) -> None:
        self._count += 1
        name = f"{self._pool}-{self._count}"
        options = {
            "num_cpus": self._settings.pool.num_cpus,
            "max_restarts": 0,
            "max_concurrency": MAX_CONCURRENCY,
            "scheduling_strategy": self._placement(),
        }
        actor: Any = ray.remote(ScorerActor).options(**options).remote(name, self._settings)
        self._members[name] = _Member(name=name, actor=actor, end=actor.wait_end.remote(), asked=actor.status.remote())

    def _placement(self) -> NodeAffinitySchedulingStrategy | str:
        placement = self._settings.pool.placement
        if placement == "spread" or (placement == "auto" and self._queue.spans_nodes):
            return "SPREAD"
        return NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)

    def _share(self) -> None:
        now = time.monotonic()
        silent = {position.owner for position in self._positions if position.expired}
        ready = [
            name
            for name, member in self._members.items()
            if member.status and not member.draining and name not in silent
        ]
        for name, assignment in policy.assign(self._positions, ready=ready, dead=self._gone).items():
            member = self._members[name]
            # Its own word counts too: after a lost answer it may have dropped what the queue still calls its own.
            owned = {position.partition for position in self._positions if position.owner == name}
            held = owned & set(member.status.partitions) if member.status else owned
            if held == assignment.partitions:
                member.told = None
            elif member.told != assignment or now - member.told_at > _TELL_AGAIN_S:
                member.actor.assign.remote(assignment.partitions, assignment.steal)
                member.told, member.told_at = assignment, now

    def _all_owned(self) -> bool:
        return bool(self._positions) and all(position.owner in self._members for position in self._positions)

    def hindrance(self) -> str:
        """Why not every partition has an owner, as far as one can tell."""
        if self._waiting:
            return self._waiting
        if not any(member.status for member in self._members.values()):
            return "no scorer has started: Ray may have no CPU free"
        return "another pool holds a lease"

    def _drain(self, members: list[_Member]) -> None:
        if not members:
            return
        ends = [member.actor.drain.remote() for member in members]
        _, late = ray.wait(ends, num_returns=len(ends), timeout=self._settings.pool.drain_s)
        if late:
            _log.warning("%d scorers did not drain in time; what they had not committed is scored later", len(late))
        for member in members:
            self._hear_last(member)
            ray.kill(member.actor)
        self._members.clear()

    def _hear_last(self, member: _Member) -> None:
        with contextlib.suppress(RayError):
            last: Status = ray.get(member.actor.status.remote(), timeout=1.0)
            member.status = last
        if member.status is not None:
            self._totals.add(member.status)


def _end_hung(status: Status) -> None:
    """Ray asks an actor's process to end itself; one that hangs does not, and may hold a lock of the queue."""
    if status.node == ray.get_runtime_context().get_node_id():
        _kill(status.pid)
    else:
        there = NodeAffinitySchedulingStrategy(node_id=status.node, soft=False)
        ray.remote(_kill).options(num_cpus=0, scheduling_strategy=there).remote(status.pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _cause(error: RayError) -> str:
    """The innermost message: Ray wraps the actor's own error."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__
