"""One worker thread that scores what waits, in one call: a heavy model costs nearly as much for one row as for many.

It takes what is there and never waits for more, so that a lone request pays nothing for the chance of company.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from deployments.protocols.base import Question
from zaphod.columns import Columns
from zaphod.errors import LogFullError, PredictionTimeoutError, ZaphodError
from zaphod.monitoring.record import new_id
from zaphod.predictor import Predictions
from zaphod.recorder import row_ids
from zaphod.served import Scored, Snapshot


@dataclass(frozen=True, slots=True)
class Waiting:
    """A question whose caller waits."""

    snapshot: Snapshot
    question: Question
    answer: asyncio.Future[Scored]

    @property
    def num_rows(self) -> int:
        return self.question.columns.num_rows


class Batcher:
    """Scores in the order of arrival; questions to the same snapshot that wait together share a call.

    max_rows: of one call; a larger question is scored by itself.
    """

    def __init__(self, *, max_rows: int) -> None:
        self._max_rows = max_rows
        self._queue: deque[Waiting] = deque()
        self._filled = threading.Condition()
        self._thread: threading.Thread | None = None
        # When the call that is being made began; by the monotonic clock.
        self._began_s: float | None = None

    def check(self, *, max_call_s: float) -> None:
        """Raises: PredictionTimeoutError when a call takes so long that it may never end: all that comes waits for it.

        May be called from any thread.
        """
        began_s = self._began_s
        if began_s is not None and time.monotonic() - began_s > max_call_s:
            raise PredictionTimeoutError(
                f"Cannot predict: one call has taken more than {max_call_s:g} s so far, and all others wait for it. "
                "Start another replica."
            )

    async def score(self, snapshot: Snapshot, question: Question) -> Scored:
        """Raises: PredictionError. When the caller gives up before its turn, nothing is scored."""
        waiting = Waiting(snapshot, question, asyncio.get_running_loop().create_future())
        with self._filled:
            if self._thread is None:
                self._thread = threading.Thread(target=self._forever, name="score-batches", daemon=True)
                self._thread.start()
            self._queue.append(waiting)
            self._filled.notify()
        return await waiting.answer

    def _forever(self) -> None:
        while True:
            with self._filled:
                self._filled.wait_for(lambda: self._queue)
                batch = self._take()
            if batch:
                self._began_s = time.monotonic()
                try:
                    answers = score_together(batch)
                except Exception as error:  # noqa: BLE001  # a thread that ends would leave every caller waiting
                    answers = [error] * len(batch)
                self._began_s = None
                batch[0].answer.get_loop().call_soon_threadsafe(_deliver, batch, answers)

    def _take(self) -> list[Waiting]:
        batch: list[Waiting] = []
        num_rows = 0
        while self._queue:
            first = self._queue[0]
            full = num_rows + first.num_rows > self._max_rows or (batch and first.snapshot is not batch[0].snapshot)
            if batch and full:
                break
            self._queue.popleft()
            if not first.answer.cancelled():
                batch.append(first)
                num_rows += first.num_rows
        return batch


def score_together(batch: Sequence[Waiting]) -> list[Scored | Exception]:
    """An answer for each. When the call fails each is scored alone: one question's fault is not another's."""
    snapshot = batch[0].snapshot
    questions = [waiting.question for waiting in batch]
    names = [question.id for question in questions]
    ids: str | list[str] | None = names[0]
    if len(batch) > 1:
        ids = None
        if snapshot.recorder is not None or snapshot.trial is not None:
            names = [name or new_id() for name in names]
            ids = [row for name, each in zip(names, batch, strict=True) for row in row_ids(name or "", each.num_rows)]
    try:
        scored = snapshot.score(join([each.columns for each in questions]), entities=_join_entities(questions), ids=ids)
    except Exception as error:  # noqa: BLE001  # theirs whose questions were asked, and nobody else's
        if len(batch) == 1 or not isinstance(error, ZaphodError) or isinstance(error, LogFullError):
            return [error] * len(batch)
        return [answer for waiting in batch for answer in score_together([waiting])]
    if len(batch) == 1:
        return [scored]
    ends = itertools.accumulate(waiting.num_rows for waiting in batch)
    return [
        part(scored, end - waiting.num_rows, end, ids=name)
        for waiting, end, name in zip(batch, ends, names, strict=True)
    ]


def join(columns: Sequence[Columns]) -> Columns:
    """The rows of all, in order."""
    if len(columns) == 1:
        return columns[0]
    return Columns(
        numbers=np.concatenate([each.numbers for each in columns]),
        strings=tuple(_join_strings(parts) for parts in zip(*(each.strings for each in columns), strict=True)),
    )


def part(scored: Scored, start: int, end: int, *, ids: str | None = None) -> Scored:
    """The rows from `start` up to `end`, with the stamps that they have, under their own id."""
    parts = msgspec.structs.astuple(scored.predictions)
    predictions = Predictions(*(None if values is None else values[start:end] for values in parts))
    if scored.stamp_index is None:
        return Scored(predictions, scored.stamps, ids=ids)
    index = scored.stamp_index[start:end]
    used = sorted(set(index))
    stamps = tuple(scored.stamps[position] for position in used)
    if len(used) == 1:
        return Scored(predictions, stamps, ids=ids)
    return Scored(predictions, stamps, [used.index(position) for position in index], ids=ids)


def _join_strings(parts: Sequence[list[str | None] | pa.Array]) -> list[str | None] | pa.Array:
    if all(isinstance(part, list) for part in parts):
        return list(itertools.chain.from_iterable(parts))
    return pa.concat_arrays([pa.array(part, type=pa.string()) if isinstance(part, list) else part for part in parts])


def _join_entities(questions: Sequence[Question]) -> list[str | None] | None:
    if all(question.entities is None for question in questions):
        return None
    return [
        entity
        for question in questions
        for entity in (question.entities if question.entities is not None else [None] * question.columns.num_rows)
    ]


def _deliver(batch: Sequence[Waiting], answers: Sequence[Scored | Exception]) -> None:
    for waiting, answer in zip(batch, answers, strict=True):
        if waiting.answer.done():
            continue
        if isinstance(answer, Exception):
            waiting.answer.set_exception(answer)
        else:
            waiting.answer.set_result(answer)
