"""Intervals cover what they promise, on one shard and on many."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from zaphod.reporting.interval import Interval
from zaphod.validation.bootstrap import Bag, draw_weights, resample
from zaphod.validation.metrics import Evaluate, evaluator, point
from zaphod.validation.ranks import auc
from zaphod.validation.rows import Answers, Kind, Shape

SHAPE = Shape(kind=Kind.BINARY, has_scores=True, num_outputs=2)
RATE = 0.35
# Scores of positives are N(1, 1), of negatives N(0, 1): the AUC is known (Hanley and McNeil 1982).
TRUE_AUC = float(scipy.stats.norm.cdf(1 / np.sqrt(2)))


def evaluate_rows(rng: np.random.Generator, num_rows: int) -> tuple[Evaluate, np.ndarray, np.ndarray]:
    """Rows of the binormal model: the metrics' evaluator, the truth and the scores as numbers in 0..1."""
    truth = (rng.random(num_rows) < RATE).astype(float)
    scores = scipy.stats.norm.cdf(rng.normal(truth, 1))
    return evaluator(SHAPE, truth[:, None], Answers(labels=(scores > 0.8).astype(float), scores=scores)), truth, scores


def true_accuracy() -> float:
    """Of calling positive what scores over 0.8."""
    cut = scipy.stats.norm.ppf(0.8)
    return float(RATE * scipy.stats.norm.sf(cut - 1) + (1 - RATE) * scipy.stats.norm.cdf(cut))


def intervals(rng: np.random.Generator, num_rows: int, *, num_shards: int, replicates: int) -> list[Interval]:
    """Of the six metrics, from a fresh table in so many shards."""
    bag = Bag(confidence=0.95)
    for _ in range(num_shards):
        shard_rows = num_rows // num_shards
        evaluate, _, _ = evaluate_rows(rng, shard_rows)
        drawn = resample(evaluate, num_rows=shard_rows, num_draws=num_rows, replicates=replicates, rng=rng)
        bag.add(point(evaluate, shard_rows), num_rows=shard_rows, replicates=drawn)
    return bag.intervals()


def coverage(*, experiments: int, num_rows: int, num_shards: int, replicates: int) -> tuple[float, float]:
    """How often the 95 % intervals of AUC and of accuracy hold the truth."""
    rng = np.random.default_rng(17)
    hits = np.zeros(2)
    for _ in range(experiments):
        found = intervals(rng, num_rows, num_shards=num_shards, replicates=replicates)
        for i, (position, true) in enumerate(((0, TRUE_AUC), (4, true_accuracy()))):
            hits[i] += found[position].low <= true <= found[position].high
    return tuple(hits / experiments)


def test_the_interval_covers() -> None:
    """95 % of intervals hold the truth, to within what 400 experiments can tell."""
    error = 3 * np.sqrt(0.95 * 0.05 / 400)

    assert coverage(experiments=400, num_rows=300, num_shards=1, replicates=200) == pytest.approx(
        (0.95,) * 2, abs=error
    )


@pytest.mark.slow
@pytest.mark.parametrize("num_shards", [1, 5])
def test_the_interval_covers_in_a_thousand_experiments(num_shards: int) -> None:
    """Between 93 and 97 % of them, for one shard and for a bag of several."""
    for share in coverage(experiments=1000, num_rows=1000, num_shards=num_shards, replicates=1000 // num_shards):
        assert 0.93 <= share <= 0.97


def test_a_bag_of_shards_is_as_wide_as_one_shard() -> None:
    """4,000 rows in eight shards give the standard error of 4,000 rows, not of 500."""
    rng = np.random.default_rng(3)

    errors = [
        np.mean([intervals(rng, 4000, num_shards=n, replicates=120)[0].standard_error for _ in range(4)])
        for n in (1, 8)
    ]

    assert errors[1] == pytest.approx(errors[0], rel=0.1)


def test_the_error_of_auc_is_delongs() -> None:
    """Two independent ways to the same standard error."""
    rng = np.random.default_rng(4)
    evaluate, truth, scores = evaluate_rows(rng, 2000)

    drawn = resample(evaluate, num_rows=2000, num_draws=2000, replicates=600, rng=rng)

    assert drawn[:, 0].std() == pytest.approx(auc(truth == 1, scores).variance ** 0.5, rel=0.1)


def test_one_shard_gives_the_percentiles_of_its_replicates() -> None:
    """The ordinary percentile bootstrap, where a table fits into one shard."""
    rng = np.random.default_rng(5)
    drawn = rng.normal(2.0, 1.0, (999, 1))
    bag = Bag(confidence=0.9)
    bag.add(np.array([2.5]), num_rows=10, replicates=drawn)

    (found,) = bag.intervals()

    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, (0.05, 0.95))))
    assert found.value == 2.5


@pytest.mark.parametrize("num_draws", [50, 5000])
def test_weights_are_draws_with_replacement(num_draws: int) -> None:
    """Each replicate draws as many rows as it should, each row as often as another."""
    weights = draw_weights(np.random.default_rng(0), num_rows=50, num_draws=num_draws, replicates=2000)

    assert (weights.sum(axis=1) == num_draws).all()
    assert weights.mean() == num_draws / 50
    assert weights.var(axis=0).mean() == pytest.approx(num_draws / 50 * (1 - 1 / 50), rel=0.05)


def test_an_unknown_statistic_stays_unknown() -> None:
    """A metric that no shard can compute has no interval, and one that some can is taken from those."""
    bag = Bag(confidence=0.95)
    bag.add(np.array([np.nan, np.nan]), num_rows=10, replicates=np.full((100, 2), np.nan))
    bag.add(np.array([np.nan, 1.0]), num_rows=10, replicates=np.full((100, 2), [np.nan, 1.0]))

    never, sometimes = bag.intervals()

    assert (never.value, never.low, never.high) == (None, None, None)
    assert (sometimes.value, sometimes.low) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(value=0.83031, low=0.82368, high=0.83663), "0.8303 (0.8237 to 0.8366)"),
        (Interval(value=1234.5, low=1200.0, high=1260.0), "1,234 (1,200 to 1,260)"),
        (Interval(value=None, low=None, high=None), "unknown"),
        (Interval(value=0.5, low=0.5, high=0.5), "0.5"),
    ],
)
def test_an_interval_is_written_with_the_digits_it_supports(interval: Interval, text: str) -> None:
    """Two digits of the half width."""
    assert interval.text() == text
