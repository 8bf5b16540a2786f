"""From sums to a decision: what is promoted, rolled back, waited for and given up."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from tests.experiments import CONVERTED, PLAN, SLOW, START_S, STEP_S, independent, pairs, phase
from zaphod.experiment.analysis import analyse, holm
from zaphod.experiment.guardrails import check_guardrail
from zaphod.experiment.plan import GuardrailPlan, MetricPlan, Plan
from zaphod.experiment.results import Analysis, GuardState, MismatchState
from zaphod.experiment.samples import BadShare, Entities, Guarded, PhaseData
from zaphod.experiment.spec import Mode
from zaphod.experiment.verdict import Decision, Verdict, decide

NOW_S = START_S + 30_000


def judge(plan: Plan, *phases: PhaseData, mode: Mode = Mode.AB) -> tuple[Analysis, Decision]:
    """What the numbers say and what follows."""
    analysis = analyse(plan, mode, phases, now_s=NOW_S)
    return analysis, decide(plan, analysis)


def test_a_better_challenger_is_promoted() -> None:
    """0.10 against 0.135 in 6,000 entities is enough, and the reason names the metric and its interval."""
    _, decision = judge(PLAN, phase(challenger=0.135))
    assert decision.verdict is Verdict.PROMOTE
    assert decision.reasons == ("`converted` differs by +3.0 points (0.4 to 5.5): surely better",)


def test_a_worse_challenger_is_rolled_back() -> None:
    """In any phase, the deciding one or not."""
    for share in (0.5, 0.25):
        _, decision = judge(PLAN, phase(challenger=0.06, share=share))
        assert decision.verdict is Verdict.ROLL_BACK
        assert "surely worse" in decision.reasons[0]


def test_lower_is_better_where_the_plan_says_so() -> None:
    """Of complaints, more are worse."""
    plan = Plan(metrics=(CONVERTED.model_copy(update={"higher_is_better": False}),))
    assert judge(plan, phase(challenger=0.135))[1].verdict is Verdict.ROLL_BACK
    assert judge(plan, phase(challenger=0.065))[1].verdict is Verdict.PROMOTE


def test_no_difference_goes_on_and_says_how_long() -> None:
    """With the present effect and the present rate."""
    analysis, decision = judge(PLAN, phase(challenger=0.115, seed=2))
    effect = analysis.current.effects[0]
    assert decision.verdict is Verdict.GO_ON
    assert decision.needed is not None
    assert decision.needed > effect.n
    assert decision.left_s == pytest.approx((decision.needed - effect.n) * STEP_S, rel=0.01)


def test_a_margin_lets_an_equal_challenger_through() -> None:
    """Where not being worse is enough, 0.10 against 0.10 is promoted; without the margin it is not."""
    plan = Plan(metrics=(CONVERTED.model_copy(update={"margin": 0.05}),))
    _, decision = judge(plan, phase())
    assert decision.verdict is Verdict.PROMOTE
    assert "not worse by more than 5 points" in decision.reasons[0]
    assert judge(PLAN, phase())[1].verdict is Verdict.GO_ON


def test_every_metric_must_agree() -> None:
    """One metric that is not sure keeps a better one from being promoted."""
    plan = Plan(metrics=(CONVERTED, MetricPlan(name="sales")))
    data = phase(challenger=0.15, metrics=2)
    assert judge(plan, data)[1].verdict is Verdict.PROMOTE
    assert isinstance(data.observed, Entities)
    flat = np.random.default_rng(1).normal(1.0, 1.0, len(data.observed.complete_s))
    sums = (data.observed.sums[0], type(data.observed.sums[0])(total=flat, count=np.ones(len(flat))))
    other = Entities(complete_s=data.observed.complete_s, challenger=data.observed.challenger, sums=sums)
    assert judge(plan, replace(data, observed=other))[1].verdict is Verdict.GO_ON


def test_a_breached_guardrail_rolls_a_better_challenger_back() -> None:
    """Safety comes before the metrics."""
    plan = Plan(metrics=(CONVERTED,), guardrails=(SLOW,))
    _, decision = judge(plan, phase(challenger=0.15, bad=((0.03, 0.12),)))
    assert decision.verdict is Verdict.ROLL_BACK
    assert decision.reasons[0].startswith("guardrail `slow`: surely ")
    assert judge(plan, phase(challenger=0.15, bad=((0.03, 0.03),)))[1].verdict is Verdict.PROMOTE


def test_a_broken_split_rolls_back_and_a_doubtful_one_forbids_a_promotion() -> None:
    """However good the challenger looks."""
    analysis, decision = judge(PLAN, phase(challenger=0.2, really=0.56))
    assert analysis.current.mismatch is not None
    assert analysis.current.mismatch.state is MismatchState.STOP
    assert decision.verdict is Verdict.ROLL_BACK
    analysis, decision = judge(PLAN, phase(challenger=0.2, really=0.53))
    assert analysis.current.mismatch is not None
    assert analysis.current.mismatch.state is MismatchState.WARN
    assert decision.verdict is Verdict.GO_ON
    assert "split" in decision.reasons[0]


def test_entities_answered_by_both_are_a_broken_split() -> None:
    """A hash cannot do that; a broken splitter can."""
    assert judge(PLAN, phase(challenger=0.135, crossed=1))[1].verdict is Verdict.ROLL_BACK


def test_only_the_first_phase_with_a_large_share_promotes() -> None:
    """Earlier ones cannot, and a second try would double the error."""
    good = {"challenger": 0.16, "entities": 8_000}
    analysis, decision = judge(PLAN, phase(share=0.25, **good))
    assert decision.verdict is Verdict.GO_ON
    assert "cannot promote" in decision.reasons[0]
    assert not analysis.current.decides
    assert judge(PLAN, phase(share=0.25), phase(number=2, **good))[1].verdict is Verdict.PROMOTE
    later = judge(PLAN, phase(number=1), phase(number=2, share=0.6, **good))[1]
    assert later.verdict is Verdict.GO_ON


def test_phases_are_never_pooled() -> None:
    """Two phases without a difference, of different shares and times, show none, though together they would."""
    calm, busy = phase(champion=0.05, challenger=0.05, share=0.1, entities=20_000), phase(
        champion=0.2, challenger=0.2, number=2, entities=20_000, seed=1
    )  # fmt: skip
    analysis, _ = judge(PLAN, calm, busy)
    for one in analysis.phases:
        low, high = one.effects[0].effect.low, one.effects[0].effect.high
        assert low is not None
        assert high is not None
        assert low < 0 < high
    observed = (calm.observed, busy.observed)
    assert all(isinstance(one, Entities) for one in observed)
    pooled = [
        sum(one.sums[0].total[one.challenger == which].sum() for one in observed if isinstance(one, Entities))
        / sum((one.challenger == which).sum() for one in observed if isinstance(one, Entities))
        for which in (False, True)
    ]
    assert pooled[1] > 1.5 * pooled[0]


def test_the_end_of_the_sample_is_inconclusive() -> None:
    """With as many entities as were planned and nothing sure, the champion stays."""
    plan = PLAN.model_copy(update={"max_entities": 6_000})
    assert judge(plan, phase())[1].verdict is Verdict.INCONCLUSIVE
    assert judge(plan, phase(entities=5_000))[1].verdict is Verdict.GO_ON
    assert judge(plan, phase(challenger=0.135))[1].verdict is Verdict.PROMOTE


def test_an_effect_that_is_surely_too_small_is_inconclusive() -> None:
    """Waiting for a gain of 5 points is over when the interval ends below it."""
    plan = PLAN.model_copy(update={"smallest_effect": 0.05})
    assert judge(plan, phase())[1].verdict is Verdict.INCONCLUSIVE
    assert judge(plan, phase(entities=1_000))[1].verdict is Verdict.GO_ON


def test_few_entities_decide_nothing() -> None:
    """Nothing is said by a metric before the least number of complete entities of each variant."""
    _, decision = judge(PLAN, phase(champion=0.0, challenger=1.0, entities=190))
    assert decision.verdict is Verdict.GO_ON
    assert "100 are the least" in decision.reasons[0]
    assert judge(PLAN, phase(entities=0))[1].verdict is Verdict.GO_ON


def test_pairs_decide_with_far_fewer_entities() -> None:
    """0.82 against 0.835 on the same 4,000 entities is sure; split between them it is not."""
    plan = Plan(metrics=(MetricPlan(name="right", kind="ratio", measure="correct"),))
    analysis, decision = judge(plan, pairs(champion=0.82, challenger=0.835), mode=Mode.SHADOW)
    assert decision.verdict is Verdict.PROMOTE
    assert analysis.current.mismatch is None
    assert analysis.current.effects[0].n == 4_000
    assert judge(plan, phase(champion=0.82, challenger=0.835, entities=4_000))[1].verdict is Verdict.GO_ON


def test_uneven_outcomes_are_warned_of() -> None:
    """Outcomes that come less often for one variant bias what is measured, unless a missing one means 0."""
    plan = Plan(metrics=(CONVERTED.model_copy(update={"missing": "leave_out"}),))
    assert judge(plan, phase())[1].warnings == ()
    assert "may not be alike" in judge(plan, phase(covered=(0.95, 0.9)))[1].warnings[0]
    assert judge(PLAN, phase(covered=(0.95, 0.9)))[1].warnings == ()


def test_what_was_found_once_stays_found() -> None:
    """The always-valid p-value never rises as entities come in."""
    data = phase(challenger=0.12, entities=6_000, seed=5)
    assert isinstance(data.observed, Entities)
    last = 1.0
    for n in range(500, 6_001, 250):
        part = Entities(
            complete_s=data.observed.complete_s[:n],
            challenger=data.observed.challenger[:n],
            sums=tuple(type(one)(one.total[:n], one.count[:n]) for one in data.observed.sums),
        )
        p_value = judge(PLAN, replace(data, observed=part))[0].current.effects[0].p_value
        assert p_value <= last * (1 + 1e-9)
        last = p_value
    assert last < 1.0


def test_segments_hold_together() -> None:
    """A difference in one segment is found, with intervals as wide as three segments ask for."""
    data = phase(entities=20_000)
    assert isinstance(data.observed, Entities)
    codes, which = data.observed.segments[0].codes, data.observed.challenger
    raised = np.where((codes == 1) & which & (np.random.default_rng(7).random(20_000) < 0.1), 1.0, 0.0)
    sums = type(data.observed.sums[0])(np.maximum(data.observed.sums[0].total, raised), np.ones(20_000))
    observed = Entities(data.observed.complete_s, which, (sums,), data.observed.segments)
    analysis, _ = judge(PLAN, replace(data, observed=observed))
    sure = {one.label for one in analysis.current.segments if one.p_value < 0.05}
    assert {one.label for one in analysis.current.segments} == {"DE", "FR", "IT"}
    assert sure == {"FR"}


def test_holm_gives_known_values() -> None:
    """The adjusted values of Holm's procedure, in the order given."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_the_analysis_survives_json() -> None:
    """Machines read it: nothing in it is NaN or an array."""
    analysis, decision = judge(PLAN, phase(entities=150), phase(number=2))
    assert msgspec.json.decode(msgspec.json.encode(analysis), type=Analysis) == analysis
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision


