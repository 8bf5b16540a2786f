"""Old runs and what dead jobs have left are removed; nothing that anybody still needs is."""

from __future__ import annotations

import datetime
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from batch.commit import Staging
from batch.lookup import app
from batch.retention import Garbage, Run, find_garbage, old_runs, remove
from tests.batch import tables
from tests.conftest import ROOT
from zaphod.lookup import PublishedPredictions
from zaphod.registry import Registry

NOW = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)


def days_ago(days: float) -> datetime.datetime:
    """Before a fixed moment."""
    return NOW - datetime.timedelta(days=days)


def in_an_hour() -> datetime.datetime:
    """A moment before which everything has happened."""
    return datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)


def output(home: Path) -> str:
    """Of `tables.make_settings`."""
    return str(home / "output")


def collect(home: Path, *, keep: int = 1) -> list[tuple[str, bool]]:
    """Removes whatever its age; what went, and whether it was published."""
    garbage = find_garbage(output(home), keep=keep, before=in_an_hour())
    return [(each.run_id, each.is_published) for each in garbage if remove(output(home), each)]


def runs(home: Path) -> list[str]:
    """What readers see, the current one first."""
    return [run.run_id for run in PublishedPredictions.open(output(home)).runs()]


def publish(home: Path, registry: Registry, *, num_rows: int, **changes: object) -> str:
    """One run more, of a file that was not there before."""
    (home / "input").mkdir(exist_ok=True)
    number = len(list((home / "input").iterdir()))
    tables.write_file(home / f"input/part-{number}.parquet", tables.frame(num_rows, seed=number))
    return tables.run(tables.make_settings(home, registry, **changes)).manifest.run_id


def leave(home: Path, registry: Registry) -> str:
    """A job that dies amid its work; its run's id."""

    def die(step: str) -> None:
        if step == "unit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.run(tables.make_settings(home, registry, batch_rows=39), on_step=die)
    (left,) = (path.name for path in (home / "output/.staging").iterdir() if path.is_dir())
    return left


def test_the_newest_the_current_and_the_young_stay() -> None:
    """Samples do not count among the newest, and one whole run stays in any case."""
    known = [Run(f"r{days}", days_ago(days)) for days in (1, 10, 20, 40, 50)]
    known.append(Run("sample", days_ago(45), is_sample=True))

    def gone(**words: object) -> list[str]:
        defaults: dict[str, object] = {"keep": 2, "current": None, "before": days_ago(0)}
        return [run.run_id for run in old_runs(known, **defaults | words)]  # type: ignore[arg-type]

    assert gone() == ["r50", "sample", "r40", "r20"]
    assert gone(current="r40") == ["r50", "sample", "r20"]
    assert gone(before=days_ago(30)) == ["r50", "sample", "r40"]
    assert gone(keep=0) == ["r50", "sample", "r40", "r20", "r10"]


def test_old_runs_and_abandoned_staging_go(tmp_path: Path, registry: Registry) -> None:
    """What is left is the newest run, whole."""
    first = publish(tmp_path, registry, num_rows=200)
    abandoned = leave(tmp_path, registry)
    last = publish(tmp_path, registry, num_rows=100)
    before = tables.content(tmp_path / "output/runs" / last)

    assert sorted(collect(tmp_path)) == sorted([(first, True), (abandoned, False)])

    assert runs(tmp_path) == [last]
    assert tables.content(tmp_path / "output/runs" / last) == before
    assert list((tmp_path / "output/.staging").iterdir()) == []
    assert collect(tmp_path) == []


def test_an_incremental_run_keeps_what_it_was_given(tmp_path: Path, registry: Registry) -> None:
    """Its base may go: the files are its own as well. And the next one carries over from it as ever."""
    first = publish(tmp_path, registry, num_rows=200, incremental=True)
    second = publish(tmp_path, registry, num_rows=200, incremental=True)
    before = tables.content(tmp_path / "output/runs" / second)

    assert collect(tmp_path) == [(first, True)]

    assert tables.content(tmp_path / "output/runs" / second) == before
    (tmp_path / "input/part-1.parquet").rename(tmp_path / "input/part-2.parquet")
    carried = tables.run(tables.make_settings(tmp_path, registry, incremental=True)).manifest.timing.carried_units
    assert carried == 2


