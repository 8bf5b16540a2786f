"""The Ray actor around a scorer: its process, and the few calls that steer it. No event passes through a call."""

from __future__ import annotations

import gc
import logging
import os
import threading

import ray

from streaming.patience import patiently
from streaming.queues.factory import open_queue
from streaming.scorer import Scorer
from streaming.settings import StreamingSettings
from streaming.stats import Stats, Status
from zaphod.errors import QueueUnavailableError
from zaphod.monitoring.log import open_log
from zaphod.monitoring.record import Arm
from zaphod.registry import Registry
from zaphod.served import Recording, ServedModel

_log = logging.getLogger(__name__)

# Steering calls beside the one that waits for the end.
MAX_CONCURRENCY = 4


class ScorerActor:
    """Consumes what it is assigned until it is drained. name: owner of its leases, unique for good."""

    def __init__(self, name: str, settings: StreamingSettings) -> None:
        self._name = name
        self._settings = settings
        self._log = open_log(settings.monitoring)
        recording = None
        if self._log is not None:
            recording = Recording(self._log, Arm.STREAMING, settings.monitoring, settings.shadow)
        self._model = ServedModel.open(Registry.open(settings.registry), settings.model, recording=recording)
        self._node = ray.get_runtime_context().get_node_id()
        self._stats = Stats()
        self._stopping = threading.Event()
        self._scorer: Scorer | None = None
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)
        self._thread.start()

    def assign(self, partitions: frozenset[int], steal: frozenset[int]) -> None:
        """Told again by the supervisor until it shows: an order that comes before the queue is open may be dropped."""
        if self._scorer is not None:
            self._scorer.assign(partitions, steal=steal)

    def status(self) -> Status:
        version = self._model.snapshot().stamp.version
        partitions = self._scorer.partitions if self._scorer is not None else frozenset()
        logged = None if self._log is None else self._log.counts
        return self._stats.status(partitions, version=version, node=self._node, logged=logged)

    def drain(self) -> None:
        """Commits what is at hand and gives the leases back."""
        self._stopping.set()
        if self._scorer is not None:
            self._scorer.stop()
        self._thread.join()

    def wait_end(self) -> None:
        """Returns when drained; the caller sees the process die by this call failing."""
        self._thread.join()

    def _run(self) -> None:
        try:
            try:
                self._scorer = self._open()
            except QueueUnavailableError:
                return  # drained before there was a queue to be used
            # What was imported and loaded stays: looking through it would stop the scoring for a tenth of a second.
            gc.freeze()
            self._scorer.run()
            self._model.close()
            if self._log is not None:
                self._log.close()
        except BaseException:  # noqa: BLE001  # whatever it was, the process may not live on
            # A scorer that stopped consuming but looks alive would keep its partitions from being served.
            _log.exception("the scoring loop failed; the process ends so that it is replaced")
            os._exit(70)

    def _open(self) -> Scorer:
        scoring, lease_s = self._settings.scoring, self._settings.queue.lease_s

        def tell(reason: str | None) -> None:
            self._stats.waiting = reason

        consumer = patiently(
            lambda: open_queue(self._settings.queue).consumer(self._name, lease_s=lease_s),
            stopping=self._stopping, first_s=scoring.backoff_s, longest_s=scoring.max_backoff_s, tell=tell,
        )  # fmt: skip
        return Scorer(
            consumer, self._model, settings=scoring, lease_s=lease_s, stats=self._stats, stopping=self._stopping
        )
