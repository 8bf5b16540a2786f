"""AUC and the paired tests against published figures."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from zaphod.validation.ranks import Ranking, auc, compare_auc, mcnemar

# Albumin, total protein, K-G score and benefit of 43 patients: DeLong et al. 1988, as printed in SAS/STAT's manual,
# PROC LOGISTIC, "Comparing Receiver Operating Characteristic Curves", with the figures below.
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1
3.8 5.7 5 1  3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0
2.3 4.4 6 1  4.2 7.6 4 0  4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1
3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1  4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0
3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1  2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1
3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""
_TABLE = np.array(PATIENTS.split(), dtype=float).reshape(-1, 4)
BENEFIT = _TABLE[:, 3] == 1
ALBUMIN, PROTEIN, KG = _TABLE[:, 0], _TABLE[:, 1], 10 - _TABLE[:, 2]


@pytest.mark.parametrize(
    ("scores", "value", "standard_error"),
    [(ALBUMIN, 0.7366, 0.0927), (KG, 0.7258, 0.1028), (PROTEIN, 0.6478, 0.1000)],
    ids=["albumin", "K-G", "protein"],
)
def test_auc_and_its_error_are_the_published_ones(scores: np.ndarray, value: float, standard_error: float) -> None:
    """DeLong's variance on DeLong's data, ties included."""
    found = auc(BENEFIT, scores)

    assert (found.value, found.variance**0.5) == pytest.approx((value, standard_error), abs=5e-5)


@pytest.mark.parametrize(
    ("scores", "difference", "standard_error", "chi_squared", "p_value"),
    [(ALBUMIN, 0.0108, 0.0953, 0.0127, 0.9102), (PROTEIN, -0.0780, 0.1046, 0.5554, 0.4561)],
    ids=["albumin", "protein"],
)
def test_the_paired_difference_is_the_published_one(
    scores: np.ndarray, difference: float, standard_error: float, chi_squared: float, p_value: float
) -> None:
    """Each test against the K-G score, on the same patients."""
    rankings = [Ranking(BENEFIT, one) for one in (scores, KG)]

    found = compare_auc(*rankings, np.ones(len(BENEFIT), dtype=bool))

    assert found is not None
    assert (found.difference, found.variance**0.5) == pytest.approx((difference, standard_error), abs=6e-5)
    assert (found.statistic**2, found.p_value) == pytest.approx((chi_squared, p_value), abs=6e-5)


def test_the_auc_of_a_part_needs_no_new_ranking() -> None:
    """A part of the rows gives what ranking that part alone gives."""
    rng = np.random.default_rng(0)
    positive, scores, inside = rng.random(400) < 0.4, rng.normal(0, 1, 400).round(1), rng.random(400) < 0.3

    whole = Ranking(positive, scores).auc(inside)

    alone = auc(positive[inside], scores[inside])
    assert (whole.value, whole.variance) == pytest.approx((alone.value, alone.variance), rel=1e-12)
    assert whole.value == pytest.approx(roc_auc_score(positive[inside], scores[inside]), rel=1e-12)


def test_mcnemar_is_the_published_one() -> None:
    """Agresti's approval ratings (86 and 150 changed their mind): 17.36; few changes use the binomial."""
    many, few = mcnemar(only_first=86, only_second=150), mcnemar(only_first=1, only_second=9)

    assert (many.statistic, many.p_value) == pytest.approx((17.3559, 3.099e-05), rel=1e-3)
    assert few.p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(only_first=0, only_second=0).p_value == 1.0
