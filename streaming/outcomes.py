"""Takes outcomes from a topic of their own into the log: `python -m streaming outcomes`."""

from __future__ import annotations

import os
import time

from streaming.config import queue_of
from streaming.loop import Loop
from streaming.queues.base import Cause, Consumer, DeadLetter, Event, MicroBatch, Queue
from streaming.queues.factory import open_queue
from streaming.settings import StreamingSettings
from streaming.trim import Trimmer
from zaphod.errors import ConfigError, FencedError, InvalidInputError, QueueUnavailableError
from zaphod.monitoring.outcomes import Outcome, OutcomeLog, Outcomes, decode_outcome, open_outcomes

_MAX_EVENTS = 10_000
_ACQUIRE_EVERY_S = 1.0


class OutcomeConsumer:
    """An event is `{"prediction_id": …, "value": …}`. Its offset is committed once it is in a file of the log.

    After a crash between the two it is read again, and counted as doubled. Several may run: each holds the partitions
    that it gets.
    """

    def __init__(self, queue: Queue, log: OutcomeLog, *, lease_s: float, keep_s: float | None = None) -> None:
        """keep_s: after which what was taken is removed from the topic; None: never."""
        self._queue = queue
        self._trimmer = Trimmer(queue, keep_s=keep_s)
        self._log = log
        self._consumer: Consumer = queue.consumer(f"outcomes-{os.getpid()}-{os.urandom(4).hex()}", lease_s=lease_s)
        self._loop = Loop(self._consumer, lease_s=lease_s, first_s=0.05, longest_s=5.0)
        # Per partition, the epoch of its lease, and up to where the log has the outcomes, in a file or waiting for its
        # storage. What could not be committed comes again, and must not be handed over again.
        self._handed: dict[int, tuple[int, int]] = {}
        self.num_taken = 0

    def stop(self) -> None:
        """From a signal handler or another thread."""
        self._loop.stop()

    def run(self) -> None:
        """Until `stop`. Outages of the queue are waited out."""
        self._loop.run(self.step)

    def step(self) -> int:
        """One batch of one partition; the number of its events. Raises: QueueUnavailableError."""
        self._acquire()
        self._trimmer.step()
        batch = self._consumer.poll(max_events=_MAX_EVENTS, wait_s=_ACQUIRE_EVERY_S)
        if batch is None:
            return 0
        epoch, handed = self._handed.get(batch.partition, (batch.epoch, 0))
        if epoch != batch.epoch:
            handed = 0
        outcomes: list[Outcome] = []
        letters: list[DeadLetter] = []
        for event in batch.events:
            try:
                outcome = decode_outcome(event.value)
            except InvalidInputError as error:
                letters.append(_letter(event, error.message))
            else:
                if event.offset >= handed:
                    outcomes.append(outcome)
        if outcomes:
            self._log.put(Outcomes(outcomes, time.time()))
            self._handed[batch.partition] = (batch.epoch, batch.next_offset)
        if (outcomes or batch.first < handed) and not self._log.flush():
            raise QueueUnavailableError("Cannot take outcomes: the log's storage cannot be reached.")
        return self._commit(batch, letters)

    def _commit(self, batch: MicroBatch, letters: list[DeadLetter]) -> int:
        try:
            self._consumer.commit(batch, outputs=[], dead_letters=letters)
        except FencedError:
            return 0
        self.num_taken += len(batch.events)
        return len(batch.events)

    def _acquire(self) -> None:
        for partition in set(range(self._queue.num_partitions)) - self._consumer.partitions:
            self._consumer.acquire(partition)


def open_consumer(settings: StreamingSettings) -> OutcomeConsumer:
    """Raises: ConfigError when the settings name no topic or no log."""
    topic = queue_of(settings, "outcomes")
    # Every outcome waits for its file: it is written at once.
    log = open_outcomes(settings.monitoring.model_copy(update={"when_full": "block"}))
    if log is None:
        raise ConfigError("Cannot take outcomes: there is no log. Set monitoring.uri.")
    return OutcomeConsumer(open_queue(topic), log, lease_s=topic.lease_s, keep_s=topic.keep_s)


def _letter(event: Event, reason: str) -> DeadLetter:
    return DeadLetter(
        event.offset, event.id, event.key, event.value, event.headers, event.created,
        Cause.UNPROCESSABLE, reason, 1, 0,
    )  # fmt: skip
