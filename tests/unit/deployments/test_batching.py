"""The batcher: what waits is scored in one call, and everyone gets their own rows."""

from __future__ import annotations

import asyncio
import threading
import types
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from deployments.app import Ingress
from deployments.batching import Batcher, join, part
from deployments.protocols.base import Question
from zaphod.columns import Columns
from zaphod.errors import LogFullError, PredictionError, PredictionTimeoutError
from zaphod.predictor import Predictions
from zaphod.served import Scored, Stamp

STAMPS = tuple(Stamp("m", version, "champion", "") for version in range(3))


@dataclass
class Slow:
    """Stands in for a snapshot: gives the numbers back, once it is let go."""

    go: threading.Event = field(default_factory=threading.Event)
    sizes: list[int] = field(default_factory=list)
    ids: list[str | Sequence[str] | None] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    recorder: object = None
    trial: object = None

    def score(
        self, columns: Columns, *, entities: Sequence[str | None] | None = None, ids: str | Sequence[str] | None = None
    ) -> Scored:
        self.loop.call_soon_threadsafe(self.asked.set)
        assert self.go.wait(10)
        self.sizes.append(columns.num_rows)
        if (columns.numbers < 0).any():
            raise PredictionError("Cannot predict: negative.")
        self.ids.append(ids)
        return Scored(Predictions(values=columns.numbers), STAMPS[:1], ids=ids)


def question(*numbers: float) -> Question:
    """One row a number."""
    return Question(Columns(numbers=np.array(numbers, dtype=float).reshape(-1, 1), strings=()))


async def ask(batcher: Batcher, model: Slow, questions: list[Question]) -> list[asyncio.Task[Scored]]:
    """Everyone waits before the model is let go; the first is scored alone."""
    tasks = [asyncio.create_task(batcher.score(model, each)) for each in questions]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return tasks


def test_what_waits_is_scored_together() -> None:
    """Questions that wait while another is scored share the next call, up to its size, and each gets its own rows."""

    async def main() -> None:
        model, batcher = Slow(), Batcher(max_rows=5)
        tasks = await ask(batcher, model, [question(0.0)])
        await model.asked.wait()
        tasks += await ask(batcher, model, [question(1.0, 2.0), question(3.0), question(4.0, 5.0, 6.0), question(7.0)])
        model.go.set()
        answers = await asyncio.gather(*tasks)
        got = [np.ravel(answer.predictions.values).tolist() for answer in answers]  # type: ignore[arg-type]
        assert got == [[0.0], [1.0, 2.0], [3.0], [4.0, 5.0, 6.0], [7.0]]
        assert model.sizes == [1, 3, 4]

    asyncio.run(main())


def test_fault_of_one_is_not_the_others() -> None:
    """When a call fails, each question is asked alone: only the one at fault gets the error."""

    async def main() -> None:
        model, batcher = Slow(), Batcher(max_rows=100)
        tasks = await ask(batcher, model, [question(0.0)])
        await model.asked.wait()
        tasks += await ask(batcher, model, [question(1.0), question(-1.0), question(2.0)])
        model.go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(answer, PredictionError) for answer in answers] == [False, False, True, False]

    asyncio.run(main())


def test_what_could_not_be_logged_is_not_scored_again() -> None:
    """Each alone would be scored for nothing, as all were: they are to come again."""

    class Unlogged(Slow):
        def score(self, columns: Columns, **others: object) -> Scored:
            super().score(columns)
            raise LogFullError("Cannot answer: the log has no room.")

    async def main() -> None:
        model, batcher = Unlogged(), Batcher(max_rows=100)
        tasks = await ask(batcher, model, [question(0.0)])
        await model.asked.wait()
        tasks += await ask(batcher, model, [question(1.0), question(2.0)])
        model.go.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(answer) for answer in answers] == [LogFullError] * 3
        assert model.sizes == [1, 2]

    asyncio.run(main())


