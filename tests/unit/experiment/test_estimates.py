"""Effects and standard errors against published figures, against scipy and against a plain computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from zaphod.experiment.estimates import of_arms, of_pairs
from zaphod.experiment.moments import Moments, look_positions
from zaphod.experiment.samples import Sums
from zaphod.experiment.sequences import Sequence


def arms(champion: np.ndarray, challenger: np.ndarray) -> tuple[Sums, np.ndarray]:
    """Two groups of entities with these values."""
    total = np.concatenate([champion, challenger]).astype(float)
    which = np.arange(len(total)) >= len(champion)
    return Sums(total=total, count=np.ones(len(total))), which


def spread_to(n: int, *, total: float, squares: float) -> np.ndarray:
    """So many numbers with this sum and sum of squares."""
    half = np.where(np.arange(n) % 2 == 0, 1.0, -1.0)
    half -= half.mean()
    variance = (squares - total**2 / n) / float(half @ half)
    return total / n + half * math.sqrt(variance)


def test_a_mean_gives_published_lift_and_interval() -> None:
    """GrowthBook's own sequential test of a mean: lift 0.50336, from -0.55844 to 1.56516."""
    sums, which = arms(
        spread_to(3000, total=1396.87, squares=52377.9767), spread_to(3461, total=2422.7, squares=134698.29)
    )
    one = of_arms("mean", sums, which, np.array([6461]), fewest=100)
    half = Sequence(alpha=0.05, planned=1_000).half_width(one.relative_se, one.n)
    assert one.relative[0] == pytest.approx(0.50336, abs=6e-6)
    assert one.relative_se[0] == pytest.approx(0.33341, abs=6e-6)
    assert one.relative[0] - half[0] == pytest.approx(-0.55844, abs=6e-6)
    assert one.relative[0] + half[0] == pytest.approx(1.56516, abs=6e-6)


def test_a_proportion_gives_published_lift_and_interval() -> None:
    """GrowthBook's own sequential test of a proportion: lift 0.50386, from 0.40098 to 0.60675."""
    sums, which = arms(np.arange(3000) < 1396, np.arange(3461) < 2422)
    one = of_arms("proportion", sums, which, np.array([6461]), fewest=100)
    half = Sequence(alpha=0.05, planned=5_000).half_width(one.relative_se, one.n)
    assert one.relative[0] == pytest.approx(0.50386, abs=6e-6)
    assert one.relative_se[0] == pytest.approx(0.03386, abs=6e-6)
    assert one.relative[0] - half[0] == pytest.approx(0.40098, abs=6e-6)
    assert one.relative[0] + half[0] == pytest.approx(0.60675, abs=6e-6)


def test_the_standard_error_of_a_mean_is_welchs() -> None:
    """Effect over standard error is the statistic of scipy's t-test without equal variances."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(2, 1, 400), rng.normal(2.1, 3, 420)
    one = of_arms("mean", *arms(first, second), np.array([820]), fewest=100)
    assert one.effect[0] / one.se[0] == pytest.approx(stats.ttest_ind(second, first, equal_var=False).statistic)


def test_the_standard_error_of_a_ratio_is_that_of_repeated_draws() -> None:
    """The delta method agrees with the spread of the ratio over 1,500 fresh samples."""
    rng = np.random.default_rng(2)

    def sample() -> tuple[Sums, np.ndarray]:
        count = 1.0 + rng.poisson(4, 800)
        total = rng.binomial(count.astype(int), rng.beta(0.8, 3.2, 800)).astype(float)
        return Sums(total=total, count=count), np.arange(800) % 2 == 1

    effects, errors = [], []
    for _ in range(1_500):
        one = of_arms("ratio", *sample(), np.array([800]), fewest=100)
        effects.append(one.effect[0])
        errors.append(one.se[0])
    assert np.std(effects) == pytest.approx(float(np.mean(errors)), rel=0.06)


def test_a_covariate_narrows_by_what_it_explains() -> None:
    """With a correlation of 0.8 the variance falls to 1 - 0.8², and the effect stays what it is."""
    rng = np.random.default_rng(3)
    before = rng.standard_normal(20_000)
    which = rng.random(20_000) < 0.5
    total = 10 + 0.8 * before + 0.6 * rng.standard_normal(20_000) + 0.1 * which
    known = np.where(rng.random(20_000) < 0.001, np.nan, before)
    plain = of_arms("mean", Sums(total, np.ones(20_000)), which, np.array([20_000]), fewest=100)
    one = of_arms("mean", Sums(total, np.ones(20_000), known), which, np.array([20_000]), fewest=100)
    assert one.kept[0] == pytest.approx(0.36, abs=0.02)
    assert one.se[0] == pytest.approx(plain.se[0] * math.sqrt(one.kept[0]))
    assert one.effect[0] == pytest.approx(0.1, abs=3 * one.se[0])


def test_pairs_are_the_paired_t_test() -> None:
    """Effect over standard error is the statistic of scipy's paired t-test."""
    rng = np.random.default_rng(4)
    first = rng.normal(5, 3, 500)
    second = first + rng.normal(0.1, 0.5, 500)
    ones = np.ones(500)
    one = of_pairs("mean", Sums(first, ones), Sums(second, ones), np.array([500]), fewest=100)
    assert one.effect[0] / one.se[0] == pytest.approx(stats.ttest_rel(second, first).statistic)


