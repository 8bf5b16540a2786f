"""Confidence sequences against published figures and against each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from zaphod.experiment.sequences import Sequence, observations_needed


def at(value: float) -> np.ndarray:
    """As an array."""
    return np.asarray(value)


def test_the_half_width_is_that_of_the_mixture_sprt() -> None:
    """For n = 1000, V = 0.5, tau² = 0.001 and alpha = 0.05, R's mixtureSPRT crosses 20 at an effect of 0.0729216."""
    n, variance, tau2, alpha = 1000, 0.5, 0.001, 0.05
    log = -2 * math.log(alpha)
    sequence = Sequence(alpha=alpha, planned=(log + math.log(log + 1)) / (tau2 / variance))
    assert sequence.rho2 == pytest.approx(tau2 / variance)
    half = float(sequence.half_width(at(math.sqrt(variance / n)), at(float(n))))
    assert half == pytest.approx(0.0729216, abs=5e-8)
    z = half / math.sqrt(variance / n)
    assert math.exp(float(sequence.log_e(at(z), at(float(n))))) == pytest.approx(1 / alpha)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("n", [150.0, 5_000.0, 3e6])
def test_p_falls_under_alpha_where_the_interval_leaves_the_null_out(*, one_sided: bool, n: float) -> None:
    """The interval and the p-value are one test, at every n and on either side of the edge."""
    sequence = Sequence(alpha=0.05, planned=5_000, one_sided=one_sided)
    edge = float(sequence.half_width(at(1.0), at(n)))
    assert float(sequence.p_value(at(edge * 0.999), at(n))) > 0.05
    assert float(sequence.p_value(at(edge * 1.001), at(n))) < 0.05
    assert float(sequence.p_value(at(edge), at(n))) == pytest.approx(0.05)


def test_one_sided_bounds_are_tighter_and_see_one_side_only() -> None:
    """At the same alpha the one-sided bound is nearer, and an effect the other way is no evidence."""
    one, two = Sequence(alpha=0.05, planned=5_000, one_sided=True), Sequence(alpha=0.05, planned=5_000)
    assert one.half_width(at(1.0), at(5000.0)) < two.half_width(at(1.0), at(5000.0))
    assert one.p_value(at(-9.0), at(5000.0)) == 1.0
    assert two.p_value(at(-9.0), at(5000.0)) < 1e-6


def test_the_interval_is_narrowest_about_the_planned_number() -> None:
    """Against the fixed-sample interval, which is 1.96 standard errors, it costs least where it was planned."""
    sequence = Sequence(alpha=0.05, planned=10_000)
    n = np.array([100.0, 1e3, 1e4, 1e5, 1e6])
    widths = sequence.half_width(np.ones(5), n)
    assert int(widths.argmin()) == 2
    assert 1.96 < widths[2] < 3.2


def test_an_e_value_averages_to_one_without_an_effect() -> None:
    """The mean of e-values under the null is 1, so that 1/alpha is reached with a chance of alpha at most."""
    z = np.random.default_rng(0).standard_normal(200_000)
    e_values = np.exp(Sequence(alpha=0.05, planned=1000).log_e(z, np.full(200_000, 100.0)))
    assert e_values.mean() == pytest.approx(1.0, abs=0.02)


def test_huge_effects_do_not_overflow() -> None:
    """A z of a thousand gives a p-value of 0, not a warning."""
    for one_sided in (False, True):
        p = Sequence(alpha=0.05, planned=1000, one_sided=one_sided).p_value(at(1000.0), at(1e6))
        assert 0 <= float(p) < 1e-290


def test_how_many_are_needed_is_where_the_interval_ends() -> None:
    """With that many entities the half-width is just under the distance."""
    sequence = Sequence(alpha=0.05, planned=10_000)
    needed = observations_needed(sequence, distance=0.01, se=0.02, n=2_000, most=10_000_000)
    assert needed is not None
    for factor, inside in ((1.002, True), (0.997, False)):
        n = needed * factor
        half = float(sequence.half_width(at(0.02 * math.sqrt(2_000 / n)), at(n)))
        assert (half < 0.01) is inside


def test_what_is_out_of_reach_is_said_to_be() -> None:
    """No number is given for an effect of 0, and none beyond the limit."""
    sequence = Sequence(alpha=0.05, planned=10_000)
    assert observations_needed(sequence, distance=0.0, se=0.02, n=2_000, most=10**7) is None
    assert observations_needed(sequence, distance=1e-6, se=0.02, n=2_000, most=10**7) is None
