"""What follows from the numbers. Pure: the plan and the analysis in, a decision with its reasons out."""

from __future__ import annotations

import enum

import msgspec

from zaphod.experiment import wording
from zaphod.experiment.plan import MetricPlan, Plan
from zaphod.experiment.results import Analysis, Effect, GuardState, MismatchState, PhaseResult, SegmentEffect

_COVERAGE_P = 0.001


class Verdict(enum.StrEnum):
    """What to do with the challenger."""

    PROMOTE = "promote"
    ROLL_BACK = "roll_back"
    GO_ON = "go_on"
    INCONCLUSIVE = "inconclusive"

    @property
    def final(self) -> bool:
        """There is nothing left to wait for."""
        return self is not Verdict.GO_ON


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """reasons: one sentence each, the weightiest first. warnings: what makes the numbers less worth.

    needed: complete entities of both variants together for a decision, if the effect stays as it is; None when that
    cannot be told. left_s: about how long that takes at the present rate.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    needed: int | None = None
    left_s: float | None = None


def decide(plan: Plan, analysis: Analysis) -> Decision:
    """By the phase that runs. Safety comes first, and a wrong split forbids a promotion whatever else is found."""
    phase = analysis.current
    warnings = _warnings(phase)
    unsafe = [*_unsafe_split(phase), *_breaches(phase)]
    if unsafe:
        return Decision(verdict=Verdict.ROLL_BACK, reasons=tuple(unsafe), warnings=warnings)
    worse = [
        f"{_found(metric, effect)}: the challenger is surely worse"
        for metric, effect in _pairs(plan, phase)
        if _surely_worse(metric, effect, fewest=plan.min_entities)
    ]
    if worse:
        return Decision(verdict=Verdict.ROLL_BACK, reasons=tuple(worse), warnings=warnings)
    open_ones = [(metric, effect) for metric, effect in _pairs(plan, phase) if not _reached(plan, metric, effect)]
    if not open_ones:
        return _promotion(plan, phase, warnings)
    ended = _ended(plan, phase)
    if ended is not None:
        return Decision(verdict=Verdict.INCONCLUSIVE, reasons=(ended,), warnings=warnings)
    needed, left_s = _left(open_ones, phase)
    reasons = [_open_reason(plan, metric, effect) for metric, effect in open_ones]
    if not phase.decides:
        reasons.append(_other_phase_decides(plan, analysis))
    return Decision(verdict=Verdict.GO_ON, reasons=tuple(reasons), warnings=warnings, needed=needed, left_s=left_s)


def _promotion(plan: Plan, phase: PhaseResult, warnings: tuple[str, ...]) -> Decision:
    good = tuple(f"{_found(metric, effect)}: {_good(metric)}" for metric, effect in _pairs(plan, phase))
    if phase.mismatch is not None and phase.mismatch.state is not MismatchState.SOUND:
        why = f"not promoted while the split is in doubt: {phase.mismatch.reason}"
        return Decision(verdict=Verdict.GO_ON, reasons=(why, *good), warnings=warnings)
    if not phase.decides:
        why = f"phase {phase.number} gives the challenger {phase.share:.0%} and cannot promote"
        return Decision(verdict=Verdict.GO_ON, reasons=(why, *good), warnings=warnings)
    return Decision(verdict=Verdict.PROMOTE, reasons=good, warnings=warnings)


def _unsafe_split(phase: PhaseResult) -> list[str]:
    if phase.mismatch is None or phase.mismatch.state is not MismatchState.STOP:
        return []
    return [f"the split is not the planned one: {phase.mismatch.reason}"]


def _breaches(phase: PhaseResult) -> list[str]:
    return [
        f"guardrail `{one.guardrail}`: {one.reason}" for one in phase.guardrails if one.state is GuardState.BREACHED
    ]


def _warnings(phase: PhaseResult) -> tuple[str, ...]:
    found: list[str] = []
    if phase.mismatch is not None and phase.mismatch.state is MismatchState.WARN:
        found.append(f"the split may not be the planned one: {phase.mismatch.reason}")
    if phase.coverage_p < _COVERAGE_P:
        first, second = phase.outcomes.champion, phase.outcomes.challenger
        found.append(
            f"outcomes came for {first.with_outcome / first.mature:.1%} of the champion's predictions and "
            f"{second.with_outcome / second.mature:.1%} of the challenger's: what is missing may not be alike"
        )
    fields = sorted({one.field for one in phase.segments if _opposed(one, phase.effects[0])})
    found.extend(f"a segment of `{field}` surely goes the other way than the whole: see the report" for field in fields)
    return tuple(found)


def _opposed(segment: SegmentEffect, effect: Effect) -> bool:
    low, high, whole = segment.effect.low, segment.effect.high, effect.effect.value
    if low is None or high is None or whole is None:
        return False
    return (low > 0 and whole < 0) or (high < 0 and whole > 0)


def _pairs(plan: Plan, phase: PhaseResult) -> list[tuple[MetricPlan, Effect]]:
    return list(zip(plan.metrics, phase.effects, strict=True))


def gain(metric: MetricPlan, effect: Effect) -> tuple[float, float] | None:
    """The interval of the effect, turned so that above 0 is better. None where it does not hold."""
    low, high = effect.effect.low, effect.effect.high
    if low is None or high is None or not effect.usable:
        return None
    return (low, high) if metric.higher_is_better else (-high, -low)


def _surely_worse(metric: MetricPlan, effect: Effect, *, fewest: int) -> bool:
    interval = gain(metric, effect)
    return interval is not None and interval[1] < 0 and min(effect.n_champion, effect.n_challenger) >= fewest


def _reached(plan: Plan, metric: MetricPlan, effect: Effect) -> bool:
    interval = gain(metric, effect)
    if interval is None or min(effect.n_champion, effect.n_challenger) < plan.min_entities:
        return False
    return interval[0] > -metric.margin


def _ended(plan: Plan, phase: PhaseResult) -> str | None:
    if not phase.decides:
        return None
    metric, effect = plan.metrics[0], phase.effects[0]
    if plan.max_entities is not None and effect.n >= plan.max_entities:
        return f"{effect.n:,} entities are complete, {plan.max_entities:,} were the most, and nothing is sure"
    interval = gain(metric, effect)
    if plan.smallest_effect is not None and interval is not None and interval[1] < plan.smallest_effect:
        least = wording.amount(metric, plan.smallest_effect)
        return f"{_found(metric, effect)}: surely no gain of {least}, the smallest that matters"
    return None


def _open_reason(plan: Plan, metric: MetricPlan, effect: Effect) -> str:
    few = min(effect.n_champion, effect.n_challenger)
    if few < plan.min_entities:
        return f"`{metric.name}`: {few:,} complete entities of a variant, {plan.min_entities:,} are the least"
    if not effect.usable:
        return f"`{metric.name}`: the entities differ too little yet to judge by"
    return f"{_found(metric, effect)}: not sure yet"


def _other_phase_decides(plan: Plan, analysis: Analysis) -> str:
    decided = next((phase.number for phase in analysis.phases if phase.decides), None)
    if decided is None:
        share = analysis.current.share
        return f"the challenger has {share:.0%}; promotion is decided from {plan.promote_from_share:.0%} on: ramp up"
    return f"phase {decided} was the one that decides about promotion; for another try start a new experiment"


def _left(open_ones: list[tuple[MetricPlan, Effect]], phase: PhaseResult) -> tuple[int | None, float | None]:
    known = [effect.needed for _, effect in open_ones if effect.needed is not None]
    if len(known) < len(open_ones):
        return None, None
    needed = max(known)
    left = max(0, needed - min(effect.n for _, effect in open_ones))
    return needed, left / phase.rate_per_s if phase.rate_per_s else None


def _good(metric: MetricPlan) -> str:
    if not metric.margin:
        return "surely better"
    return f"surely not worse by more than {wording.amount(metric, metric.margin)}"


def _found(metric: MetricPlan, effect: Effect) -> str:
    found, bounds = wording.difference(metric, effect.effect)
    return f"`{metric.name}` differs by {found} ({bounds})" if bounds else f"`{metric.name}`"