def test_guardrails_see_a_total_failure_within_seconds() -> None:
    """Thirty entities that all failed are enough; five good ones are not a breach."""
    plan, rng = GuardrailPlan(name="failed"), np.random.default_rng(0)
    fine = independent(30, 0.0, rng)
    result = check_guardrail(plan, Guarded(fine, independent(30, 1.0, rng)), alpha=0.05, planned=10_000)
    assert result.state is GuardState.BREACHED
    assert check_guardrail(plan, Guarded(fine, fine), alpha=0.05, planned=10_000).state is GuardState.HELD
    few = independent(5, 1.0, rng)
    assert check_guardrail(plan, Guarded(fine, few), alpha=0.05, planned=10_000).state is GuardState.WAITING


def test_one_entity_that_asks_often_breaches_nothing() -> None:
    """A thousand failures of one entity are one entity's."""
    plan = GuardrailPlan(name="failed", worse_by_at_most=0.0)
    champion = BadShare.of(np.full(200, 10.0), np.zeros(200))
    counts = np.full(200, 10.0)
    counts[0] = 1_000
    loud = BadShare.of(counts, np.where(counts > 10, counts, 0.0))
    spread = BadShare.of(np.full(200, 15.0), np.full(200, 5.0))
    assert check_guardrail(plan, Guarded(champion, loud), alpha=0.05, planned=10_000).state is GuardState.HELD
    assert check_guardrail(plan, Guarded(champion, spread), alpha=0.05, planned=10_000).state is GuardState.BREACHED


def test_an_absolute_bound_needs_no_champion() -> None:
    """A share that is surely above the bound breaches, whatever the champion does."""
    plan, rng = GuardrailPlan(name="failed", at_most=0.05, worse_by_at_most=None), np.random.default_rng(0)
    both = independent(3_000, 0.1, rng)
    assert check_guardrail(plan, Guarded(both, both), alpha=0.05, planned=10_000).state is GuardState.BREACHED
