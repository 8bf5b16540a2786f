"""`kill -9` at any point, then the same command again: the result is that of a run nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.batch import tables
from tests.conftest import ROOT, wait_for
from zaphod.registry import Registry

pytestmark = pytest.mark.fault

NUM_FAULTS = int(os.environ.get("ZAPHOD_FAULTS", "3"))
STEPS = [("staging", 1), ("unit", 1), ("unit", 3), ("scored", 1), ("publishing", 1), ("renamed", 1), ("published", 1)]


def command(home: Path, registry: Registry, *, step: str = "any", count: int = 0) -> list[str]:
    """The driver in a process of its own."""
    return [sys.executable, "-m", "tests.batch.driver", str(home), registry.uri, step, str(count)]


@pytest.fixture
def expected(tmp_path: Path, registry: Registry) -> dict[str, str]:
    """Content of the undisturbed run, made elsewhere from the same files."""
    tables.write_input(tmp_path / "input")
    settings = tables.make_settings(tmp_path, registry, output=str(tmp_path / "undisturbed"))
    return tables.content(Path(tables.run(settings).predictions).parent)


def readable(home: Path) -> list[Path]:
    """The runs that a reader can find, by folder or by pointer."""
    return sorted((home / "output" / "runs").glob("*"))


def check_whole(home: Path, expected: dict[str, str]) -> None:
    """What an independent reader finds: every row once, in files with the expected bytes."""
    (run,) = readable(home)
    assert tables.content(run) == expected
    assert sorted(pd.read_parquet(run / "predictions")["id"]) == sorted(
        f"{seed}-{i}" for seed in range(3) for i in range(200)
    )


@pytest.mark.parametrize(("step", "count"), STEPS)
def test_a_kill_at_a_named_point_loses_nothing(
    tmp_path: Path, registry: Registry, expected: dict[str, str], step: str, count: int
) -> None:
    """Readers see no run or the whole run after the kill, and the whole run after the next start."""
    killed = subprocess.run(command(tmp_path, registry, step=step, count=count), cwd=ROOT, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    if step in ("renamed", "published"):
        check_whole(tmp_path, expected)
    else:
        assert readable(tmp_path) == []
        assert list((tmp_path / "output/.staging").iterdir())

    settings = tables.make_settings(tmp_path, registry)
    outcome = tables.run(settings)

    check_whole(tmp_path, expected)
    assert outcome.unchanged == (step in ("renamed", "published"))
    assert list((tmp_path / "output/.staging").glob("*/*")) == []
    assert (tmp_path / "output/current.json").exists()


def test_finished_units_are_not_done_again(tmp_path: Path, registry: Registry, expected: dict[str, str]) -> None:
    """Their files are the very files that the killed run wrote."""
    subprocess.run(command(tmp_path, registry, step="unit", count=3), cwd=ROOT, timeout=60)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "output").glob(".staging/*/run/predictions/*")}
    assert len(before) == 3

    outcome = tables.run(tables.make_settings(tmp_path, registry))

    after = {path.name: path.stat().st_ino for path in Path(outcome.predictions).iterdir()}
    assert before.items() <= after.items()
    assert outcome.manifest.timing.resumed_units == 3
    check_whole(tmp_path, expected)


def test_kills_at_random_moments(tmp_path: Path, registry: Registry, expected: dict[str, str]) -> None:
    """Killed at any moment, again and again, until a start gets through; at least one kill hit a run in flight."""
    rng = random.Random(NUM_FAULTS)
    in_flight = 0
    for fault in range(NUM_FAULTS):
        home = tmp_path / str(fault)
        home.mkdir()
        (home / "input").symlink_to(tmp_path / "input")
        staging = home / "output" / ".staging"
        process = subprocess.Popen(command(home, registry), cwd=ROOT)
        wait_for(lambda process=process, staging=staging: staging.exists() or process.poll() is not None)  # type: ignore[misc]
        time.sleep(rng.random() * 0.5)  # the moment is the point here
        process.kill()
        process.wait(timeout=10)
        in_flight += process.returncode == -signal.SIGKILL and readable(home) == []
        tables.run(tables.make_settings(home, registry))
        check_whole(home, expected)
    assert in_flight
