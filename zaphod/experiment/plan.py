"""What an experiment is to find out, and when it may decide: fixed before it starts."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from zaphod.settings import Settings

Share = Annotated[float, pydantic.Field(ge=0.0, le=1.0)]


class MetricPlan(Settings):
    """One number by which champion and challenger are compared. One observation is one entity."""

    name: str = pydantic.Field(min_length=1, max_length=80)
    """For people, and unique."""

    kind: Literal["proportion", "mean", "ratio"] = "mean"
    """`proportion`: the share of entities with a total above 0. `mean`: the total of an entity, on average. `ratio`:
    all totals over all counts, as for a share of predictions."""

    measure: Literal["outcome", "correct", "absolute_error", "squared_error"] = "outcome"
    """What is added up for an entity: the outcome itself, whether the label given was the outcome, or how far the
    prediction was from it. Only the last three compare a challenger whose answers nobody was given."""

    field: str = "outcome"
    """The field of the outcome that holds the number."""

    per: str | None = None
    """The field of the outcome that a ratio divides by. By default its predictions are counted."""

    higher_is_better: bool = True
    """False for errors, costs and complaints."""

    margin: pydantic.NonNegativeFloat = 0.0
    """How much worse the challenger may be and still be promoted, in the metric's units. 0: it must be better."""

    missing: Literal["leave_out", "zero"] = "leave_out"
    """A prediction without an outcome when its window is over is left out, or counts as 0: nobody clicked."""

    covariate: str | None = None
    """A numeric field of the model, known before the experiment acts, that explains the outcome: it makes intervals
    narrower. Of the entity's first prediction in the phase. Not for ratios."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> MetricPlan:
        if self.per is not None and self.kind != "ratio":
            raise ValueError(f"Expected `per` with a ratio only, got it with a {self.kind}")
        if self.covariate is not None and self.kind == "ratio":
            raise ValueError("Expected a covariate with a proportion or a mean, got it with a ratio")
        return self


class GuardrailPlan(Settings):
    """A share of requests that the challenger must not raise. Breached, the challenger is rolled back."""

    name: str = pydantic.Field(min_length=1, max_length=80)
    """For people, and unique."""

    bad: Literal["failed", "slow"] = "failed"
    """Which predictions count: those that failed, or those that took longer than `objective_ms`."""

    objective_ms: pydantic.PositiveFloat | None = None
    """Of `slow`: longer than this is slow."""

    at_most: Share | None = None
    """The challenger's share must not surely be above this, whatever the champion's is."""

    worse_by_at_most: Share | None = 0.0
    """The challenger's share must not surely be above the champion's by more than this."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> GuardrailPlan:
        if (self.objective_ms is None) == (self.bad == "slow"):
            raise ValueError(f"Expected objective_ms with `slow` only, got {self.objective_ms} with `{self.bad}`")
        if self.at_most is None and self.worse_by_at_most is None:
            raise ValueError("Expected at_most or worse_by_at_most, got neither")
        return self


class MismatchPlan(Settings):
    """When a split that is not the planned one is spoken of, and when it ends the experiment."""

    warn_below: float = pydantic.Field(default=0.001, gt=0.0, lt=1.0)
    """A chi-squared test's p-value under this warns, and nothing is promoted."""

    stop_below: float = pydantic.Field(default=0.0001, gt=0.0, lt=1.0)
    """The always-valid p-value under this rolls back: at any number of looks, a sound split is stopped this rarely."""

    crossed_at_most: Share = 0.0
    """More of the entities than this with answers of both variants within one phase roll back as well."""


class Plan(Settings):
    """configs/experiment.yaml: how an experiment is measured, and what it takes to decide."""

    metrics: tuple[MetricPlan, ...] = pydantic.Field(min_length=1, max_length=10)
    """Each must be better, or not worse by more than its margin, for a promotion; one that is surely worse is enough to
    roll back."""

    guardrails: tuple[GuardrailPlan, ...] = (
        GuardrailPlan(name="failed predictions", bad="failed", worse_by_at_most=0.001),
    )
    """What must not get worse while the experiment runs."""

    mismatch: MismatchPlan = MismatchPlan()
    """The check of the split itself."""

    alpha: float = pydantic.Field(default=0.05, gt=0.0, lt=0.5)
    """How often, at most, an experiment may find a difference where there is none, however often one looks. Shared by
    the metrics, and likewise by the guardrails."""

    planned_entities: int = pydantic.Field(default=10_000, ge=200)
    """About how many entities the decision may need: intervals are narrowest there, and valid everywhere."""

    min_entities: int = pydantic.Field(default=100, ge=100)
    """Complete entities of each variant before anything is decided by a metric. Under 100 the intervals do not hold."""

    max_entities: int | None = pydantic.Field(default=None, ge=200)
    """With so many complete entities of both variants together and no decision, the experiment is inconclusive."""

    smallest_effect: pydantic.PositiveFloat | None = None
    """In the first metric's units: surely no effect as large as this left, the experiment is inconclusive."""

    promote_from_share: float = pydantic.Field(default=0.5, gt=0.0, le=1.0)
    """The first phase that gives the challenger at least this share decides about promotion; earlier ones can only roll
    back."""

    outcome_window_s: pydantic.PositiveFloat = 3600.0
    """How long after a prediction its outcome may come. Younger predictions are left out, later outcomes ignored."""

    entity_window_s: pydantic.NonNegativeFloat = 3600.0
    """An entity's predictions in this long from its first one of the phase are its one observation, which is complete,
    and counted, when the outcome window of the last of them is over. 0: its first prediction alone."""

    segments: tuple[str, ...] = pydantic.Field(default=(), max_length=10)
    """Fields of the model by whose values the effect is shown, with a correction for their number."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> Plan:
        for what, names in (
            ("metrics", [one.name for one in self.metrics]),
            ("guardrails", [one.name for one in self.guardrails]),
            ("segments", list(self.segments)),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"Expected {what} of different names, got {names}")
        if self.max_entities is not None and self.max_entities < 2 * self.min_entities:
            raise ValueError(
                f"Expected max_entities of at least twice min_entities ({self.min_entities}), got {self.max_entities}"
            )
        return self
