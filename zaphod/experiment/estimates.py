"""The effect of the challenger at every look, with its standard error: proportions, means and ratios of entities.

Ratios by the delta method (Deng, Knoblich and Lu 2018, arXiv 1803.06336). A covariate is regressed out with a common
slope (CUPED: Deng, Xu, Kohavi and Walker 2013), which cannot move the effect of a random split, only its variance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from zaphod.experiment.moments import Moments
from zaphod.experiment.samples import Sums

Floats = NDArray[np.float64]
Kind = Literal["proportion", "mean", "ratio"]

# Fewer successes or failures than this, and a proportion is far from normal.
_FEWEST_OF_EITHER = 5


@dataclass(frozen=True, slots=True)
class Estimates:
    """Arrays over looks, shape (L,). n: entities. effect: challenger less champion, in the metric's units.

    relative: effect over the champion's level, with its own standard error; NaN where that is 0.
    usable: enough is there for the central limit theorem. kept: share of the variance that a covariate left.
    """

    n_champion: Floats
    n_challenger: Floats
    n: Floats
    champion: Floats
    challenger: Floats
    effect: Floats
    se: Floats
    relative: Floats
    relative_se: Floats
    usable: NDArray[np.bool_]
    kept: Floats


def of_arms(
    kind: Kind, sums: Sums, challenger: NDArray[np.bool_], positions: NDArray[np.int64], *, fewest: int
) -> Estimates:
    """Two groups of entities. positions: how many entities of both together each look has. fewest: of each group."""
    values = _quantities(kind, sums, with_covariate=True)
    index = [np.flatnonzero(~challenger), np.flatnonzero(challenger)]
    arms = [Moments.of(values[:, one], np.searchsorted(one, positions)) for one in index]
    slope = _common_slope(arms) if sums.covariate is not None and kind != "ratio" else None
    levels = [_level(kind, arm) for arm in arms]
    weights = [_weights(kind, arm, level) for arm, level in zip(arms, levels, strict=True)]
    bessel = [_bessel(kind, arm) for arm in arms]
    variances = _variances(kind, arms, weights, bessel)
    effect = levels[1] - levels[0]
    variance = variances[0] + variances[1]
    kept = np.ones(len(positions))
    if slope is not None:
        adjusted = np.stack([np.ones_like(slope), -slope], axis=1)
        effect = effect - slope * (arms[1].mean[:, 1] - arms[0].mean[:, 1])
        variances = _variances(kind, arms, [adjusted, adjusted], bessel)
        reduced = variances[0] + variances[1]
        kept = reduced / np.where(variance > 0, variance, 1.0)
        variance = reduced
    scale = np.where(levels[0] == 0, np.nan, levels[0])
    relative_variance = (variances[1] + variances[0] * (1 + effect / scale) ** 2) / scale**2
    usable = (arms[0].n >= fewest) & (arms[1].n >= fewest) & (variance > 0)
    if kind == "proportion":
        usable &= _enough_of_either(arms[0]) & _enough_of_either(arms[1])
    return Estimates(
        n_champion=arms[0].n,
        n_challenger=arms[1].n,
        n=arms[0].n + arms[1].n,
        champion=levels[0],
        challenger=levels[1],
        effect=effect,
        se=np.sqrt(variance),
        relative=effect / scale,
        relative_se=np.sqrt(relative_variance),
        usable=usable,
        kept=kept,
    )


def of_pairs(kind: Kind, champion: Sums, challenger: Sums, positions: NDArray[np.int64], *, fewest: int) -> Estimates:
    """The same entities, both ways: what differs between entities cancels."""
    first = _quantities(kind, champion, with_covariate=False)
    second = _quantities(kind, challenger, with_covariate=False)
    k = len(first)
    both = Moments.of(np.concatenate([first, second]), positions)
    parts = [
        Moments(n=both.n, mean=both.mean[:, part], covariance=both.covariance[:, part, part])
        for part in (slice(0, k), slice(k, 2 * k))
    ]
    levels = [_level(kind, part) for part in parts]
    weights = [_weights(kind, part, level) for part, level in zip(parts, levels, strict=True)]
    variance = both.variance_of_mean(np.concatenate([-weights[0], weights[1]], axis=1)) * _bessel(kind, both)
    effect = levels[1] - levels[0]
    scale = np.where(levels[0] == 0, np.nan, levels[0])
    relative_weights = np.concatenate(
        [-(levels[1] / scale**2)[:, None] * weights[0], weights[1] / scale[:, None]], axis=1
    )
    differing = np.cumsum((first != second).any(axis=0))[positions - 1]
    usable = (both.n >= fewest) & (variance > 0) & (differing >= 2 * _FEWEST_OF_EITHER)
    return Estimates(
        n_champion=both.n,
        n_challenger=both.n,
        n=both.n,
        champion=levels[0],
        challenger=levels[1],
        effect=effect,
        se=np.sqrt(variance),
        relative=effect / scale,
        relative_se=np.sqrt(both.variance_of_mean(relative_weights)),
        usable=usable,
        kept=np.ones(len(positions)),
    )


def _quantities(kind: Kind, sums: Sums, *, with_covariate: bool) -> Floats:
    """What the moments are of, shape (k, n): the entity's value, or total and count, or value and covariate."""
    if kind == "ratio":
        return np.stack([sums.total, sums.count])
    value = (sums.total > 0).astype(np.float64) if kind == "proportion" else sums.total
    if sums.covariate is None or not with_covariate:
        return value[None, :]
    known = ~np.isnan(sums.covariate)
    middle = float(sums.covariate[known].mean()) if known.any() else 0.0
    return np.stack([value, np.where(known, sums.covariate, middle)])


