"""Calibration figures against hand-computed values and by simulation."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from zaphod.validation.calibration import Calibration, CalibrationCounter, expected_calibration_error, wilson


def calibrate(p: np.ndarray, y: np.ndarray, *, num_bins: int = 10, parts: int = 1, seed: int = 0) -> Calibration:
    """All rows, in so many parts."""
    counter = CalibrationCounter(p, num_bins=num_bins)
    for one in np.array_split(np.arange(len(p)), parts):
        counter.add(p[one], y[one])
    return counter.result(confidence=0.95, seed=seed)


def test_expected_calibration_error_by_hand() -> None:
    """Two bins: |0.25 - 0| on two rows of five and |0.75 - 1| on three."""
    p, y = np.array([0.25, 0.25, 0.55, 0.75, 0.95]), np.array([False, False, True, True, True])

    assert expected_calibration_error(p, y, edges=np.array([0.5])) == pytest.approx(0.4 * 0.25 + 0.6 * 0.25)


def test_reliability_is_scikit_learns_quantile_curve() -> None:
    """Means of the bins, and the error that follows from them."""
    rng = np.random.default_rng(0)
    p = rng.random(5000)
    y = rng.random(5000) < p**1.5
    observed, predicted = calibration_curve(y, p, n_bins=10, strategy="quantile")

    found = calibrate(p, y, parts=3)

    assert [one.observed for one in found.bins] == pytest.approx(observed.tolist(), abs=1e-9)
    assert [one.predicted for one in found.bins] == pytest.approx(predicted.tolist(), abs=1e-9)
    weights = np.array([one.num_rows for one in found.bins]) / 5000
    assert found.ece == pytest.approx(float((weights * np.abs(observed - predicted)).sum()), abs=1e-9)


def test_a_calibrated_model_is_within_its_noise() -> None:
    """Of 400 calibrated tables about 1 % are over the 99 % floor, and Spiegelhalter's z is standard normal."""
    rng = np.random.default_rng(1)
    above, z = 0, []
    for seed in range(400):
        p = rng.beta(1, 3, 500)
        found = calibrate(p, rng.random(500) < p, seed=seed)
        above += found.ece > found.ece_noise
        z.append(found.spiegelhalter_z)

    assert above / 400 <= 0.01 + 3 * np.sqrt(0.01 * 0.99 / 400)
    assert np.mean(z) == pytest.approx(0, abs=3 / np.sqrt(400))
    assert np.std(z) == pytest.approx(1, abs=3 / np.sqrt(2 * 400))


def test_overconfidence_is_found() -> None:
    """Probabilities pushed to the ends: far over the noise, and z tells which way."""
    rng = np.random.default_rng(2)
    p = rng.beta(2, 2, 3000)
    pushed = p**3 / (p**3 + (1 - p) ** 3)

    found = calibrate(pushed, rng.random(3000) < p)

    assert found.ece > 3 * found.ece_noise
    assert found.spiegelhalter_z > 5


def test_wilson_is_the_published_interval() -> None:
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }

    for (hits, total), expected in published.items():
        assert wilson(hits, total, confidence=0.95) == pytest.approx(expected, abs=5e-5)


def test_constant_probabilities_are_one_bin() -> None:
    """A model that always says 0.3 is held against the rate alone."""
    found = calibrate(np.full(1000, 0.3), np.arange(1000) < 300)

    assert len(found.bins) == 1
    assert found.ece == pytest.approx(0)
    assert found.spiegelhalter_p == pytest.approx(2 * NormalDist().cdf(-abs(found.spiegelhalter_z)))
