"""The rows on which a challenger fails are told apart from their neighbours, in calls of any size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.experiment.test_shadow import CHALLENGER, CHAMPION
from zaphod.columns import Columns
from zaphod.contender import Contender
from zaphod.errors import PredictionError
from zaphod.experiment.assignment import Splitter
from zaphod.experiment.plan import MetricPlan, Plan
from zaphod.experiment.spec import Experiment, Mode, Phase, write_plan
from zaphod.predictor import Predictions
from zaphod.trial import Part, Split, Trial, merge

EXPERIMENT = Experiment(
    id="e", model="m", mode=Mode.AB, champion=1, challenger=2, salt="s",
    phases=(Phase(number=1, share=0.5, started_s=0),),
    plan=write_plan(Plan(metrics=(MetricPlan(name="x"),))),
)  # fmt: skip


class Picky:
    """Answers a row's number with a sign; fails on calls with a bad row, or with more rows than it can take."""

    engine = "sklearn"

    def __init__(self, sign: float, *, bad: range | tuple[int, ...] = (), most: int = 1_000_000) -> None:
        self._sign = sign
        self._bad = bad
        self._most = most
        self.calls = 0

    def predict(self, columns: Columns) -> Predictions:
        self.calls += 1
        if columns.num_rows > self._most or np.isin(columns.numbers[:, 0], self._bad).any():
            raise PredictionError("Cannot predict: it is picky.")
        return Predictions(values=columns.numbers * self._sign)


def answers(challenger: Picky, num_rows: int) -> tuple[list[int], np.ndarray, list[Part]]:
    """Rows that the challenger is said to fail on, each row's answer, and the parts; even rows are the challenger's."""
    trial = Trial(
        experiment=EXPERIMENT,
        champion=Contender(Picky(1.0), CHAMPION),
        challenger=Contender(challenger, CHALLENGER),
        fallback=replace(CHAMPION, fallback=True),
        splitter=Splitter("s"),
        threshold=5_000,
    )
    numbers = np.arange(num_rows, dtype=np.float64)
    parts = trial.ask(Columns(numbers[:, None], ()), Split(np.zeros(num_rows, np.int64), numbers % 2 == 0))
    failed = [row for part in parts if part.error is not None and part.rows is not None for row in part.rows.tolist()]
    given = merge(parts, num_rows).values
    assert given is not None
    return failed, given[:, 0], parts


@pytest.mark.parametrize("num_rows", [20, 1_500, 3_000, 32_768])
def test_the_same_rows_fail_whatever_the_size_of_the_call(num_rows: int) -> None:
    """And every other row of the challenger's has the challenger's answer."""
    failed, given, parts = answers(Picky(-1.0, bad=(6, 8, 18)), num_rows)

    assert failed == [6, 8, 18]
    wanted = np.where(np.arange(num_rows) % 2 == 0, -1.0, 1.0) * np.arange(num_rows)
    wanted[[6, 8, 18]] *= -1
    assert np.array_equal(given, wanted)
    assert [(part.origin.variant, part.origin.fallback, part.error is None) for part in parts] == [
        ("champion", False, True), ("challenger", False, True), ("challenger", False, False), ("champion", True, True),
    ]  # fmt: skip
    assert all(part.latency_s > 0 for part in parts)


def test_a_bad_row_is_found_in_few_calls() -> None:
    """As many as halving takes, also among very many."""
    challenger = Picky(-1.0, bad=(31_000,))

    failed, _, _ = answers(challenger, 65_536)

    assert failed == [31_000]
    assert challenger.calls <= 2 + 2 * 15 + 2


def test_bad_rows_all_over_a_large_call_are_found() -> None:
    """One in a hundred, ten times what a guardrail may allow."""
    failed, _, _ = answers(Picky(-1.0, bad=range(0, 65_536, 200)), 65_536)

    assert failed == list(range(0, 65_536, 200))


@pytest.mark.parametrize("num_rows", [100, 2_000, 65_536])
def test_a_challenger_that_fails_on_all_costs_little(num_rows: int) -> None:
    """Some rows are tried alone, and then it is given up on; the champion answers."""
    challenger = Picky(-1.0, bad=range(num_rows))

    failed, given, _ = answers(challenger, num_rows)

    assert failed == list(range(0, num_rows, 2))
    assert np.array_equal(given, np.arange(num_rows))
    assert challenger.calls <= 75


def test_a_challenger_that_fails_on_many_costs_a_bounded_number_of_calls() -> None:
    """Rows that fail together count as failing then, and each still has an answer."""
    challenger = Picky(-1.0, bad=range(0, 65_536, 10))

    failed, given, _ = answers(challenger, 65_536)

    assert set(failed) >= set(range(0, 65_536, 10))
    assert np.array_equal(np.abs(given), np.arange(65_536))
    assert challenger.calls <= 65_536 / 2 / 4 + 70


def test_a_call_that_is_too_large_is_made_in_parts() -> None:
    """No row fails alone, so none has failed."""
    failed, given, parts = answers(Picky(-1.0, most=1_000), 6_000)

    assert failed == []
    assert np.array_equal(given[::2], -np.arange(0, 6_000, 2))
    assert len(parts) == 2
