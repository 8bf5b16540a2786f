"""How often an experiment is wrong, and how often it finds what is there, with a look every ten entities.

python -m benchmarks.bench_experiments

Each row is one world, simulated 10,000 times through the functions that judge real experiments. `found` is the share of
runs in which the interval left 0 out at some look: the error rate in A/A worlds, the power in A/B worlds. `fixed test`
is the same for a z-test at 5 % that is looked at as often. `covered` is the share of runs whose interval held the true
effect at every look. `stops at` is the median number of entities, of both variants together, at which it was found.

Also: guardrails on entities that ask again and again, looked at 100 times, and the check of a sound split at every 100
entities. Not measured: anything of a real model or of traffic; worlds differ from yours.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import track

from zaphod.experiment.mismatch import chi_squared_p, sequential_p
from zaphod.experiment.sequences import Sequence
from zaphod.experiment.simulation import Rates, World, guardrail_alarms, simulate

ALPHA = 0.05
PLANNED = 10_000
SEED = 20261124

WORLDS = (
    World("A/A, 1 in 10"),
    World("A/A, 1 in 2", champion=0.5, challenger=0.5),
    World("A/A, 1 in 100", champion=0.01, challenger=0.01),
    World("A/A, 1 in 10, share 5 %", share=0.05),
    World("A/A, sales", kind="mean", champion=1.0, challenger=1.0),
    World("A/A, sales, heavy tail, share 5 %", kind="mean", champion=1.0, challenger=1.0, sigma=1.5, share=0.05),
    World("A/A, sales, covariate r = 0.7", kind="mean", champion=1.0, challenger=1.0, correlation=0.7),
    World(
        "A/A, 1 in 20 buys, covariate, share 5 %",
        kind="mean",
        champion=1.0,
        challenger=1.0,
        sigma=2.0,
        buyers=0.05,
        correlation=0.0,
        share=0.05,
    ),
    World("A/A, 5 predictions each, ICC 0.2", kind="ratio", champion=0.2, challenger=0.2, events=5, icc=0.2),
    World("A/B, 0.10 to 0.12", challenger=0.12),
    World("A/B, 0.10 to 0.13", challenger=0.13),
    World("A/B, sales + 10 %", kind="mean", champion=1.0, challenger=1.1),
    World("A/B, sales + 10 %, covariate r = 0.7", kind="mean", champion=1.0, challenger=1.1, correlation=0.7),
    World("A/B, 5 predictions each, 0.20 to 0.22", kind="ratio", champion=0.2, challenger=0.22, events=5, icc=0.2),
)


def main(
    runs: Annotated[int, typer.Option(help="simulated experiments in each world")] = 10_000,
    world: Annotated[list[str] | None, typer.Option(help="only worlds with this in their name; several may be")] = None,
) -> None:
    """Prints a line as soon as its world is done."""
    console = Console()
    console.print(
        f"{'world':40}{'runs':>8}{'found':>9}{'fixed test':>12}{'covered':>9}{'wrong sign':>12}{'stops at':>10}",
        soft_wrap=True,
    )
    for one in WORLDS:
        if world is None or any(part in one.name for part in world):
            experiments = simulate(one, sequence=Sequence(alpha=ALPHA, planned=PLANNED), runs=runs, seed=SEED)
            _say(console, one, Rates.of(list(track(experiments, description=one.name, total=runs, transient=True))))
    if world is None:
        _others(console, max(1, runs // 10))


def _say(console: Console, world: World, rates: Rates) -> None:
    effect = world.effect != 0
    console.print(
        f"{world.name:40}{rates.runs:>8,}{rates.found:>9.2%}{rates.naive_found:>12.2%}{rates.covered:>9.2%}"
        f"{f'{rates.wrong_sign:.2%}' if effect else '':>12}"
        f"{f'{rates.stopped:,.0f}' if effect and rates.stopped is not None else '':>10}",
        highlight=False,
        soft_wrap=True,
    )


def _others(console: Console, fewer: int) -> None:
    for icc in (0.01, 0.2, 0.9):
        alarms = guardrail_alarms(
            runs=fewer, seed=SEED, alpha=ALPHA, entities=300, predictions=10_000, share_bad=0.05, icc=icc, looks=100
        )
        share = sum(track(alarms, description=f"guardrail, ICC {icc}", total=fewer)) / fewer
        console.print(
            f"guardrail, 300 entities, 10,000 predictions, ICC {icc}: breached in {share:.2%} of {fewer:,} runs",
            soft_wrap=True,
        )
    chi, sequential = _splits(fewer)
    console.print(
        f"sound split, 100 looks, {fewer:,} runs: chi-squared under 0.001 in {chi:.2%}, e-value under 0.001 in "
        f"{sequential:.2%}",
        soft_wrap=True,
    )


def _splits(runs: int) -> tuple[float, float]:
    chi = sequential = 0
    for run in track(range(runs), description="sound split"):
        hits = np.cumsum(np.random.default_rng([SEED, run]).binomial(100, 0.5, 100)).tolist()
        counts = [(100 * (i + 1) - one, one) for i, one in enumerate(hits)]
        chi += any(chi_squared_p(one, (0.5, 0.5)) < 0.001 for one in counts)
        sequential += any(sequential_p(one, (0.5, 0.5)) < 0.001 for one in counts)
    return chi / runs, sequential / runs


if __name__ == "__main__":
    typer.run(main)