def test_answers_that_cannot_be_told_apart_fail_their_callers() -> None:
    """With the error that it was; whoever asks afterwards is answered."""

    class Muddled(Slow):
        def score(self, columns: Columns, **others: object) -> Scored:
            scored = super().score(columns)
            return Scored(scored.predictions, scored.stamps, [9] * columns.num_rows) if len(self.sizes) == 2 else scored

    async def main() -> None:
        model, batcher = Muddled(), Batcher(max_rows=100)
        tasks = await ask(batcher, model, [question(0.0)])
        await model.asked.wait()
        tasks += await ask(batcher, model, [question(1.0), question(2.0)])
        model.go.set()
        answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), timeout=10)
        assert [isinstance(answer, IndexError) for answer in answers] == [False, True, True]
        (last,) = await asyncio.wait_for(asyncio.gather(*await ask(batcher, model, [question(3.0)])), timeout=10)
        assert np.ravel(last.predictions.values).tolist() == [3.0]  # type: ignore[arg-type]

    asyncio.run(main())


def test_everyone_keeps_their_own_prediction_id() -> None:
    """Where predictions are recorded, rows of one call are recorded under their own requests' ids."""

    async def main() -> None:
        model, batcher = Slow(recorder=object()), Batcher(max_rows=100)
        tasks = await ask(batcher, model, [question(0.0)])
        await model.asked.wait()
        named = Question(question(1.0, 2.0).columns, id="mine")
        tasks += await ask(batcher, model, [named, question(3.0)])
        model.go.set()
        answers = await asyncio.gather(*tasks)
        assert answers[1].ids == "mine"
        assert isinstance(answers[2].ids, str)
        assert model.ids[1] == ["mine-0", "mine-1", answers[2].ids]

    asyncio.run(main())


def test_who_has_given_up_is_not_scored() -> None:
    """A caller that is gone before its turn costs nothing, and the others still get their answers."""

    async def main() -> None:
        model, batcher = Slow(), Batcher(max_rows=100)
        tasks = await ask(batcher, model, [question(0.0)])
        await model.asked.wait()
        tasks += await ask(batcher, model, [question(1.0, 2.0), question(3.0)])
        tasks[1].cancel()
        await asyncio.sleep(0)
        model.go.set()
        await tasks[2]
        assert model.sizes == [1, 1]

    asyncio.run(main())


def test_lone_question_does_not_wait_for_company() -> None:
    """An idle batcher scores what it gets at once."""

    async def main() -> Scored:
        model, batcher = Slow(), Batcher(max_rows=100)
        model.go.set()
        return await asyncio.wait_for(batcher.score(model, question(1.0)), timeout=60)  # type: ignore[arg-type]

    assert asyncio.run(main()).predictions.values == pytest.approx(1.0)


def test_a_call_that_never_returns_is_noticed() -> None:
    """One that takes long is nothing yet; an idle batcher, and one whose call ended after all, is fine."""

    async def main() -> None:
        model, batcher = Slow(), Batcher(max_rows=100)
        batcher.check(max_call_s=0.0)
        tasks = await ask(batcher, model, [question(0.0), question(1.0)])
        await model.asked.wait()
        replica = types.SimpleNamespace(_batcher=batcher, _max_call_s=100.0, _models={})
        Ingress.func_or_class.check_health(replica)
        replica._max_call_s = 0.0
        with pytest.raises(PredictionTimeoutError, match="all others wait"):
            Ingress.func_or_class.check_health(replica)
        model.go.set()
        await asyncio.gather(*tasks)
        Ingress.func_or_class.check_health(replica)

    asyncio.run(main())


def test_parts_keep_the_stamps_of_their_rows() -> None:
    """Rows that several variants answered are handed out with the variant that answered each."""
    scored = Scored(Predictions(labels=np.arange(5)), STAMPS, [0, 0, 2, 1, 2])

    first, second = part(scored, 0, 2), part(scored, 2, 5)

    assert first.stamps == STAMPS[:1]
    assert first.stamp_index is None
    assert [second.stamp_of(row).version for row in range(3)] == [2, 1, 2]


def test_lists_and_arrow_arrays_are_joined() -> None:
    """Questions of different protocols hold their strings differently."""
    numbers = np.zeros((1, 1))
    joined = join([Columns(numbers, (["a"],)), Columns(numbers, (pa.array([None], pa.string()),))])

    assert joined.strings[0].to_pylist() == ["a", None]  # type: ignore[union-attr]
