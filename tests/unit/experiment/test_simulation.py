"""Simulated experiments keep what the procedure promises; ZAPHOD_SIMULATED_RUNS makes it thorough."""

from __future__ import annotations

import math
import os

import pytest

from zaphod.experiment.sequences import Sequence
from zaphod.experiment.simulation import Rates, World, simulate

RUNS = int(os.environ.get("ZAPHOD_SIMULATED_RUNS", "300"))
ALPHA = 0.05


def rates(world: World) -> Rates:
    """Over RUNS experiments in this world."""
    sequence = Sequence(alpha=ALPHA, planned=world.entities)
    return Rates.of(list(simulate(world, sequence=sequence, runs=RUNS, seed=20261124)))


@pytest.mark.parametrize(
    "world",
    [
        World("proportion", entities=4_000),
        World("one in a hundred", champion=0.01, challenger=0.01, entities=4_000),
        World("sales, 5 % share", kind="mean", champion=1.0, challenger=1.0, sigma=1.5, share=0.05, entities=4_000),
        World("several predictions an entity", kind="ratio", events=5, icc=0.2, entities=3_000),
        World("with a covariate", kind="mean", champion=1.0, challenger=1.0, correlation=0.7, entities=4_000),
        World(
            "few buyers, a covariate, 5 % share",
            kind="mean",
            champion=1.0,
            challenger=1.0,
            buyers=0.05,
            correlation=0.0,
            share=0.05,
            entities=4_000,
        ),
    ],
    ids=lambda world: world.name,
)
def test_no_more_false_alarms_than_alpha_however_often_one_looks(world: World) -> None:
    """With a look every ten entities, A/A experiments find a difference in at most alpha of the runs."""
    found = rates(world)
    assert found.found <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)
    assert found.covered == pytest.approx(1 - found.found)


def test_the_fixed_sample_test_does_not_stand_many_looks() -> None:
    """The same looks with a z-test find a difference that is not there in a third of the runs: the tests can fail."""
    assert rates(World("proportion", entities=4_000)).naive_found > 0.3


def test_a_real_effect_is_found_and_covered() -> None:
    """0.10 against 0.13 is found in most runs well before the planned end, on the right side, and stays inside."""
    found = rates(World("better", challenger=0.13))
    assert found.found >= 0.93
    assert found.wrong_sign == 0
    assert found.covered >= 1 - ALPHA - 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)
    assert found.stopped is not None
    assert found.stopped < 5_000
