"""`kill -9` at any point, then the same command again: the result is that of a run nobody disturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from tests.batch import tables
from tests.conftest import ROOT, wait_for
from zaphod.registry import Registry

pytestmark = pytest.mark.fault

NUM_FAULTS = int(os.environ.get("ZAPHOD_FAULTS", "3"))

# Each with how often it comes in the run of `write_input`.
STEPS = {
    "staging": 1, "rows": 19, "unit": 6, "scored": 1, "publishing": 1, "listed": 1, "described": 1, "sealed": 1,
    "renamed": 1, "published": 1,
}  # fmt: skip
NAMED = [
    ("staging", 1), ("rows", 2), ("rows", 11), ("unit", 1), ("scored", 1), ("publishing", 1), ("described", 1),
    ("sealed", 1), ("renamed", 1), ("published", 1),
]  # fmt: skip


def write_input(home: Path) -> None:
    """Six units; the first row of the second file cannot be scored."""
    tables.write_input(home / "input")
    rows = tables.frame(200, seed=1)
    rows.loc[0, "amount"] = float("inf")
    tables.write_file(home / "input/part-1.parquet", rows)


def command(home: Path, registry: Registry, *, step: str = "any", count: int = 0) -> list[str]:
    """The driver in a process of its own."""
    return [sys.executable, "-m", "tests.batch.driver", str(home), registry.uri, step, str(count)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> tuple[Path, dict[str, str]]:
    """The input, and the content of a run over it that nobody disturbed."""
    home = tmp_path_factory.mktemp("undisturbed")
    write_input(home)
    outcome = tables.run(tables.make_settings(home, registry))
    return home / "input", tables.content(Path(outcome.predictions).parent)


@pytest.fixture
def expected(tmp_path: Path, undisturbed: tuple[Path, dict[str, str]]) -> dict[str, str]:
    """The same input in this test's folder: a link, for the run's id knows the files' times."""
    (tmp_path / "input").symlink_to(undisturbed[0])
    return undisturbed[1]


def readable(home: Path) -> list[Path]:
    """The runs that a reader can find."""
    return sorted((home / "output" / "runs").glob("*"))


def check_whole(home: Path, expected: dict[str, str]) -> None:
    """What a reader of another make finds: every row once, in the predictions or in the rejects, and the same bytes."""
    (run,) = readable(home)
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT id, count(*) FROM (SELECT id FROM '{run}/predictions/*.parquet' UNION ALL "  # noqa: S608  # ours
            f"SELECT id FROM '{run}/rejects/*.parquet') GROUP BY id"
        ).fetchall()
        rejected = connection.execute(f"SELECT id FROM '{run}/rejects/*.parquet'").fetchall()  # noqa: S608  # as above
    assert dict(found) == {f"{seed}-{i}": 1 for seed in range(3) for i in range(200)}
    assert rejected == [("1-0",)]
    assert tables.content(run) == expected


def in_work(home: Path) -> bool:
    """Whether the kill fell on a run that had begun and was not published."""
    staged = list((home / "output/.staging").glob("multiclass-*/*"))
    return bool(staged) and readable(home) == []


def amid_a_unit(home: Path) -> bool:
    """Whether a file was growing when the process died."""
    return bool(list((home / "output/.staging").glob("*/growing/*.part")))


class Reader:
    """Looks at the output all the time, as a consumer would: there is no run, or there is the whole run."""

    def __init__(self, home: Path, expected: dict[str, str]) -> None:
        self._home = home
        self._expected = set(expected) | {"manifest.json"}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.looks = 0
        self.halves: list[set[str]] = []

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(0.002):
            for run in readable(self._home):
                seen = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
                if seen != self._expected:
                    self.halves.append(seen)
            self.looks += 1


