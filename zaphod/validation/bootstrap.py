"""Confidence intervals by resampling rows, for tables of any size.

Up to one shard of rows it is the ordinary percentile bootstrap (Efron 1979, Annals of Statistics 7:1). Above that it
is the bag of little bootstraps (Kleiner, Talwalkar, Sarkar, Jordan 2014, JRSS B 76:795): each shard is resampled to
the size of the whole table, and what the shards say about the spread is averaged. Memory is that of one shard.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from zaphod.reporting.interval import Interval
from zaphod.validation.metrics import Evaluate, Weights

# Weights in memory at once: 4 million numbers, 32 MB.
_MAX_WEIGHTS = 4_000_000


def draw_weights(rng: np.random.Generator, *, num_rows: int, num_draws: int, replicates: int) -> Weights:
    """How often each row is drawn when num_draws rows are drawn with replacement, shape (replicates, num_rows)."""
    weights = np.empty((replicates, num_rows))
    for i in range(replicates):
        if num_draws <= 4 * num_rows:
            weights[i] = np.bincount(rng.integers(0, num_rows, num_draws), minlength=num_rows)
        else:
            weights[i] = rng.multinomial(num_draws, np.full(num_rows, 1.0 / num_rows))
    return weights


def resample(
    evaluate: Evaluate, *, num_rows: int, num_draws: int, replicates: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The statistics of each resampled table, shape (replicates, n_statistics)."""
    at_once = max(1, _MAX_WEIGHTS // max(num_rows, 1))
    parts: list[NDArray[np.float64]] = []
    for start in range(0, replicates, at_once):
        count = min(at_once, replicates - start)
        parts.append(evaluate(draw_weights(rng, num_rows=num_rows, num_draws=num_draws, replicates=count)))
    return np.concatenate(parts)


class Bag:
    """Collects shards, then gives the intervals. With one shard these are the percentiles of its replicates."""

    def __init__(self, *, confidence: float) -> None:
        self._tails = ((1 - confidence) / 2, (1 + confidence) / 2)
        self._rows: list[int] = []
        self._points: list[NDArray[np.float64]] = []
        self._spreads: list[NDArray[np.float64]] = []

    def add(self, points: NDArray[np.float64], *, num_rows: int, replicates: NDArray[np.float64] | None = None) -> None:
        """A shard's statistics, shape (n,), and those of its replicates, (n_replicates, n), if it was resampled."""
        self._rows.append(num_rows)
        self._points.append(points)
        if replicates is not None:
            away = replicates - points
            low, high = (_quantile(away, tail) for tail in self._tails)
            self._spreads.append(np.stack([low, high, _deviation(away)]))

    def intervals(self) -> list[Interval]:
        """Raises: ValueError when nothing was added."""
        values = _weighted_mean(np.stack(self._points), np.array(self._rows, dtype=np.float64))
        spreads = _weighted_mean(np.stack(self._spreads), np.ones(len(self._spreads)))
        return [
            Interval(
                value=_known(value),
                low=_known(value + spreads[0, i]),
                high=_known(value + spreads[1, i]),
                standard_error=_known(spreads[2, i]),
            )
            for i, value in enumerate(values)
        ]


def _weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first axis, leaving NaN out; NaN where nothing is left."""
    weights = weights.reshape(-1, *([1] * (values.ndim - 1))) * ~np.isnan(values)
    totals = weights.sum(axis=0)
    sums = np.where(np.isnan(values), 0.0, values * weights).sum(axis=0)
    means: NDArray[np.float64] = np.divide(sums, totals, out=np.full(sums.shape, np.nan), where=totals > 0)
    return means


def _quantile(values: NDArray[np.float64], tail: float) -> NDArray[np.float64]:
    # A replicate that drew no row of some class is NaN; nanquantile warns where all are.
    known = np.where(np.isnan(values).all(axis=0), 0.0, values)
    quantiles: NDArray[np.float64] = np.nanquantile(known, tail, axis=0)
    return np.where(np.isnan(values).all(axis=0), np.nan, quantiles)


def _deviation(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.where(np.isnan(values).all(axis=0), 0.0, values)
    return np.where(np.isnan(values).all(axis=0), np.nan, np.nanstd(known, axis=0))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