def _level(kind: Kind, arm: Moments) -> Floats:
    if kind != "ratio":
        return arm.mean[:, 0]
    return arm.mean[:, 0] / np.where(arm.mean[:, 1] == 0, np.nan, arm.mean[:, 1])


def _weights(kind: Kind, arm: Moments, level: Floats) -> Floats:
    """The level's derivatives by the means."""
    weights = np.zeros_like(arm.mean)
    if kind == "ratio":
        weights[:, 0] = 1 / np.where(arm.mean[:, 1] == 0, np.nan, arm.mean[:, 1])
        weights[:, 1] = -level * weights[:, 0]
    else:
        weights[:, 0] = 1.0
    return weights


def _bessel(kind: Kind, arm: Moments) -> Floats:
    """A proportion's variance is p (1 - p), which divides by n."""
    return (arm.n - 1) / np.maximum(arm.n, 1.0) if kind == "proportion" else np.ones_like(arm.n)


def _variances(kind: Kind, arms: list[Moments], weights: list[Floats], bessel: list[Floats]) -> list[Floats]:
    """Of each arm's level, or of what a covariate leaves of it: weights of the means."""
    variances = [arm.variance_of_mean(one) * factor for arm, one, factor in zip(arms, weights, bessel, strict=True)]
    return variances if kind == "proportion" else _floored(arms, variances)


def _floored(arms: list[Moments], variances: list[Floats]) -> list[Floats]:
    """A small arm that has met no large value yet looks low and sure of it, so its spread is not believed to be less
    than the larger arm's, by as much as it is smaller. Without this, sales with a challenger's share of 5 % are called
    different in 20 of 100 A/A experiments.
    """
    floored = []
    for i, (arm, variance) in enumerate(zip(arms, variances, strict=True)):
        other, some = arms[1 - i], np.maximum(arm.n, 1.0)
        spread = variances[1 - i] * other.n * np.maximum(0.0, 1 - some / np.maximum(other.n, 1.0))
        floored.append(np.maximum(variance, spread / some))
    return floored


def _common_slope(arms: list[Moments]) -> Floats:
    within: Floats = np.stack([np.maximum(arm.n - 1, 0.0)[:, None, None] * arm.covariance for arm in arms]).sum(axis=0)
    slope: Floats = within[:, 0, 1] / np.where(within[:, 1, 1] > 0, within[:, 1, 1], 1.0)
    return slope


def _enough_of_either(arm: Moments) -> NDArray[np.bool_]:
    hits = arm.n * arm.mean[:, 0]
    return (hits >= _FEWEST_OF_EITHER - 0.5) & (arm.n - hits >= _FEWEST_OF_EITHER - 0.5)