def test_pairs_of_right_and_wrong_are_mcnemars() -> None:
    """With shares of right answers the squared statistic is McNemar's, at n for its discordant pairs."""
    only_first, only_second, n = 30, 55, 1_000
    first = np.arange(n) < 800
    second = first.copy()
    second[:only_first] = False
    second[800 : 800 + only_second] = True
    ones = np.ones(n)
    one = of_pairs("proportion", Sums(first * 1.0, ones), Sums(second * 1.0, ones), np.array([n]), fewest=100)
    mcnemar = (only_second - only_first) ** 2 / (only_first + only_second)
    z2 = (one.effect[0] / one.se[0]) ** 2
    assert z2 / (1 + z2 / n) == pytest.approx(mcnemar, rel=1e-9)


def test_pairs_that_hardly_differ_are_not_judged() -> None:
    """Nine entities that differ out of ten thousand say nothing that a normal law describes."""
    first = np.zeros(10_000)
    second = np.where(np.arange(10_000) < 9, 1.0, 0.0)
    ones = np.ones(10_000)
    one = of_pairs("mean", Sums(first, ones), Sums(second, ones), np.array([10_000]), fewest=100)
    assert not one.usable[0]


def test_few_successes_or_few_entities_are_not_judged() -> None:
    """Fewer than 100 entities of a variant, or than five successes or failures, are not usable."""
    for champion, challenger, usable in ((99, 500, False), (500, 99, False), (100, 100, True)):
        sums, which = arms(np.arange(champion) % 2, np.arange(challenger) % 2)
        assert of_arms("proportion", sums, which, np.array([len(which)]), fewest=100).usable[0] is np.bool_(usable)
    sums, which = arms(np.arange(500) < 4, np.arange(500) < 50)
    assert not of_arms("proportion", sums, which, np.array([1000]), fewest=100).usable[0]


def test_a_small_arm_is_not_believed_to_be_calm() -> None:
    """Sales with no large one yet among few entities have at least the spread of the many beside them."""
    rng = np.random.default_rng(5)
    many, few = np.exp(1.5 * rng.standard_normal(9_500)), np.ones(500) + rng.random(500) / 100
    one = of_arms("mean", *arms(many, few), np.array([10_000]), fewest=100)
    assert one.se[0] > 0.9 * math.sqrt(many.var(ddof=1) / 500)


def test_a_covariate_that_explains_nothing_changes_nothing_of_a_small_arm() -> None:
    """Its standard error, absolute and relative, is that without a covariate."""
    rng = np.random.default_rng(6)
    sums, which = arms(np.exp(1.5 * rng.standard_normal(9_500)), np.ones(500) + rng.random(500) / 100)
    unrelated = Sums(sums.total, sums.count, rng.standard_normal(10_000))
    plain, one = (of_arms("mean", each, which, np.array([10_000]), fewest=100) for each in (sums, unrelated))
    assert one.se[0] == pytest.approx(plain.se[0], rel=0.01)
    assert one.relative_se[0] == pytest.approx(plain.relative_se[0], rel=0.01)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.sampled_from([0.0, 1e6]))
def test_moments_of_prefixes_are_numpys(seed: int, n: int, offset: float) -> None:
    """Every prefix has the mean and covariance that numpy gives it, however far from 0 the values are."""
    values = np.random.default_rng(seed).normal(offset, 1.0, (2, n))
    counts = np.arange(2, n + 1)
    moments = Moments.of(values, counts)
    for i, count in enumerate(counts):
        assert moments.mean[i] == pytest.approx(values[:, :count].mean(axis=1), rel=1e-12)
        assert moments.covariance[i] == pytest.approx(np.cov(values[:, :count]), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("huge", [1e20, 1e140])
def test_a_huge_value_leaves_what_was_seen_before_it(huge: float) -> None:
    """Moments without it are the same; those with it are finite."""
    values = np.random.default_rng(7).normal(0.0, 1.0, (2, 100))
    values[0, 60] = huge
    counts = np.arange(2, 101)
    moments, before = Moments.of(values, counts), Moments.of(values[:, :60], np.arange(2, 61))
    assert moments.mean[:59] == pytest.approx(before.mean)
    assert moments.covariance[:59] == pytest.approx(before.covariance)
    assert np.isfinite(moments.covariance).all()
    assert moments.mean[-1, 0] == pytest.approx(huge / 100)


@settings(deadline=None)
@given(st.integers(1, 50_000), st.integers(1, 50_000))
def test_looks_of_less_data_are_looks_of_more(few: int, more: int) -> None:
    """But for the newest, a look that was taken once is taken again, so that what it found stays found."""
    few, more = sorted((few, more))
    assert set(look_positions(few)[:-1].tolist()) <= set(look_positions(more).tolist())
    assert look_positions(more)[-1] == more
