"""Where a question is scored: on the event loop when that takes microseconds, on a worker thread otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from deployments.batching import Batcher
from deployments.protocols.base import Question
from zaphod.errors import PredictionTimeoutError
from zaphod.served import Scored, Snapshot

# One row of a compiled model takes microseconds and stays on the event loop; what takes longer would block it.
_MAX_INLINE_CELLS = 20_000


async def within(scored: Awaitable[Scored], *, timeout_s: float) -> Scored:
    """What a worker thread has begun goes on; only the wait for it ends. Raises: PredictionTimeoutError."""
    try:
        async with asyncio.timeout(timeout_s):
            return await scored
    except TimeoutError as error:
        raise PredictionTimeoutError(
            f"Cannot answer: the model took longer than {timeout_s:g} s (predict_timeout_s). Send fewer rows."
        ) from error


class Scoring:
    """What every protocol's questions go through, over HTTP and gRPC alike."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def score_now(self, snapshot: Snapshot, question: Question) -> Scored | None:
        """On this very thread; None when that would hold up an event loop. Raises: PredictionError."""
        columns = question.columns
        if snapshot.inline and columns.num_rows * len(snapshot.schema.fields) <= _MAX_INLINE_CELLS:
            return snapshot.score(columns, entities=question.entities, ids=question.id)
        return None

    async def score(self, snapshot: Snapshot, question: Question) -> Scored:
        """Raises: PredictionError."""
        scored = self.score_now(snapshot, question)
        return await self._batcher.score(snapshot, question) if scored is None else scored
