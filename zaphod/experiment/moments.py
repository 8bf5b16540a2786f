"""Means and covariances of the first n observations, for many n at once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_DENSE = 1000
_STEP = 1.002


def look_positions(n: int, *, first: int = 2) -> NDArray[np.int64]:
    """How many observations each look has: all up to 1000, then 0.2 % more each time, and n.

    The same for every n but the last, so that what an earlier look found is found again later.
    """
    dense = np.arange(first, min(n, _DENSE) + 1)
    if n <= _DENSE:
        return dense if len(dense) else np.array([n])
    num = int(np.log(n / _DENSE) / np.log(_STEP)) + 1
    sparse = np.floor(_DENSE * _STEP ** np.arange(1, num)).astype(np.int64)
    return np.unique(np.concatenate([dense, sparse[sparse < n], [n]]))


@dataclass(frozen=True, slots=True)
class Moments:
    """Of k quantities at L looks. n: shape (L,); mean: (L, k); covariance: (L, k, k), over n - 1; 0 where n < 2."""

    n: Floats
    mean: Floats
    covariance: Floats

    @classmethod
    def of(cls, values: Floats, counts: NDArray[np.int64]) -> Moments:
        """values: shape (k, n). counts: shape (L,), how many of the first observations each look has."""
        k = len(values)
        # Squares of what is far from 0 would cancel. One huge value draws the mean away from all the others, and is to
        # leave what was seen before it as it was.
        centre = np.median(values, axis=1, keepdims=True) if values.shape[1] else np.zeros((k, 1))
        shifted = values - centre
        n = counts.astype(np.float64)
        some, rest = np.maximum(n, 1.0), np.maximum(n - 1.0, 1.0)
        mean = np.stack([_prefix(one, counts) for one in shifted], axis=1) / some[:, None]
        covariance = np.empty((len(counts), k, k))
        for i, j in itertools.combinations_with_replacement(range(k), 2):
            both = _prefix(shifted[i] * shifted[j], counts) / some - mean[:, i] * mean[:, j]
            covariance[:, i, j] = covariance[:, j, i] = both
        covariance *= (some / rest)[:, None, None]
        diagonal = np.arange(k)
        covariance[:, diagonal, diagonal] = np.maximum(covariance[:, diagonal, diagonal], 0.0)
        return cls(n=n, mean=mean + centre.T, covariance=covariance)

    def variance_of_mean(self, weights: Floats) -> Floats:
        """Of the weighted sum of the means. weights: shape (L, k). Shape (L,)."""
        variance: Floats = np.einsum("li,lij,lj->l", weights, self.covariance, weights)
        return np.maximum(variance, 0.0) / np.maximum(self.n, 1.0)


def _prefix(values: Floats, counts: NDArray[np.int64]) -> Floats:
    sums: Floats = np.append(0.0, np.cumsum(values))[counts]
    return sums