def test_what_a_job_works_on_stays(tmp_path: Path, registry: Registry) -> None:
    """Its lock says so, to the search and to the removal, and the job ends as it would have."""
    publish(tmp_path, registry, num_rows=200)
    found: list[object] = []

    def look(step: str) -> None:
        if step == "scored":
            (staged,) = (path.name for path in (tmp_path / "output/.staging").iterdir() if path.is_dir())
            found.append(find_garbage(output(tmp_path), keep=1, before=in_an_hour()))
            found.append(remove(output(tmp_path), Garbage(staged, NOW, is_published=False)))

    settings = tables.make_settings(tmp_path, registry, batch_rows=39)
    outcome = tables.run(settings, on_step=look)

    assert found == [[], False]
    assert runs(tmp_path)[0] == outcome.manifest.run_id


def test_the_current_run_is_not_removed_when_it_became_so_late(tmp_path: Path, registry: Registry) -> None:
    """A job that finds its old run finished makes it current again, after it was found to be garbage."""
    first = publish(tmp_path, registry, num_rows=200)
    publish(tmp_path, registry, num_rows=200)
    (garbage,) = find_garbage(output(tmp_path), keep=1, before=in_an_hour())
    assert garbage.run_id == first
    Staging.open(output(tmp_path), first).make_current()

    assert not remove(output(tmp_path), garbage)
    assert runs(tmp_path)[0] == first


def test_a_removal_that_is_killed_leaves_readers_well(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is gone for them, whole; what is left of it goes next time, and the same job may run again."""
    first = publish(tmp_path, registry, num_rows=200)
    second = publish(tmp_path, registry, num_rows=200)

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "clean", die)
        with pytest.raises(KeyboardInterrupt):
            collect(tmp_path)
    assert runs(tmp_path) == [second]
    assert PublishedPredictions.open(output(tmp_path)).newest("0-3").run_id == second

    assert collect(tmp_path) == [(first, False)]
    assert list((tmp_path / "output/.staging").iterdir()) == []
    (tmp_path / "input/part-1.parquet").unlink()
    assert tables.run(tables.make_settings(tmp_path, registry)).manifest.run_id == first


def test_a_kill_amid_the_removal(tmp_path: Path, registry: Registry) -> None:
    """`kill -9` when half of the files are gone: the same."""
    first = publish(tmp_path, registry, num_rows=200)
    second = publish(tmp_path, registry, num_rows=200)
    code = (
        "import datetime, os, signal, sys\n"
        "from batch.retention import find_garbage, remove\n"
        "unlink = os.unlink\n"
        "def die(*words, **more):\n"
        "    unlink(*words, **more)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.unlink = die\n"
        "before = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)\n"
        "[remove(sys.argv[1], each) for each in find_garbage(sys.argv[1], keep=1, before=before)]\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, output(tmp_path)], cwd=ROOT, timeout=60)
    assert killed.returncode == -signal.SIGKILL

    assert runs(tmp_path) == [second]
    assert collect(tmp_path) == [(first, False)]
    assert list((tmp_path / "output/.staging").iterdir()) == []


def test_the_command_says_before_it_does(tmp_path: Path, registry: Registry) -> None:
    """A dry run by default, and nothing younger than a month."""
    first = publish(tmp_path, registry, num_rows=200)
    abandoned = leave(tmp_path, registry)
    second = publish(tmp_path, registry, num_rows=100)

    def gc(*words: str) -> str:
        done = CliRunner().invoke(app, ["gc", "--output", output(tmp_path), "--keep", "1", *words])
        assert done.exit_code == 0, done.output
        return done.output

    assert gc() == gc("--delete") == ""
    said = gc("--older-than-days", "0")
    assert f"would remove {first} (published" in said
    assert f"would remove {abandoned} (never finished, last written" in said
    assert runs(tmp_path) == [second, first]
    month_ago = time.time() - 31 * 86_400
    for path in (tmp_path / "output/.staging").rglob("*"):
        os.utime(path, (month_ago, month_ago))
    assert gc("--delete").startswith(f"removed {abandoned}")
    assert gc("--older-than-days", "0", "--delete").startswith(f"removed {first}")
    assert runs(tmp_path) == [second]
    shutil.rmtree(tmp_path / "output")
    assert gc("--older-than-days", "0") == ""
