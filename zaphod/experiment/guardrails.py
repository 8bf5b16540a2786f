"""Has the challenger made requests fail or slow? One-sided, at any look, while everything is still running.

A guardrail must not wait for an entity to be complete. So it counts all predictions so far, takes their spread over
entities, and its sequence runs over predictions: an entity that asks often neither counts as many, nor hides.
"""

from __future__ import annotations

import math

import numpy as np

from zaphod.experiment.plan import GuardrailPlan
from zaphod.experiment.results import GuardrailResult, GuardState
from zaphod.experiment.samples import BadShare, Guarded
from zaphod.experiment.sequences import Sequence
from zaphod.reporting.interval import Interval

_FEWEST_ENTITIES = 20
_FEWEST_BAD = 5


def check_guardrail(plan: GuardrailPlan, guarded: Guarded, *, alpha: float, planned: int) -> GuardrailResult:
    """alpha: of this guardrail over all looks; shared by its two bounds where it has two."""
    bounds = [one for one in (plan.at_most, plan.worse_by_at_most) if one is not None]
    sequence = Sequence(alpha=alpha / len(bounds), planned=planned, one_sided=True)
    champion, challenger = guarded.champion, guarded.challenger
    shares = [_share(one) for one in (champion, challenger)]
    difference = shares[1] - shares[0]
    ready = challenger.entities >= _FEWEST_ENTITIES and challenger.bad >= _FEWEST_BAD
    share_low = difference_low = None
    if challenger.entities >= _FEWEST_ENTITIES:
        share_low = shares[1] - _half_width(sequence, _variance(challenger), challenger.count)
        if champion.entities >= _FEWEST_ENTITIES:
            variance = _variance(champion) + _variance(challenger)
            difference_low = difference - _half_width(sequence, variance, champion.count + challenger.count)
    reasons: list[str] = []
    if ready and plan.at_most is not None and share_low is not None and share_low > plan.at_most:
        reasons.append(f"surely more than {share_low:.2%} of the challenger's, and {plan.at_most:.2%} is the most")
    if (
        ready
        and plan.worse_by_at_most is not None
        and difference_low is not None
        and difference_low > plan.worse_by_at_most
    ):
        allowed = f"{plan.worse_by_at_most:.2%} more is allowed"
        reasons.append(f"surely {difference_low:.2%} more of the challenger's than of the champion's, and {allowed}")
    state = GuardState.BREACHED if reasons else GuardState.HELD
    if challenger.entities < _FEWEST_ENTITIES:
        state = GuardState.WAITING
    return GuardrailResult(
        guardrail=plan.name,
        state=state,
        predictions_champion=round(champion.count),
        predictions_challenger=round(challenger.count),
        champion=shares[0],
        challenger=shares[1],
        difference=Interval(value=difference, low=difference_low),
        share_low=share_low,
        reason="; ".join(reasons),
    )


def _share(one: BadShare) -> float:
    return one.bad / one.count if one.count else 0.0


def _half_width(sequence: Sequence, variance: float, n: float) -> float:
    return float(sequence.half_width(np.asarray(math.sqrt(variance)), np.asarray(n)))


def _variance(one: BadShare) -> float:
    """Of the share: between entities by the delta method, and never less than of as many independent predictions.

    One more good and one more bad keep it above 0 where all are good, or all bad.
    """
    if not one.count:
        return 1.0
    share = one.bad / one.count
    smooth = (one.bad + 1) / (one.count + 2)
    independent = smooth * (1 - smooth) / one.count
    if one.entities < 2:
        return independent
    squares = one.bad_squared - 2 * share * one.count_bad + share * share * one.count_squared
    return max(independent, squares / one.count**2 * one.entities / (one.entities - 1))
