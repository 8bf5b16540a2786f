"""All statistics of an experiment, phase by phase. Pure: the join's sums in, results out.

Phases are never pooled: their shares differ, so a change in time would pass for an effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Many

import numpy as np
from numpy.typing import NDArray

from zaphod.experiment import mismatch
from zaphod.experiment.assignment import NUM_BUCKETS, threshold_of
from zaphod.experiment.estimates import Estimates, of_arms, of_pairs
from zaphod.experiment.guardrails import check_guardrail
from zaphod.experiment.moments import look_positions
from zaphod.experiment.plan import MetricPlan, MismatchPlan, Plan
from zaphod.experiment.results import (
    Analysis,
    Effect,
    Look,
    Mismatch,
    MismatchState,
    PhaseResult,
    SegmentEffect,
)
from zaphod.experiment.samples import Entities, Outcomes, Pairs, PhaseData, Sums
from zaphod.experiment.sequences import Sequence, observations_needed
from zaphod.experiment.spec import Mode
from zaphod.reporting.interval import Interval

_SHOWN_LOOKS = 160
_RATE_ENTITIES = 1000
_MOST_TIMES_PLANNED = 1000
_MAX_SEGMENTS = 20


def analyse(plan: Plan, mode: Mode, phases: Many[PhaseData], *, now_s: float) -> Analysis:
    """phases: all so far, in order, the running one last."""
    first = next((phase.number for phase in phases if mode.paired or phase.share >= plan.promote_from_share), None)
    return Analysis(
        mode=mode,
        now_s=now_s,
        phases=tuple(_phase(plan, mode, phase, decides=phase.number == first) for phase in phases),
    )


def _phase(plan: Plan, mode: Mode, data: PhaseData, *, decides: bool) -> PhaseResult:
    sequence = Sequence(alpha=plan.alpha / len(plan.metrics), planned=plan.planned_entities)
    effects = tuple(
        _effect(metric, data.observed, i, sequence, fewest=plan.min_entities) for i, metric in enumerate(plan.metrics)
    )
    alpha = plan.alpha / max(1, len(plan.guardrails))
    return PhaseResult(
        number=data.number,
        share=data.share,
        started_s=data.started_s,
        decides=decides,
        exposure=data.exposure,
        unnamed=data.unnamed,
        unusable=data.unusable,
        keys=data.keys,
        effects=effects,
        segments=_segments(plan, data.observed),
        guardrails=tuple(
            check_guardrail(one, guarded, alpha=alpha, planned=plan.planned_entities)
            for one, guarded in zip(plan.guardrails, data.guarded, strict=True)
        ),
        mismatch=None if mode.paired else check_split(plan.mismatch, data),
        outcomes=data.outcomes,
        coverage_p=_coverage_p(data.outcomes) if _wants_all(plan) else 1.0,
        rate_per_s=_rate(data.observed.complete_s),
    )


def check_split(plan: MismatchPlan, data: PhaseData) -> Mismatch:
    """Entities counted against the phase's share of the buckets, which is what they were split by."""
    planned = threshold_of(data.share) / NUM_BUCKETS
    champion, challenger = (data.exposure[-1].champion, data.exposure[-1].challenger) if data.exposure else (0, 0)
    counts, shares = (champion, challenger), (1 - planned, planned)
    chi_squared_p = mismatch.chi_squared_p(counts, shares)
    sequential_p = mismatch.sequential_p(counts, shares)
    state, reason = MismatchState.SOUND, ""
    total = champion + challenger
    found = f"the challenger has {challenger / max(total, 1):.2%} of {total:,} entities and should have {planned:.2%}"
    if data.crossed > plan.crossed_at_most * total:
        state = MismatchState.STOP
        reason = f"{data.crossed:,} of {total:,} entities were answered by both variants"
    elif sequential_p < plan.stop_below:
        state, reason = MismatchState.STOP, f"{found} (always-valid p {sequential_p:.1e})"
    elif chi_squared_p < plan.warn_below:
        state, reason = MismatchState.WARN, f"{found} (chi-squared p {chi_squared_p:.1e})"
    return Mismatch(
        state=state,
        champion=champion,
        challenger=challenger,
        planned_share=planned,
        crossed=data.crossed,
        chi_squared_p=chi_squared_p,
        sequential_p=sequential_p,
        reason=reason,
    )


