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


class Ranking:
    """Rows ordered by score once, so that the AUC of any part of them takes no further sorting.

    positive: shape (n_rows,). scores: float64, shape (n_rows,), without NaN; rows with equal scores are ties.
    """

    def __init__(self, positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> None:
        self._positive = positive
        distinct, self._group = np.unique(scores, return_inverse=True)
        self._num_groups = len(distinct)

    def components(self, inside: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """DeLong's structural components: of each positive row the share of negatives below it, and of each negative
        row the share of positives above it; a tie counts half. None when either class is empty.
        """
        above, below = self._group[inside & self._positive], self._group[inside & ~self._positive]
        if not len(above) or not len(below):
            return None
        num_above = np.bincount(above, minlength=self._num_groups)
        num_below = np.bincount(below, minlength=self._num_groups)
        negatives_under = np.cumsum(num_below) - num_below / 2
        positives_under = np.cumsum(num_above) - num_above / 2
        return negatives_under[above] / len(below), 1.0 - positives_under[below] / len(above)

    def auc(self, inside: NDArray[np.bool_]) -> Auc:
        """Mann-Whitney AUC of a part, with DeLong's variance."""
        parts = self.components(inside)
        if parts is None:
            return Auc(value=math.nan, variance=math.nan)
        return Auc(value=float(parts[0].mean()), variance=_variance(*parts))


def auc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Auc:
    """Of all rows."""
    return Ranking(positive, scores).auc(np.ones(len(positive), dtype=bool))


def compare_auc(first: Ranking, second: Ranking, inside: NDArray[np.bool_]) -> PairedTest | None:
    """AUC of first minus AUC of second on the same rows; None without two rows of each class.

    DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44:837, by ranks as in Sun and Xu 2014, IEEE SPL 21:1389.
    """
    a, b = first.components(inside), second.components(inside)
    if a is None or b is None or min(len(a[0]), len(a[1])) < 2:
        return None
    by_positive, by_negative = a[0] - b[0], a[1] - b[1]
    return z_test(float(by_positive.mean()), _variance(by_positive, by_negative))


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


def _variance(by_positive: NDArray[np.float64], by_negative: NDArray[np.float64]) -> float:
    if min(len(by_positive), len(by_negative)) < 2:
        return math.nan
    return float(by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative))
