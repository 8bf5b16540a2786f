"""Data of experiments that never ran, as the join would hand it over."""

from __future__ import annotations

import numpy as np

from zaphod.experiment.plan import GuardrailPlan, MetricPlan, Plan
from zaphod.experiment.samples import (
    BadShare,
    Coverage,
    Entities,
    Exposed,
    Guarded,
    Outcomes,
    Pairs,
    PhaseData,
    Segmentation,
    Sums,
)
from zaphod.experiment.spec import Experiment, Mode, Phase, write_plan

START_S = 1_790_000_000.0
STEP_S = 3.0

CONVERTED = MetricPlan(name="converted", kind="proportion", missing="zero")
PLAN = Plan(metrics=(CONVERTED,), segments=("country",))
SLOW = GuardrailPlan(name="slow", bad="slow", objective_ms=50.0, worse_by_at_most=0.01)


def phase(
    *,
    champion: float = 0.10,
    challenger: float = 0.10,
    entities: int = 6_000,
    share: float = 0.5,
    really: float | None = None,
    number: int = 1,
    bad: tuple[tuple[float, float], ...] = ((0.002, 0.002),),
    crossed: int = 0,
    covered: tuple[float, float] = (0.95, 0.95),
    metrics: int = 1,
    seed: int = 0,
) -> PhaseData:
    """Entities that convert with these chances, one every STEP_S. really: the share that a broken splitter gives.

    bad: for each guardrail, the shares of the champion's and the challenger's predictions.
    """
    rng = np.random.default_rng(seed)
    which = rng.random(entities) < (share if really is None else really)
    total = (rng.random(entities) < np.where(which, challenger, champion)).astype(np.float64)
    seen = START_S + STEP_S * np.arange(entities)
    countries = rng.choice(3, entities, p=(0.6, 0.3, 0.1)).astype(np.int32)
    ends = np.unique(np.linspace(1, entities, 100).astype(int)) if entities else np.array([], dtype=int)
    cumulated = np.cumsum(which)
    num = [int((~which).sum()), int(which.sum())]
    return PhaseData(
        number=number,
        share=share,
        started_s=START_S,
        exposure=tuple(
            Exposed(
                at_s=float(seen[end - 1]), champion=int(end - cumulated[end - 1]), challenger=int(cumulated[end - 1])
            )
            for end in ends
        ),
        crossed=crossed,
        guarded=tuple(
            Guarded(champion=independent(num[0], shares[0], rng), challenger=independent(num[1], shares[1], rng))
            for shares in bad
        ),
        outcomes=Outcomes(
            champion=coverage(num[0], covered[0]), challenger=coverage(num[1], covered[1]), late=41, doubled=3, orphan=2
        ),
        observed=Entities(
            complete_s=seen + 60,
            challenger=which,
            sums=(Sums(total=total, count=np.ones(entities)),) * metrics,
            segments=(Segmentation(field="country", labels=("DE", "FR", "IT"), codes=countries),),
        ),
    )


def pairs(*, champion: float, challenger: float, entities: int = 4_000, seed: int = 0) -> PhaseData:
    """The same entities, both ways, with one prediction each that is right with these chances."""
    rng = np.random.default_rng(seed)
    luck, ones = rng.random(entities), np.ones(entities)
    seen = START_S + STEP_S * np.arange(entities)
    return PhaseData(
        number=1,
        share=1.0,
        started_s=START_S,
        exposure=(Exposed(at_s=float(seen[-1]), champion=entities, challenger=entities),),
        crossed=0,
        guarded=(Guarded(champion=independent(entities, 0.0, rng), challenger=independent(entities, 0.0, rng)),),
        outcomes=Outcomes(champion=coverage(entities, 1.0), challenger=coverage(entities, 1.0)),
        observed=Pairs(
            complete_s=seen,
            champion=(Sums(total=(luck < champion) * 1.0, count=ones),),
            challenger=(Sums(total=(luck < challenger) * 1.0, count=ones),),
        ),
    )


def independent(num: int, share: float, rng: np.random.Generator) -> BadShare:
    """One prediction an entity."""
    return BadShare.of(np.ones(num), (rng.random(num) < share).astype(np.float64))


def coverage(num: int, share: float) -> Coverage:
    """All mature."""
    return Coverage(predictions=num, mature=num, with_outcome=round(num * share))


def experiment(plan: Plan = PLAN, *, mode: Mode = Mode.AB, shares: tuple[float, ...] = (0.5,)) -> Experiment:
    """Of churn@8 against churn@7."""
    return Experiment(
        id="exp-1",
        model="churn",
        mode=mode,
        champion=7,
        challenger=8,
        salt="salt",
        phases=tuple(Phase(number=i + 1, share=share, started_s=START_S) for i, share in enumerate(shares)),
        plan=write_plan(plan),
    )