def _effect(
    metric: MetricPlan, observed: Entities | Pairs, position: int, sequence: Sequence, *, fewest: int
) -> Effect:
    complete_s, counted = _counted(observed, position)
    positions = look_positions(len(complete_s))
    if not len(complete_s):
        return _nothing(metric)
    estimates = _estimates(metric, observed, position, counted, positions, fewest=fewest)
    half = sequence.half_width(estimates.se, estimates.n)
    signal = np.where(estimates.usable, estimates.effect / np.where(estimates.se > 0, estimates.se, 1.0), 0.0)
    p_value = float(sequence.p_value(signal, estimates.n).min())
    last = len(positions) - 1
    relative = _interval(estimates.relative, sequence.half_width(estimates.relative_se, estimates.n), estimates, last)
    return Effect(
        metric=metric.name,
        n=int(estimates.n[last]),
        n_champion=int(estimates.n_champion[last]),
        n_challenger=int(estimates.n_challenger[last]),
        champion=_finite(estimates.champion[last]),
        challenger=_finite(estimates.challenger[last]),
        effect=_interval(estimates.effect, half, estimates, last),
        relative=relative,
        usable=bool(estimates.usable[last]),
        p_value=p_value,
        variance_kept=float(estimates.kept[last]),
        needed=_needed(metric, estimates, sequence),
        looks=_looks(complete_s, positions, estimates, half),
    )


def _nothing(metric: MetricPlan) -> Effect:
    nothing = Interval(value=None)
    return Effect(
        metric=metric.name,
        n=0,
        n_champion=0,
        n_challenger=0,
        champion=None,
        challenger=None,
        effect=nothing,
        relative=nothing,
        usable=False,
        p_value=1.0,
        variance_kept=1.0,
        needed=None,
        looks=(),
    )


