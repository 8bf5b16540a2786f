"""The loop that consumes and scores: one thread, no Ray, the model in this very process."""

from __future__ import annotations

import itertools
import logging
import operator
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from streaming import events
from streaming.events import Decoded
from streaming.loop import Loop
from streaming.queues.base import Cause, Commit, Consumer, DeadLetter, Event, MicroBatch, Output
from streaming.settings import ScoringSettings
from streaming.stats import Stats
from zaphod.errors import FencedError, InvalidInputError, PredictionError
from zaphod.outputs import RowWriter
from zaphod.served import Scored, ServedModel, Snapshot

_log = logging.getLogger(__name__)

_IDLE_WAIT_S = 1.0
# Between two tries to take over what another gives back: most do it within milliseconds, another pool never.
_FIRST_RETRY_S = 0.004
_LONGEST_RETRY_S = 0.1


@dataclass(slots=True)
class Answers:
    """What a micro-batch came to: every event has an output or a dead letter."""

    outputs: list[Output] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)


_partition_of = operator.attrgetter("partition")


class Scorer:
    """Polls, scores and commits the partitions that its consumer holds.

    All of `run` happens in one thread; `assign` and `stop` may be called from another and are carried out between two
    micro-batches.
    """

    def __init__(
        self,
        consumer: Consumer,
        model: ServedModel,
        *,
        settings: ScoringSettings,
        lease_s: float,
        stats: Stats | None = None,
        stopping: threading.Event | None = None,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        """With `stats` and `stopping` when somebody else looks at them before there is a scorer."""
        self.stats = stats or Stats()
        self._consumer = consumer
        self._model = model
        self._settings = settings
        self._pause = pause
        self._loop = Loop(
            consumer, lease_s=lease_s, first_s=2 * settings.backoff_s, longest_s=settings.max_backoff_s,
            stopping=stopping, tell=self._tell_waiting,
        )  # fmt: skip
        # What `assign` asked for, as one reference: partitions, and those to take over although leased.
        self._wanted: tuple[frozenset[int], frozenset[int]] | None = None
        self._retry_at = 0.0
        self._retry_s = _FIRST_RETRY_S
        # Events still to be scored one by one, per partition, because the owner before died.
        self._suspects: dict[int, int] = {}
        self._attempts: dict[int, int] = {}
        # Of the bundle that answers.
        self._made: tuple[str, RowWriter] | None = None

    @property
    def partitions(self) -> frozenset[int]:
        return self._consumer.partitions

    def assign(self, partitions: Collection[int], *, steal: Collection[int] = ()) -> None:
        """Consume these partitions from the next micro-batch on, and no others. steal: take over although leased."""
        self._retry_at = 0.0
        self._retry_s = _FIRST_RETRY_S
        self._wanted = (frozenset(partitions), frozenset(steal))
        self._consumer.wake()

    def stop(self) -> None:
        """Commit what is at hand, give the leases back, then return from `run`."""
        self._loop.stop()

    def run(self) -> None:
        """Until `stop`. Queue outages are waited out."""
        self._loop.run(self.step)

    def step(self) -> int:
        """A micro-batch of each partition that has events; returns the number of events, 0 when none came.

        They are scored in one call and committed one by one.

        Raises: QueueUnavailableError.
        """
        wanted = self._wanted
        if wanted is not None and time.monotonic() >= self._retry_at:
            self._apply(*wanted)
        batch = self._consumer.poll(
            max_events=self._settings.max_batch, wait_s=_IDLE_WAIT_S if self._wanted is None else self._retry_s
        )
        if batch is None:
            return 0
        if self._suspects.get(batch.partition):
            return self._step_carefully(batch)
        left = self._settings.max_batch - len(batch.events)
        others = self._consumer.poll_others(batch, max_events=left) if left > 0 else []
        return self._score_and_commit([batch, *(other for other in others if not self._suspects.get(other.partition))])

    def _apply(self, wanted: frozenset[int], steal: frozenset[int]) -> None:
        for partition in self._consumer.partitions - wanted:
            self._consumer.release(partition)
        missing = wanted - self._consumer.partitions
        got = [self._acquire(partition, steal=partition in steal) for partition in sorted(missing)]
        if all(got):
            if self._wanted == (wanted, steal):
                self._wanted = None
        else:
            # The owner before has yet to give it back, or its lease to run out.
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _LONGEST_RETRY_S)

    def _acquire(self, partition: int, *, steal: bool) -> bool:
        lease = self._consumer.acquire(partition, steal=steal)
        if lease is None:
            return False
        self.stats.num_acquired += 1
        self._suspects.pop(partition, None)
        self._attempts.pop(partition, None)
        if not lease.clean:
            self._suspects[partition] = self._settings.max_batch
            self._attempts[partition] = lease.attempts
        return True

    def _step_carefully(self, batch: MicroBatch) -> int:
        """One event at a time, each noted before it is scored: should the process die, its successor knows of which."""
        for event in batch.events[: self._suspects[batch.partition]]:
            single = MicroBatch(partition=batch.partition, epoch=batch.epoch, events=[event])
            attempts = self._attempts.get(batch.partition, 0)
            try:
                if attempts >= self._settings.max_attempts:
                    reason = "the scorer's process died each time it scored this event"
                    answers = Answers(dead_letters=[self._dead_letter(event, Cause.FAILED, reason, attempts)])
                else:
                    self._consumer.note_attempt(single, attempts=attempts + 1)
                    (answers,) = self._score([single], self._model.snapshot())
            except FencedError:
                self._lose(batch.partition)
                return 0
            if not self._commit([Commit(single, answers.outputs, answers.dead_letters)]):
                return 0
            self._suspects[batch.partition] -= 1
            self._attempts.pop(batch.partition, None)
        return len(batch.events)

    def _score_and_commit(self, batches: Sequence[MicroBatch]) -> int:
        scored = self._score(batches, self._model.snapshot())
        return self._commit(
            [
                Commit(batch, answers.outputs, answers.dead_letters)
                for batch, answers in zip(batches, scored, strict=True)
            ]
        )

    def _commit(self, commits: Sequence[Commit]) -> int:
        """The number of events; of a partition that belongs to another by now none: that one scores them again."""
        all_done = self._loop.patiently(lambda: self._consumer.commit_all(commits))
        now = time.time()
        num_events = 0
        for each, done in zip(commits, all_done, strict=True):
            if done:
                num_events += len(each.batch.events)
                self.stats.count(each.batch, dead_letters=each.dead_letters, now=now)
            else:
                self._lose(each.batch.partition)
        return num_events

    def _lose(self, partition: int) -> None:
        self.stats.num_fenced += 1
        self._suspects.pop(partition, None)
        _log.warning("lost the lease of a partition; nothing of the last batch was written", extra={"p": partition})

    def _score(self, batches: Sequence[MicroBatch], snapshot: Snapshot) -> list[Answers]:
        """One for each micro-batch."""
        answers = {batch.partition: Answers() for batch in batches}
        decoded = self._decode(batches, answers, snapshot)
        if decoded:
            self._predict(decoded, answers, snapshot)
        return list(answers.values())

    def _decode(
        self, batches: Sequence[MicroBatch], answers: Mapping[int, Answers], snapshot: Snapshot
    ) -> list[Decoded]:
        """What can be processed; all else becomes a dead letter."""
        found = [event for batch in batches for event in batch.events]
        partitions = [batch.partition for batch in batches for _ in batch.events]
        rows = events.decode_plain(found, snapshot.decoder)
        if rows is not None:
            return list(map(Decoded, found, partitions, rows))
        decoded: list[Decoded] = []
        for event, partition in zip(found, partitions, strict=True):
            try:
                row, envelope = events.decode(event, snapshot.decoder)
            except InvalidInputError as error:
                letter = self._dead_letter(event, Cause.UNPROCESSABLE, error.message, 1, snapshot)
                answers[partition].dead_letters.append(letter)
                snapshot.refuse(error, entities=[event.key], ids=[events.original_id(event)])
            else:
                decoded.append(Decoded(event, partition, row, envelope))
        return decoded

    def _predict(self, decoded: Sequence[Decoded], answers: Mapping[int, Answers], snapshot: Snapshot) -> None:
        try:
            scored = self._scored(decoded, snapshot)
        except PredictionError:
            # One event's failure must not be its neighbours': each is tried for itself.
            for item in decoded:
                self._predict_one(item, answers[item.partition], snapshot)
        else:
            outputs = iter(self._encode(decoded, scored, snapshot))
            for partition, number in Counter(map(_partition_of, decoded)).items():
                answers[partition].outputs += itertools.islice(outputs, number)

    def _predict_one(self, item: Decoded, answers: Answers, snapshot: Snapshot) -> None:
        for attempt in range(1, self._settings.max_attempts + 1):
            try:
                scored = self._scored([item], snapshot)
            except PredictionError as error:
                if attempt == self._settings.max_attempts:
                    letter = self._dead_letter(item.event, Cause.FAILED, error.message, attempt, snapshot)
                    answers.dead_letters.append(letter)
                else:
                    self._pause(self._settings.backoff_s * 2 ** (attempt - 1))
            else:
                answers.outputs += self._encode([item], scored, snapshot)
                return

    def _scored(self, decoded: Sequence[Decoded], snapshot: Snapshot) -> Scored:
        columns = snapshot.decoder.columns([item.row for item in decoded])
        if snapshot.recorder is None and snapshot.trial is None:
            return snapshot.score(columns)
        found = [item.event for item in decoded]
        return snapshot.score(columns, entities=[event.key for event in found], ids=events.original_ids(found))

    def _encode(self, decoded: Sequence[Decoded], scored: Scored, snapshot: Snapshot) -> list[Output]:
        predictions = self._writer(snapshot).rows(scored.predictions)
        return events.encode(decoded, stamps=scored.row_stamps(), predictions=predictions)

    def _writer(self, snapshot: Snapshot) -> RowWriter:
        bundle = snapshot.stamp.bundle_sha256
        if self._made is None or self._made[0] != bundle:
            self._made = (bundle, RowWriter(snapshot.schema))
        return self._made[1]

    def _dead_letter(
        self, event: Event, cause: Cause, reason: str, attempts: int, snapshot: Snapshot | None = None
    ) -> DeadLetter:
        version = (snapshot or self._model.snapshot()).stamp.version
        return DeadLetter(
            event.offset, event.id, event.key, event.value, event.headers, event.created,
            cause, reason, attempts, version,
        )  # fmt: skip

    def _tell_waiting(self, reason: str | None) -> None:
        self.stats.waiting = reason