@pytest.mark.parametrize(("step", "count"), NAMED)
def test_a_kill_at_a_named_point_loses_nothing(
    tmp_path: Path, registry: Registry, expected: dict[str, str], step: str, count: int
) -> None:
    """Readers see no run or the whole run after the kill, and the whole run after the next start."""
    killed = subprocess.run(command(tmp_path, registry, step=step, count=count), cwd=ROOT, timeout=110)
    assert killed.returncode == -signal.SIGKILL
    if step in ("renamed", "published"):
        check_whole(tmp_path, expected)
    else:
        assert readable(tmp_path) == []
        assert list((tmp_path / "output/.staging").iterdir())
    assert amid_a_unit(tmp_path) == (step == "rows")

    outcome = tables.run(tables.make_settings(tmp_path, registry))

    check_whole(tmp_path, expected)
    assert outcome.unchanged == (step in ("renamed", "published"))
    assert list((tmp_path / "output/.staging").glob("*/*")) == []
    assert (tmp_path / "output/current.json").exists()


def test_finished_units_are_not_done_again(tmp_path: Path, registry: Registry, expected: dict[str, str]) -> None:
    """Their files are the very files that the killed run wrote."""
    subprocess.run(command(tmp_path, registry, step="unit", count=3), cwd=ROOT, timeout=110)
    before = {path.name: path.stat().st_ino for path in (tmp_path / "output").glob(".staging/*/run/predictions/*")}
    assert len(before) == 3

    outcome = tables.run(tables.make_settings(tmp_path, registry))

    after = {path.name: path.stat().st_ino for path in Path(outcome.predictions).iterdir()}
    assert before.items() <= after.items()
    assert outcome.manifest.timing.resumed_units == 3
    check_whole(tmp_path, expected)


@pytest.mark.timeout(3_600)
def test_kills_anywhere(tmp_path: Path, registry: Registry, undisturbed: tuple[Path, dict[str, str]]) -> None:
    """At a named step or at any moment, some of them twice; most kills hit a run in work, and some a growing file."""
    rng = random.Random(NUM_FAULTS)
    source, expected = undisturbed
    hits: Counter[str] = Counter()
    fault = 0
    while fault < NUM_FAULTS:
        home = tmp_path / f"{fault}-{hits['too late']}"
        home.mkdir()
        (home / "input").symlink_to(source)
        with Reader(home, expected) as reader:
            # The first is amid a file, so that even a short run of this test has hit one.
            for _ in range(rng.choice((1, 1, 1, 2))):
                step = rng.choice(list(STEPS)) if fault else "rows"
                named = fault == 0 or rng.random() < 0.5
                if not _kill(home, registry, rng, step=step if named else None):
                    hits["too late"] += 1  # once more, elsewhere
                    assert hits["too late"] <= 10 + NUM_FAULTS
                    break
                hits["in work"] += in_work(home)
                hits["amid a unit"] += amid_a_unit(home)
                hits["named" if named else "any moment"] += 1
            else:
                fault += 1
            tables.run(tables.make_settings(home, registry))
        check_whole(home, expected)
        assert reader.halves == []
        assert reader.looks > 0
    print(f"{NUM_FAULTS} runs: {dict(hits)}")  # noqa: T201  # what the run hit, for whoever counts
    assert hits["amid a unit"] > 0
    assert hits["in work"] > NUM_FAULTS // 2


def _kill(home: Path, registry: Registry, rng: random.Random, *, step: str | None) -> bool:
    """At a step that may have passed already in an earlier start, or after a time; False when that was too long."""
    if step is not None:
        count = rng.randint(1, STEPS[step])
        subprocess.run(command(home, registry, step=step, count=count), cwd=ROOT, timeout=110)
        return True
    staging = home / "output" / ".staging"
    process = subprocess.Popen(command(home, registry), cwd=ROOT)
    wait_for(lambda: staging.exists() or process.poll() is not None, timeout_s=110)
    time.sleep(rng.random() * 0.6)  # the moment is the point here
    process.kill()
    return process.wait(timeout=60) == -signal.SIGKILL and not readable(home)