def _counted(observed: Entities | Pairs, position: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """When each entity of this metric became complete, and which entities those are."""
    if isinstance(observed, Entities):
        counted = observed.sums[position].count > 0
    else:
        counted = (observed.champion[position].count > 0) & (observed.challenger[position].count > 0)
    return observed.complete_s[counted], counted


def _estimates(
    metric: MetricPlan,
    observed: Entities | Pairs,
    position: int,
    chosen: NDArray[np.bool_],
    positions: NDArray[np.int64],
    *,
    fewest: int,
) -> Estimates:
    if isinstance(observed, Entities):
        sums = _only(observed.sums[position], chosen)
        return of_arms(metric.kind, sums, observed.challenger[chosen], positions, fewest=fewest)
    first, second = _only(observed.champion[position], chosen), _only(observed.challenger[position], chosen)
    return of_pairs(metric.kind, first, second, positions, fewest=fewest)


def _only(sums: Sums, chosen: NDArray[np.bool_]) -> Sums:
    covariate = None if sums.covariate is None else sums.covariate[chosen]
    return Sums(total=sums.total[chosen], count=sums.count[chosen], covariate=covariate)


def _looks(
    complete_s: NDArray[np.float64], positions: NDArray[np.int64], estimates: Estimates, half: NDArray[np.float64]
) -> tuple[Look, ...]:
    """Spread evenly over the entities, from the first usable look on."""
    usable = np.flatnonzero(estimates.usable)
    if not len(usable):
        return ()
    wanted = np.linspace(positions[usable[0]], positions[-1], _SHOWN_LOOKS)
    shown = np.unique(np.minimum(np.searchsorted(positions, wanted), len(positions) - 1))
    return tuple(
        Look(
            at_s=float(complete_s[positions[i] - 1]),
            n=int(estimates.n[i]),
            effect=_interval(estimates.effect, half, estimates, i),
        )
        for i in shown.tolist()
        if estimates.usable[i]
    )


def _interval(value: NDArray[np.float64], half: NDArray[np.float64], estimates: Estimates, at: int) -> Interval:
    centre, width = _finite(value[at]), _finite(half[at])
    if centre is None or width is None or not estimates.usable[at]:
        return Interval(value=centre)
    return Interval(value=centre, low=centre - width, high=centre + width)


def _needed(metric: MetricPlan, estimates: Estimates, sequence: Sequence) -> int | None:
    if not estimates.usable[-1]:
        return None
    gain = float(estimates.effect[-1]) * (1 if metric.higher_is_better else -1)
    distance = gain + metric.margin if gain > -metric.margin else -gain
    n = int(estimates.n[-1])
    most = max(n, round(sequence.planned) * _MOST_TIMES_PLANNED)
    return observations_needed(sequence, distance=distance, se=float(estimates.se[-1]), n=n, most=most)


def _segments(plan: Plan, observed: Entities | Pairs) -> tuple[SegmentEffect, ...]:
    """Bonferroni for the intervals, Holm for the p-values, over all segments of all fields that are large enough."""
    metric = plan.metrics[0]
    _, counted = _counted(observed, 0)
    found: list[tuple[str, str, Estimates]] = []
    for segmentation in observed.segments:
        sizes = np.bincount(segmentation.codes[counted & (segmentation.codes >= 0)], minlength=len(segmentation.labels))
        for code in np.argsort(-sizes, kind="stable")[:_MAX_SEGMENTS].tolist():
            if sizes[code] < plan.min_entities:
                continue
            chosen = counted & (segmentation.codes == code)
            now = np.array([sizes[code]])
            estimates = _estimates(metric, observed, 0, chosen, now, fewest=plan.min_entities)
            if estimates.usable[0]:
                found.append((segmentation.field, segmentation.labels[code], estimates))
    if not found:
        return ()
    sequence = Sequence(alpha=plan.alpha / len(found), planned=plan.planned_entities)
    plain = [float(sequence.p_value(one.effect / one.se, one.n)[0]) for _, _, one in found]
    return tuple(
        SegmentEffect(
            field=field,
            label=label,
            n_champion=int(one.n_champion[0]),
            n_challenger=int(one.n_challenger[0]),
            effect=_interval(one.effect, sequence.half_width(one.se, one.n), one, 0),
            p_value=p_value,
        )
        for (field, label, one), p_value in zip(found, holm(plain), strict=True)
    )


def holm(p_values: Many[float]) -> list[float]:
    """Adjusted p-values, in the order given: each at most alpha with the family's error under alpha (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    most = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda one: p_values[one])):
        most = max(most, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = most
    return adjusted


def _wants_all(plan: Plan) -> bool:
    """Some metric leaves out what has no outcome; where a missing one means 0, its share is the effect itself."""
    return any(metric.missing == "leave_out" for metric in plan.metrics)


def _coverage_p(outcomes: Outcomes) -> float:
    """Do outcomes come as often for both variants? A z-test of two proportions, at one look."""
    first, second = outcomes.champion, outcomes.challenger
    if not first.mature or not second.mature:
        return 1.0
    pooled = (first.with_outcome + second.with_outcome) / (first.mature + second.mature)
    variance = pooled * (1 - pooled) * (1 / first.mature + 1 / second.mature)
    if variance <= 0:
        return 1.0
    difference = first.with_outcome / first.mature - second.with_outcome / second.mature
    return math.erfc(abs(difference) / math.sqrt(2 * variance))


def _rate(complete_s: NDArray[np.float64]) -> float | None:
    recent = complete_s[-_RATE_ENTITIES:]
    if len(recent) < 2 or recent[-1] <= recent[0]:
        return None
    return float((len(recent) - 1) / (recent[-1] - recent[0]))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
