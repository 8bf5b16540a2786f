"""Does the procedure hold what it says? Simulated experiments through the very functions that judge real ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zaphod.experiment.estimates import Kind, of_arms
from zaphod.experiment.guardrails import check_guardrail
from zaphod.experiment.plan import GuardrailPlan
from zaphod.experiment.results import GuardState
from zaphod.experiment.samples import BadShare, Guarded, Sums
from zaphod.experiment.sequences import Sequence

_NAIVE_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class World:
    """What entities do. champion, challenger: probability of a success for a proportion and a ratio, mean for a mean.

    A mean's values are log-normal with `sigma`, as sales are; buyers: the share that is not 0.
    events: predictions of an entity, on average; icc: how alike they are, 0 to 1. correlation: of a covariate with a
    mean's logarithm, None without one. share: the challenger's.
    """

    name: str
    kind: Kind = "proportion"
    champion: float = 0.1
    challenger: float = 0.1
    entities: int = 10_000
    share: float = 0.5
    sigma: float = 1.0
    buyers: float = 1.0
    events: int = 1
    icc: float = 0.0
    correlation: float | None = None

    @property
    def effect(self) -> float:
        return self.challenger - self.champion

    def draw(self, rng: np.random.Generator) -> tuple[Sums, NDArray[np.bool_]]:
        """Sums of the entities, and whom the challenger answered: shape (entities,)."""
        challenger = rng.random(self.entities) < self.share
        level: NDArray[np.float64] = np.where(challenger, self.challenger, self.champion)
        count: NDArray[np.float64] = np.ones(self.entities)
        if self.kind == "mean":
            covariate = rng.standard_normal(self.entities)
            mixed = self.correlation or 0.0
            noise = mixed * covariate + math.sqrt(1 - mixed**2) * rng.standard_normal(self.entities)
            total = level * np.exp(self.sigma * noise - self.sigma**2 / 2)
            if self.buyers < 1:
                total *= (rng.random(self.entities) < self.buyers) / self.buyers
            return Sums(total=total, count=count, covariate=None if self.correlation is None else covariate), challenger
        if self.events == 1:
            return Sums(total=(rng.random(self.entities) < level).astype(np.float64), count=count), challenger
        count += rng.poisson(self.events - 1, self.entities)
        strength = 1 / self.icc - 1 if self.icc else math.inf
        chance = rng.beta(level * strength, (1 - level) * strength) if self.icc else level
        total = rng.binomial(count.astype(np.int64), chance).astype(np.float64)
        return Sums(total=total, count=count), challenger


@dataclass(frozen=True, slots=True)
class Run:
    """One simulated experiment. found, naive_found: at some look 0 was outside the interval, ours and the fixed one's.

    covered: at every look the true effect was inside. stopped: entities at the first look that found; None if none did.
    """

    found: bool
    naive_found: bool
    covered: bool
    right_sign: bool
    stopped: int | None


@dataclass(frozen=True, slots=True)
class Rates:
    """Shares of all runs; stopped: median of entities, over the runs that found something."""

    runs: int
    found: float
    naive_found: float
    covered: float
    wrong_sign: float
    stopped: float | None

    @classmethod
    def of(cls, runs: list[Run]) -> Rates:
        stops = [one.stopped for one in runs if one.stopped is not None]
        return cls(
            runs=len(runs),
            found=sum(one.found for one in runs) / len(runs),
            naive_found=sum(one.naive_found for one in runs) / len(runs),
            covered=sum(one.covered for one in runs) / len(runs),
            wrong_sign=sum(one.found and not one.right_sign for one in runs) / len(runs),
            stopped=float(np.median(stops)) if stops else None,
        )


def simulate(
    world: World, *, sequence: Sequence, runs: int, seed: int, look_every: int = 10, fewest: int = 100
) -> Iterator[Run]:
    """Looks every so many entities, from the first look that is usable on."""
    positions = np.arange(look_every, world.entities + 1, look_every)
    for run in range(runs):
        sums, challenger = world.draw(np.random.default_rng([seed, run]))
        estimates = of_arms(world.kind, sums, challenger, positions, fewest=fewest)
        usable = estimates.usable
        effect, se, n = estimates.effect[usable], estimates.se[usable], estimates.n[usable]
        half = sequence.half_width(se, n)
        found = np.flatnonzero(np.abs(effect) > half)
        yield Run(
            found=len(found) > 0,
            naive_found=bool((np.abs(effect) > _NAIVE_Z * se).any()),
            covered=bool((np.abs(effect - world.effect) <= half).all()),
            right_sign=len(found) > 0 and bool(effect[found[0]] * world.effect > 0),
            stopped=int(n[found[0]]) if len(found) else None,
        )


def guardrail_alarms(
    *, runs: int, seed: int, alpha: float, entities: int, predictions: int, share_bad: float, icc: float, looks: int
) -> Iterator[bool]:
    """Whether a guardrail without a cause was breached at some look, for each run.

    Predictions fall on a fixed pool of entities that ask again and again while one looks.
    """
    plan = GuardrailPlan(name="failed", bad="failed")
    ends = np.linspace(0, predictions, looks + 1).astype(np.int64)[1:]
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        challenger = rng.random(entities) < 0.5
        strength = 1 / icc - 1
        chance = rng.beta(share_bad * strength, (1 - share_bad) * strength, entities)
        who = rng.integers(entities, size=predictions)
        bad = rng.random(predictions) < chance[who]
        yield any(_breached(plan, who[:end], bad[:end], challenger, alpha=alpha) for end in ends.tolist())


def _breached(
    plan: GuardrailPlan,
    who: NDArray[np.int64],
    bad: NDArray[np.bool_],
    challenger: NDArray[np.bool_],
    *,
    alpha: float,
) -> bool:
    counts = np.bincount(who, minlength=len(challenger)).astype(np.float64)
    bads = np.bincount(who, weights=bad, minlength=len(challenger)).astype(np.float64)
    champion, other = (
        BadShare.of(counts[one & (counts > 0)], bads[one & (counts > 0)]) for one in (~challenger, challenger)
    )
    result = check_guardrail(plan, Guarded(champion=champion, challenger=other), alpha=alpha, planned=10_000)
    return result.state is GuardState.BREACHED
