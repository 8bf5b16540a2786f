"""Does 0.8 happen eight times in ten? Reliability, expected calibration error and Spiegelhalter's test."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import scipy.stats
from numpy.typing import NDArray

_NOISE_DRAWS = 4000
_NOISE_QUANTILE = 0.99


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True):
    """Rows whose probability falls into one bin: what was said on average, and what happened, with its interval."""

    num_rows: int
    predicted: float
    observed: float
    low: float
    high: float


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Of a binary classifier's second class; of the label given, for several classes.

    ece: expected calibration error over bins of equal numbers of rows. ece_noise: what it stays under in 99 of 100
    tables of this size when every probability is exactly right; ECE is never 0 by chance.
    spiegelhalter_z: about standard normal for a calibrated model.
    """

    ece: float
    ece_noise: float
    spiegelhalter_z: float
    spiegelhalter_p: float
    mean_predicted: float
    mean_observed: float
    bins: tuple[ReliabilityBin, ...]


class CalibrationCounter:
    """Adds up shards on edges that the first one sets (equal numbers of rows); memory does not grow."""

    def __init__(self, probabilities: NDArray[np.float64], *, num_bins: int) -> None:
        self._edges = np.unique(np.quantile(probabilities, np.linspace(0, 1, num_bins + 1)[1:-1]))
        self._sums = np.zeros((4, len(self._edges) + 1))
        self._z_top, self._z_bottom = 0.0, 0.0

    def add(self, probabilities: NDArray[np.float64], happened: NDArray[np.bool_]) -> None:
        bins = np.searchsorted(self._edges, probabilities, side="left")
        p, y = probabilities, happened.astype(np.float64)
        for i, values in enumerate((np.ones_like(p), p, y, p * (1 - p))):
            self._sums[i] += np.bincount(bins, weights=values, minlength=self._sums.shape[1])
        self._z_top += float(((y - p) * (1 - 2 * p)).sum())
        self._z_bottom += float(((1 - 2 * p) ** 2 * p * (1 - p)).sum())

    def result(self, *, confidence: float, seed: int) -> Calibration:
        rows, said, seen, spread = self._sums[:, self._sums[0] > 0]
        z = spiegelhalter_z(self._z_top, self._z_bottom)
        intervals = [wilson(hits, total, confidence=confidence) for hits, total in zip(seen, rows, strict=True)]
        return Calibration(
            ece=float(np.abs(said - seen).sum() / rows.sum()),
            ece_noise=_ece_noise(spread, num_rows=float(rows.sum()), seed=seed),
            spiegelhalter_z=z,
            spiegelhalter_p=float(2 * scipy.stats.norm.sf(abs(z))),
            mean_predicted=float(said.sum() / rows.sum()),
            mean_observed=float(seen.sum() / rows.sum()),
            bins=tuple(
                ReliabilityBin(num_rows=int(n), predicted=float(p / n), observed=float(y / n), low=low, high=high)
                for n, p, y, (low, high) in zip(rows, said, seen, intervals, strict=True)
            ),
        )


def expected_calibration_error(
    probabilities: NDArray[np.float64], happened: NDArray[np.bool_], *, edges: NDArray[np.float64]
) -> float:
    """Sum over bins of (rows in it / rows) |mean probability - share that happened|; bins are (low, high].

    Naeini, Cooper, Hauskrecht 2015, AAAI 29; Guo, Pleiss, Sun, Weinberger 2017, ICML 70.
    """
    bins = np.searchsorted(edges, probabilities, side="left")
    gaps = np.bincount(bins, weights=probabilities - happened, minlength=len(edges) + 1)
    return float(np.abs(gaps).sum() / len(probabilities))


def spiegelhalter_z(top: float, bottom: float) -> float:
    """Sum of (y - p)(1 - 2p) / sqrt(sum (1 - 2p)^2 p (1 - p)): Spiegelhalter 1986, Statistics in Medicine 5:421."""
    if bottom == 0:
        return 0.0 if top == 0 else math.copysign(math.inf, top)
    return top / math.sqrt(bottom)


def wilson(hits: float, total: float, *, confidence: float) -> tuple[float, float]:
    """The score interval of a share: Wilson 1927, JASA 22:209."""
    z = float(scipy.stats.norm.ppf((1 + confidence) / 2))
    share = hits / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _ece_noise(spread: NDArray[np.float64], *, num_rows: float, seed: int) -> float:
    """The ECE of outcomes drawn from the probabilities themselves (Broecker and Smith 2007, Weather and Forecasting
    22:651), with each bin's sum as a normal variable of variance sum p (1 - p).
    """
    rng = np.random.default_rng([seed, 2])
    gaps = np.abs(rng.normal(size=(_NOISE_DRAWS, len(spread)))) * np.sqrt(spread)
    return float(np.quantile(gaps.sum(axis=1) / num_rows, _NOISE_QUANTILE))
