"""What the statistics found, for the verdict, the report and machines: everything in it becomes JSON."""

from __future__ import annotations

import enum

import msgspec

from zaphod.experiment.samples import Exposed, Outcomes
from zaphod.experiment.spec import Mode
from zaphod.reporting.interval import Interval


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """The effect as it stood when `n` entities of both variants were complete."""

    at_s: float
    n: int
    effect: Interval


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one phase. effect: challenger less champion, in the metric's units.

    n: entities of both variants together; where both score all, each once.
    usable: the smallest numbers are reached, so that the interval holds. p_value: always valid, so it never rises.
    relative: the effect over the champion's level. variance_kept: what a covariate left of the variance; 1 without one.
    needed: entities of both variants together at which the effect, if it stays, leaves the bound of a promotion or of a
    roll-back behind; None when that is out of reach. looks: at most some hundred.
    """

    metric: str
    n: int
    n_champion: int
    n_challenger: int
    champion: float | None
    challenger: float | None
    effect: Interval
    relative: Interval
    usable: bool
    p_value: float
    variance_kept: float
    needed: int | None
    looks: tuple[Look, ...]


class SegmentEffect(msgspec.Struct, frozen=True, kw_only=True):
    """The first metric in one segment. effect and p_value are corrected for the number of segments looked at."""

    field: str
    label: str
    n_champion: int
    n_challenger: int
    effect: Interval
    p_value: float


class GuardState(enum.StrEnum):
    """Held: no breach is shown. Breached: it is sure."""

    WAITING = "waiting"
    HELD = "held"
    BREACHED = "breached"


class GuardrailResult(msgspec.Struct, frozen=True, kw_only=True):
    """One guardrail of one phase. difference: challenger's share less the champion's, bounded from below alone.

    share_low: the challenger's share is surely above this.
    """

    guardrail: str
    state: GuardState
    predictions_champion: int
    predictions_challenger: int
    champion: float
    challenger: float
    difference: Interval
    share_low: float | None
    reason: str


class MismatchState(enum.StrEnum):
    """What the check of the split says."""

    SOUND = "sound"
    WARN = "warn"
    STOP = "stop"


class Mismatch(msgspec.Struct, frozen=True, kw_only=True):
    """Entities of each variant against the planned shares."""

    state: MismatchState
    champion: int
    challenger: int
    planned_share: float
    crossed: int
    chi_squared_p: float
    sequential_p: float
    reason: str


class PhaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one phase. effects, guardrails: one for each of the plan's. mismatch: None where all are asked.

    decides: this is the phase that may promote. rate_per_s: complete entities, lately.
    """

    number: int
    share: float
    started_s: float
    decides: bool
    exposure: tuple[Exposed, ...]
    unnamed: int
    unusable: int
    keys: int
    effects: tuple[Effect, ...]
    segments: tuple[SegmentEffect, ...]
    guardrails: tuple[GuardrailResult, ...]
    mismatch: Mismatch | None
    outcomes: Outcomes
    coverage_p: float
    rate_per_s: float | None


class Analysis(msgspec.Struct, frozen=True, kw_only=True):
    """All phases, each for itself; the last one runs. now_s: when the data was read, seconds since the epoch."""

    mode: Mode
    now_s: float
    phases: tuple[PhaseResult, ...]

    @property
    def current(self) -> PhaseResult:
        """The phase that runs."""
        return self.phases[-1]
