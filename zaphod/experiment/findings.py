"""What both reports are made of, and the words they share."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from zaphod.experiment.offline import Offline
from zaphod.experiment.plan import GuardrailPlan, Plan
from zaphod.experiment.results import Analysis
from zaphod.experiment.spec import Experiment
from zaphod.experiment.verdict import Decision, Verdict

MEANINGS = {
    Verdict.PROMOTE: "The challenger is surely good enough by every metric, and nothing speaks against it.",
    Verdict.ROLL_BACK: "Something is surely wrong. The champion should answer everybody again.",
    Verdict.GO_ON: "It is too early to tell. Nothing is wrong with waiting, or with looking again at any time.",
    Verdict.INCONCLUSIVE: "Nothing surely speaks for the challenger, and no more data was planned. The champion stays.",
}
_TITLES = {
    Verdict.PROMOTE: "promote the challenger",
    Verdict.ROLL_BACK: "roll back the challenger",
    Verdict.GO_ON: "go on",
    Verdict.INCONCLUSIVE: "inconclusive",
}


@dataclass(frozen=True, slots=True)
class Findings:
    """One look at an experiment. offline: what the gate had measured; None where it never ran."""

    experiment: Experiment
    plan: Plan
    analysis: Analysis
    decision: Decision
    offline: Offline | None = None

    @property
    def title(self) -> str:
        """The verdict in a few words."""
        return _TITLES[self.decision.verdict]

    def to_json(self) -> bytes:
        """For machines; the plan stands in the experiment."""
        written = _Written(
            experiment=self.experiment, analysis=self.analysis, decision=self.decision, offline=self.offline
        )
        return msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n"


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    experiment: Experiment
    analysis: Analysis
    decision: Decision
    offline: Offline | None


def sentence(reason: str) -> str:
    """With a capital and a full stop."""
    return reason[:1].upper() + reason[1:] + ("" if reason.endswith(".") else ".")


def allowed(plan: GuardrailPlan) -> str:
    """A guardrail's bounds."""
    more = "no" if plan.worse_by_at_most == 0 else f"{plan.worse_by_at_most or 0.0:.2%}"
    bounds = [] if plan.worse_by_at_most is None else [f"{more} more than the champion"]
    bounds += [] if plan.at_most is None else [f"{plan.at_most:.2%} in all"]
    return "; ".join(bounds)
