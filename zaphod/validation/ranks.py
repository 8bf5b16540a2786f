"""AUC and its sampling error in closed form, and the paired tests of two classifiers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Auc:
    """The area under the ROC curve and its variance. NaN when a class is empty; the variance needs two of each."""

    value: float
    variance: float


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A difference, its variance, test statistic and two-sided p-value."""

    difference: float
    variance: float
    statistic: float
    p_value: float


def auc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Auc:
    """Mann-Whitney AUC, a tie counts half, with DeLong's variance."""
    components = _components(positive, scores)
    if components is None:
        return Auc(value=math.nan, variance=math.nan)
    by_positive, by_negative = components
    if min(len(by_positive), len(by_negative)) < 2:
        return Auc(value=float(by_positive.mean()), variance=math.nan)
    variance = by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative)
    return Auc(value=float(by_positive.mean()), variance=float(variance))


def compare_auc(
    positive: NDArray[np.bool_], first: NDArray[np.float64], second: NDArray[np.float64]
) -> PairedTest | None:
    """AUC of first minus AUC of second on the same rows; None without two rows of each class.

    DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44:837, with the midranks of Sun and Xu 2014, IEEE SPL 21:1389.
    """
    a, b = _components(positive, first), _components(positive, second)
    if a is None or b is None or min(len(a[0]), len(a[1])) < 2:
        return None
    by_positive, by_negative = a[0] - b[0], a[1] - b[1]
    difference = float(by_positive.mean())
    variance = by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative)
    return z_test(difference, float(variance))


def z_test(difference: float, variance: float) -> PairedTest:
    """A difference that is about normal around 0 when there is none."""
    if variance == 0:
        p_value = 1.0 if difference == 0 else 0.0
        return PairedTest(difference=difference, variance=0.0, statistic=0.0, p_value=p_value)
    z = difference / math.sqrt(variance)
    return PairedTest(
        difference=difference, variance=variance, statistic=z, p_value=float(2 * scipy.stats.norm.sf(abs(z)))
    )


def mcnemar(*, only_first: int, only_second: int) -> PairedTest:
    """Two classifiers on the same rows, by the rows that exactly one of them has right.

    McNemar 1947, Psychometrika 12:153: chi-squared without a correction; exact binomial below 25 such rows. The
    difference is in rows; the statistic is the chi-squared either way.
    """
    discordant = only_first + only_second
    difference = float(only_first - only_second)
    if discordant == 0:
        return PairedTest(difference=0.0, variance=0.0, statistic=0.0, p_value=1.0)
    statistic = difference**2 / discordant
    if discordant < 25:
        p_value = scipy.stats.binomtest(only_first, discordant, 0.5).pvalue
    else:
        p_value = scipy.stats.chi2.sf(statistic, 1)
    return PairedTest(difference=difference, variance=float(discordant), statistic=statistic, p_value=float(p_value))


def _components(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """DeLong's structural components: for each positive the share of negatives below it, and the reverse."""
    above, below = scores[positive], scores[~positive]
    if not len(above) or not len(below):
        return None
    ranks = scipy.stats.rankdata(np.concatenate([above, below]))
    by_positive = (ranks[: len(above)] - scipy.stats.rankdata(above)) / len(below)
    by_negative = 1.0 - (ranks[len(above) :] - scipy.stats.rankdata(below)) / len(above)
    return by_positive, by_negative
