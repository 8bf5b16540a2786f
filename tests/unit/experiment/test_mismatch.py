"""The check of the split against published figures, and under repeated looks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from tests.experiments import phase
from zaphod.experiment.analysis import check_split
from zaphod.experiment.mismatch import chi_squared_p, sequential_p
from zaphod.experiment.plan import MismatchPlan
from zaphod.experiment.results import MismatchState
from zaphod.experiment.samples import Exposed


@pytest.mark.parametrize(
    ("counts", "p_value"),
    [((44_000, 45_000), 8.02e-4), ((600, 400), 2.54e-10), ((821_588, 815_482), 1.82e-6)],
)
def test_chi_squared_gives_published_values(counts: tuple[int, int], p_value: float) -> None:
    """Three mismatches of the literature."""
    assert chi_squared_p(counts, (0.5, 0.5)) == pytest.approx(p_value, rel=2e-3)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_chi_squared_equals_scipy(share: float) -> None:
    """For uneven shares as well."""
    counts = (9_000, 1_000)
    expected = stats.chisquare(counts, [10_000 * (1 - share), 10_000 * share]).pvalue
    assert chi_squared_p(counts, (1 - share, share)) == pytest.approx(expected, rel=1e-9)


def test_the_e_value_is_the_bayes_factor_of_a_beta_mixture() -> None:
    """Against scipy's beta-binomial over the binomial."""
    n, hits, share = 1_000, 590, 0.5
    factor = stats.betabinom.pmf(hits, n, 20 * share, 20 * (1 - share)) / stats.binom.pmf(hits, n, share)
    assert sequential_p((n - hits, hits), (1 - share, share)) == pytest.approx(1 / factor, rel=1e-9)


def test_a_variant_without_a_share_may_have_nobody() -> None:
    """It takes no degree of freedom, and one entity in it is a mismatch."""
    for check in (chi_squared_p, sequential_p):
        assert check((1_000, 0), (1.0, 0.0)) == 1.0
        assert check((1_000, 1), (1.0, 0.0)) == 0.0
        assert check((0, 0), (0.5, 0.5)) == 1.0


def test_a_sound_split_is_stopped_no_more_often_than_stated() -> None:
    """Looked at 100 times, the chi-squared test is wrong far more often than its 1 %; the e-value is not."""
    rng = np.random.default_rng(0)
    chi = sequential = 0
    for _ in range(400):
        hits = np.cumsum(rng.binomial(100, 0.5, 100)).tolist()
        counts = [(100 * (i + 1) - one, one) for i, one in enumerate(hits)]
        chi += any(chi_squared_p(one, (0.5, 0.5)) < 0.01 for one in counts)
        sequential += any(sequential_p(one, (0.5, 0.5)) < 0.01 for one in counts)
    assert sequential <= 4
    assert chi >= 20


def test_a_broken_split_is_found() -> None:
    """52 to 48 is stopped by 20,000 entities."""
    assert sequential_p((9_600, 10_400), (0.5, 0.5)) < 1e-4


def test_the_split_is_held_against_its_buckets() -> None:
    """An experiment of an older release may have a share between two buckets: 0.00015 gives one of them."""
    exposed = Exposed(at_s=0.0, champion=1_999_800, challenger=200)
    data = dataclasses.replace(phase(entities=200), share=0.00015, exposure=(exposed,))

    found = check_split(MismatchPlan(), data)

    assert (found.state, found.planned_share) == (MismatchState.SOUND, 0.0001)
