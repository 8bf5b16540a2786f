"""Is the experiment itself sound? One line for each thing that could make its numbers worthless."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zaphod.experiment.plan import MismatchPlan, Plan
from zaphod.experiment.results import Mismatch, PhaseResult
from zaphod.experiment.samples import Coverage
from zaphod.monitoring.settings import KEY_VARIABLE

_COVERAGE_P = 0.001
_MANY_LATE = 0.05


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """state: as badges are coloured. label: one or two words. detail: what was found, in numbers."""

    name: str
    state: Literal["passed", "failed", "waiting", "skipped"]
    label: str
    detail: str


def health_checks(plan: Plan, phase: PhaseResult) -> tuple[HealthCheck, ...]:
    """Of the phase that runs."""
    split = [] if phase.mismatch is None else _split(plan.mismatch, phase.mismatch)
    checks = [*split, _coverage(phase), _late(plan, phase), _strays(phase)]
    if phase.unnamed:
        detail = f"{phase.unnamed:,} predictions named no entity, and count as one entity each"
        checks.append(HealthCheck("entities", "waiting", "unnamed", detail))
    if phase.keys > 1:
        detail = (
            f"the log was written with {phase.keys} keys: where entities are hashed, one of them counts as several. "
            f"Give every writer the same {KEY_VARIABLE}, and start the experiment anew"
        )
        checks.append(HealthCheck("hash keys", "waiting", "several", detail))
    if phase.unusable or phase.outcomes.unusable:
        checks.append(_unusable(phase))
    return tuple(checks)


def _split(plan: MismatchPlan, mismatch: Mismatch) -> list[HealthCheck]:
    total = mismatch.champion + mismatch.challenger
    found = (
        f"the challenger has {mismatch.challenger / max(1, total):.2%} of {total:,} entities, planned are "
        f"{mismatch.planned_share:.2%}; p {mismatch.chi_squared_p:.2g} now, {mismatch.sequential_p:.2g} always-valid"
    )
    split = HealthCheck("split", "passed", "as planned", found)
    if mismatch.sequential_p < plan.stop_below:
        split = HealthCheck("split", "failed", "broken", found)
    elif mismatch.chi_squared_p < plan.warn_below:
        split = HealthCheck("split", "waiting", "in doubt", found)
    if not mismatch.crossed:
        return [split, HealthCheck("one variant each", "passed", "yes", "no entity was answered by both variants")]
    detail = f"{mismatch.crossed:,} of {total:,} entities were answered by both variants; they are left out"
    if mismatch.crossed > plan.crossed_at_most * total:
        return [split, HealthCheck("one variant each", "failed", "broken", detail)]
    return [split, HealthCheck("one variant each", "waiting", "not all", detail)]


def _coverage(phase: PhaseResult) -> HealthCheck:
    outcomes = phase.outcomes
    if not outcomes.champion.mature or not outcomes.challenger.mature:
        return HealthCheck("outcomes", "skipped", "too early", "no outcome window is over yet for both variants")
    detail = f"came for {_share(outcomes.champion)} (champion) and {_share(outcomes.challenger)} (challenger)"
    if phase.coverage_p < _COVERAGE_P:
        return HealthCheck("outcomes", "waiting", "uneven", f"{detail}: what is missing may not be alike")
    return HealthCheck("outcomes", "passed", "even", detail)


def _late(plan: Plan, phase: PhaseResult) -> HealthCheck:
    outcomes = phase.outcomes
    came = outcomes.champion.with_outcome + outcomes.challenger.with_outcome
    detail = f"{outcomes.late:,} came after the window of {plan.outcome_window_s:,.0f} s"
    if outcomes.early:
        detail += f", {outcomes.early:,} are from before their prediction"
    detail += "; none of them counts"
    if outcomes.late > _MANY_LATE * max(1, came + outcomes.late):
        return HealthCheck("late outcomes", "waiting", "many", f"{detail}: a longer window would keep them")
    return HealthCheck("late outcomes", "passed", "few" if outcomes.late + outcomes.early else "none", detail)


def _strays(phase: PhaseResult) -> HealthCheck:
    outcomes = phase.outcomes
    detail = f"{outcomes.doubled:,} came twice, {outcomes.orphan:,} belong to no prediction; none of them counts"
    strays = outcomes.doubled + outcomes.orphan
    return HealthCheck("stray outcomes", "passed", "few" if strays else "none", detail)


def _unusable(phase: PhaseResult) -> HealthCheck:
    detail = (
        f"{phase.unusable:,} predictions were no finite number and count as failed, "
        f"{phase.outcomes.unusable:,} outcomes were none and do not count"
    )
    return HealthCheck("numbers", "waiting", "not finite", detail)


def _share(one: Coverage) -> str:
    return f"{one.with_outcome / one.mature:.1%} of {one.mature:,} predictions"
