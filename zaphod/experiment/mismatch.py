"""Is the split the planned one? A chi-squared test to warn by, and an e-value that may stop at any look.

Lindon and Malek 2020, "Anytime-valid inference for multinomial count data", arXiv 2011.03567. Counts are of distinct
entities: requests of one entity are no independent draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Observations that the prior is worth, for each group: between 1 and 1,000 it hardly matters.
_PRIOR_STRENGTH = 10.0


def chi_squared_p(observed: Sequence[int], shares: Sequence[float]) -> float:
    """Of two groups. Only groups with a share count; one that has none, and yet entities, gives 0."""
    total = sum(observed)
    if any(count and not share for count, share in zip(observed, shares, strict=True)):
        return 0.0
    used = [(count, share * total) for count, share in zip(observed, shares, strict=True) if share]
    if len(used) < 2 or not total:
        return 1.0
    statistic = sum((count - expected) ** 2 / expected for count, expected in used)
    return math.erfc(math.sqrt(statistic / 2))


def sequential_p(observed: Sequence[int], shares: Sequence[float]) -> float:
    """Always valid: 1 over the Bayes factor of a Dirichlet mixture, centred on the planned shares, against them."""
    if any(count and not share for count, share in zip(observed, shares, strict=True)):
        return 0.0
    used = [(count, share) for count, share in zip(observed, shares, strict=True) if share]
    total = sum(count for count, _ in used)
    strength = _PRIOR_STRENGTH * len(used)
    log = math.lgamma(strength) - math.lgamma(strength + total)
    for count, share in used:
        prior = strength * share
        log += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return math.exp(min(0.0, -log))
