"""An incremental run scores what is new, and is the run that scores everything."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from tests import models
from tests.batch import tables
from zaphod.registry import CHAMPION, Registry


def run(home: Path, registry: Registry, **changes: object) -> tuple[int, int, Path]:
    """Units carried over, units scored, and the run's folder."""
    scored: list[str] = []
    settings = tables.make_settings(home, registry, **({"incremental": True} | changes))
    outcome = tables.run(settings, on_step=scored.append)
    return outcome.manifest.timing.carried_units, scored.count("unit"), Path(outcome.predictions).parent


def whole(home: Path, registry: Registry, **changes: object) -> dict[str, str]:
    """Content of the same run with everything scored."""
    settings = tables.make_settings(home, registry, **({"output": str(home / "whole")} | changes))
    return tables.content(Path(tables.run(settings).predictions).parent)


def test_only_new_and_changed_files_are_scored(tmp_path: Path, registry: Registry) -> None:
    """A new file and a changed one are scored, the others carried over; a removed one is gone; the bytes are those of a
    run that scored all.
    """
    paths = tables.write_input(tmp_path / "input", num_files=4)
    assert run(tmp_path, registry)[:2] == (0, 8)
    tables.write_file(tmp_path / "input" / "part-9.parquet", tables.frame(100, seed=9))
    tables.write_file(paths[1], tables.frame(200, seed=11))
    paths[3].unlink()

    carried, scored, folder = run(tmp_path, registry)

    assert (carried, scored) == (4, 3)
    assert tables.content(folder) == whole(tmp_path, registry)
    ids = pd.read_parquet(folder / "predictions")["id"]
    assert sorted(set(ids.str.split("-").str[0])) == ["0", "11", "2", "9"]


def test_the_run_before_stays_as_it_was(tmp_path: Path, registry: Registry) -> None:
    """Both runs share files; removing one leaves the other."""
    tables.write_input(tmp_path / "input")
    first = run(tmp_path, registry)[2]
    before = tables.content(first)
    tables.write_file(tmp_path / "input" / "part-9.parquet", tables.frame(100, seed=9))
    second = run(tmp_path, registry)[2]

    assert tables.content(first) == before
    for path in sorted(first.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert tables.content(second) == whole(tmp_path, registry)


@pytest.mark.parametrize("change", [{"keep": []}, {"batch_rows": 41}, {"columns": ["label"]}])
def test_another_recipe_scores_all(tmp_path: Path, registry: Registry, change: dict[str, object]) -> None:
    """What other settings gave is not carried over."""
    tables.write_input(tmp_path / "input")
    run(tmp_path, registry)

    assert run(tmp_path, registry, **change)[:2] == (0, 6)


def test_a_new_version_scores_all(tmp_path: Path, registry: Registry) -> None:
    """A run holds the predictions of one version only."""
    registry = models.copy(registry, tmp_path)
    tables.write_input(tmp_path / "input")
    run(tmp_path, registry)
    models.publish_again(registry)
    assert registry.state("multiclass").aliases[CHAMPION] == 2

    carried, scored, folder = run(tmp_path, registry)

    assert (carried, scored) == (0, 6)
    assert set(pd.read_parquet(folder / "predictions")["model_version"]) == {2}


def test_without_the_switch_all_is_scored(tmp_path: Path, registry: Registry) -> None:
    """Nothing is carried over unasked, and a touched file counts as changed."""
    paths = tables.write_input(tmp_path / "input")
    run(tmp_path, registry)
    os.utime(paths[0])

    assert run(tmp_path, registry, incremental=False)[:2] == (0, 6)
    os.utime(paths[0])
    assert run(tmp_path, registry)[:2] == (4, 2)


def test_damaged_results_are_not_carried_over(tmp_path: Path, registry: Registry) -> None:
    """A file of the run before that is gone or cut is scored again."""
    tables.write_input(tmp_path / "input")
    first = run(tmp_path, registry)[2]
    next(iter(sorted((first / "predictions").iterdir()))).unlink()
    tables.write_file(tmp_path / "input" / "part-9.parquet", tables.frame(100, seed=9))

    carried, scored, folder = run(tmp_path, registry)

    assert (carried, scored) == (5, 2)
    assert tables.content(folder) == whole(tmp_path, registry)


def test_a_killed_incremental_run_goes_on(tmp_path: Path, registry: Registry) -> None:
    """What was carried over counts as finished."""
    tables.write_input(tmp_path / "input")
    run(tmp_path, registry)
    tables.write_file(tmp_path / "input" / "part-9.parquet", tables.frame(200, seed=9))

    def stop(step: str) -> None:
        if step == "unit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.run(tables.make_settings(tmp_path, registry, incremental=True), on_step=stop)
    carried, scored, folder = run(tmp_path, registry)

    assert (carried, scored) == (0, 1)
    assert tables.content(folder) == whole(tmp_path, registry)
