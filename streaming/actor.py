"""The Ray actor around a scorer: its process, and the few calls that steer it. No event passes through a call."""

from __future__ import annotations

import logging
import os
import threading

import ray

from streaming.queues.factory import open_queue
from streaming.scorer import Scorer
from streaming.settings import StreamingSettings
from streaming.stats import Status
from zaphod.registry import Registry
from zaphod.served import ServedModel

_log = logging.getLogger(__name__)

# Steering calls beside the one that waits for the end.
MAX_CONCURRENCY = 4


class ScorerActor:
    """Consumes what it is assigned until it is drained. name: owner of its leases, unique for good."""

    def __init__(self, name: str, settings: StreamingSettings) -> None:
        self._model = ServedModel.open(Registry.open(settings.registry), settings.model)
        self._queue = open_queue(settings.queue)
        consumer = self._queue.consumer(name, lease_s=settings.queue.lease_s)
        self._scorer = Scorer(consumer, self._model, settings=settings.scoring, lease_s=settings.queue.lease_s)
        self._node = ray.get_runtime_context().get_node_id()
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)
        self._thread.start()

    def assign(self, partitions: frozenset[int], steal: frozenset[int]) -> None:
        self._scorer.assign(partitions, steal=steal)

    def status(self) -> Status:
        version = self._model.snapshot().stamp.version
        return self._scorer.stats.status(self._scorer.partitions, version=version, node=self._node)

    def drain(self) -> None:
        """Commits what is at hand and gives the leases back."""
        self._scorer.stop()
        self._thread.join()

    def wait_end(self) -> None:
        """Returns when drained; the caller sees the process die by this call failing."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._scorer.run()
        except BaseException:  # noqa: BLE001  # whatever it was, the process may not live on
            # A scorer that stopped consuming but looks alive would keep its partitions from being served.
            _log.exception("the scoring loop failed; the process ends so that it is replaced")
            os._exit(70)
