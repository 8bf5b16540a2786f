"""Inference that holds at every look: asymptotic confidence sequences, e-values and always-valid p-values.

Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", arXiv 2103.06476: the normal mixture, which is the mixture SPRT of Johari, Koomen, Pekelis and Walsh 2017.
n: observations of both variants together. se: standard error of the estimate at that look. All may be arrays.
Asymptotic: they hold once the central limit theorem does, so a look with few observations is not to be used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sequence:
    """One test, looked at as often as one likes.

    alpha: its error over all looks. planned: n where it is to be narrowest. one_sided: it bounds from below only.
    """

    alpha: float
    planned: float
    one_sided: bool = False

    @property
    def rho2(self) -> float:
        """Variance of the mixture in units of one observation's, by equation 161."""
        alpha = 2 * self.alpha if self.one_sided else self.alpha
        log = -2 * math.log(alpha)
        return (log + math.log(log + 1)) / self.planned

    def half_width(self, se: Floats, n: Floats) -> Floats:
        """Equation 9, or 134 when one-sided: the estimate less this bounds it from below."""
        spread = n * self.rho2 + 1
        ratio = np.sqrt(spread) / self.alpha
        log = np.log1p(ratio / 2) if self.one_sided else np.log(ratio)
        return se * np.sqrt(2 * spread / (n * self.rho2) * log)

    def log_e(self, z: Floats, n: Floats) -> Floats:
        """Logarithm of the two-sided e-value. z: estimate less the null's value, over se."""
        spread = n * self.rho2 + 1
        return z * z * n * self.rho2 / (2 * spread) - np.log(spread) / 2

    def p_value(self, z: Floats, n: Floats) -> Floats:
        """Of one look: the smallest alpha at which the interval leaves the null's value out, at this mixture.

        Always valid is the least over all looks so far.
        """
        if not self.one_sided:
            return np.minimum(1.0, np.exp(-np.maximum(self.log_e(z, n), 0.0)))
        spread = n * self.rho2 + 1
        exponent = np.minimum(z * z * n * self.rho2 / (2 * spread), 700.0)
        with np.errstate(divide="ignore"):
            smallest = np.sqrt(spread) / (2 * np.expm1(exponent))
        return np.where(z > 0, np.minimum(1.0, smallest), 1.0)


def observations_needed(sequence: Sequence, *, distance: float, se: float, n: int, most: int) -> int | None:
    """How many bring the half-width under a distance, if the estimate stays and se falls as 1 / sqrt(n).

    None when that is more than `most`.
    """
    if distance <= 0 or not math.isfinite(se):
        return None

    def reached(at: int) -> bool:
        scaled = np.asarray(se * math.sqrt(n / at))
        return float(sequence.half_width(scaled, np.asarray(float(at)))) < distance

    low, high = n, n
    while not reached(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
