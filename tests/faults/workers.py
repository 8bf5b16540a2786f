"""A scorer in a process of its own that dies or freezes at a named point when it is told to."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from streaming.queues import factory, kafka, kafka_writer, redis, sqlite
from streaming.queues.base import Commit, Consumer, Lease, MicroBatch, Output
from streaming.scorer import Scorer
from streaming.settings import QueueSettings, ScoringSettings
from zaphod.columns import Columns
from zaphod.errors import PredictionError
from zaphod.registry import Registry
from zaphod.served import ServedModel

POINTS = ("before acquire", "after acquire", "after poll", "mid batch", "before commit", "after commit", "renewing")
"""Where a scorer can be told to die. In an acquisition only while partitions move."""

CRASHES, FAILS = 999, 777
"""Values of `count`: the process dies of the event; the model raises on it."""

EPOCH = "test-epoch"
"""Header of an output: the epoch under which it was committed."""


@dataclass(frozen=True)
class Job:
    """What a worker is started with. fenced: False takes the check of the lease out of the queue's commit.

    log: the file for what it says.
    """

    queue: QueueSettings
    registry: str
    name: str
    log: Path
    fenced: bool = True


class Points:
    """Dies or freezes where it was armed."""

    def __init__(self) -> None:
        self._armed: dict[str, signal.Signals] = {}

    def arm(self, point: str, number: signal.Signals) -> None:
        self._armed = {point: number}

    def passed(self, point: str) -> None:
        number = self._armed.pop(point, None)
        if number is not None:
            os.kill(os.getpid(), number)


class WatchedConsumer:
    """A consumer that passes the points, stamps outputs with its epoch and tells of each lease it takes."""

    def __init__(self, inner: Consumer, points: Points, pipe: Connection) -> None:
        self._inner = inner
        self._points = points
        self._pipe = pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def acquire(self, partition: int, *, steal: bool = False) -> Lease | None:
        self._points.passed("before acquire")
        lease = self._inner.acquire(partition, steal=steal)
        if lease is not None:
            self._pipe.send((partition, lease.epoch, time.time()))
        self._points.passed("after acquire")
        return lease

    def renew(self) -> None:
        self._points.passed("renewing")
        self._inner.renew()

    def poll(self, *, max_events: int, wait_s: float) -> MicroBatch | None:
        batch = self._inner.poll(max_events=max_events, wait_s=wait_s)
        if batch is not None:
            self._points.passed("after poll")
        return batch

    def commit_all(self, commits: Sequence[Commit]) -> list[bool]:
        self._points.passed("before commit")
        stamped = [
            Commit(each.batch, [_stamped(output, each.batch.epoch) for output in each.outputs], each.dead_letters)
            for each in commits
        ]
        done = self._inner.commit_all(stamped)
        self._points.passed("after commit")
        return done


def _stamped(output: Output, epoch: int) -> Output:
    return msgspec.structs.replace(output, headers={**output.headers, EPOCH: str(epoch)})


class FragileModel:
    """A served model that some events are too much for."""

    def __init__(self, inner: ServedModel, points: Points) -> None:
        self._inner = inner
        self._points = points

    def snapshot(self) -> FragileSnapshot:
        return FragileSnapshot(self._inner.snapshot(), self._points)


class FragileSnapshot:
    """Its snapshot."""

    def __init__(self, inner: Any, points: Points) -> None:
        self._inner = inner
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def score(self, columns: Columns, **arguments: Any) -> Any:
        self._points.passed("mid batch")
        if (columns.numbers == CRASHES).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (columns.numbers == FAILS).any():
            raise PredictionError("Cannot predict: the estimator raised ValueError.")
        return self._inner.score(columns, **arguments)


def work(job: Job, pipe: Connection) -> None:
    """Until told to stop; ends with the process that started it."""
    with job.log.open("ab") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())
    if not job.fenced:
        remove_fence(job)
    points = Points()
    served = ServedModel.open(Registry.open(job.registry), "binary")
    lease_s = job.queue.lease_s
    consumer = WatchedConsumer(factory.open_queue(job.queue).consumer(job.name, lease_s=lease_s), points, pipe)
    # So many kills by chance do not meet in one event and have it taken for what kills.
    settings = ScoringSettings(max_batch=32, max_attempts=6, backoff_s=0.01)
    scorer = Scorer(consumer, FragileModel(served, points), settings=settings, lease_s=lease_s)  # type: ignore[arg-type]  # what a scorer uses of it
    threading.Thread(target=_obey, args=(scorer, points, pipe), daemon=True).start()
    pipe.send("ready")
    scorer.run()
    os._exit(0)  # not through the watching thread, which waits for ever


def remove_fence(job: Job) -> None:
    """In this process a commit no longer asks whose the lease is: the guard whose loss must be seen."""
    sqlite._MOVE = "UPDATE state SET next = ?, tried = -1 WHERE ? IS NOT NULL AND next = ?"
    redis._COMMIT = redis._COMMIT.replace("if s[1] ~= ARGV[at] then return 0 end\n", "")
    open_writer = kafka_writer.PartitionWriter.__init__

    def own_name(self: Any, config: Any, *, name: str, **arguments: Any) -> None:
        open_writer(self, config, name=f"{name}-{job.name}", **arguments)

    kafka.PartitionWriter.__init__ = own_name  # type: ignore[method-assign]
    kafka.KafkaConsumer._is_taken = lambda *_: False  # type: ignore[method-assign]


def _obey(scorer: Scorer, points: Points, pipe: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            order, *arguments = pipe.recv()
            if order == "assign":
                partitions, steal = arguments
                scorer.assign(partitions, steal=steal)
            elif order == "arm":
                points.arm(*arguments)
            else:
                scorer.stop()
    os._exit(1)
