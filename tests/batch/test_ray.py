"""The job on real Ray gives what it gives in one process, whoever dies meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import psutil
import pytest
import yaml

from tests.batch import tables
from tests.conftest import ROOT, Server, wait_for
from zaphod import machine
from zaphod.registry import Registry
from zaphod.settings import load_ray_env

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def write_config(home: Path, registry: Registry, **changes: object) -> Path:
    """The settings of `tables.make_settings` as a file."""
    path = home / "batch.yaml"
    settings = tables.make_settings(home, registry, ray_env=str(ROOT / "configs/ray.env"), **changes)
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    return path


def batch(home: Path, *flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`python -m batch` in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "batch", "--config", "batch.yaml", *flags],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )


def undisturbed(home: Path, registry: Registry, **changes: object) -> dict[str, str]:
    """Content of the same run, done in this process."""
    settings = tables.make_settings(home, registry, output=str(home / "undisturbed"), **changes)
    return tables.content(Path(tables.run(settings).predictions).parent)


def result(home: Path) -> dict[str, str]:
    """Content of the one published run."""
    (run,) = (home / "output" / "runs").iterdir()
    return tables.content(run)


def test_alone_it_starts_its_own_ray_and_ends_it(tmp_path: Path, registry: Registry) -> None:
    """One command: the same bytes as in one process, what a person wants to know, and no process left."""
    tables.write_input(tmp_path / "input")
    write_config(tmp_path, registry)
    done = batch(tmp_path, **{machine.MARK: str(tmp_path)})

    assert done.returncode == 0, done.stderr
    assert "600 of 600 rows (100%)" in done.stdout
    assert "rows in 600  out 600  rejected 0" in done.stdout
    folder = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("predictions"))
    assert len(pd.read_parquet(folder)) == 600
    assert result(tmp_path) == undisturbed(tmp_path, registry)
    wait_for(lambda: machine.marked_processes(tmp_path) == [], what="no process left")


def test_a_running_ray_is_joined(tmp_path: Path, registry: Registry, one_cpu: dict[str, str]) -> None:
    """On a cluster with one CPU, half of it reserved by others, the job gets through."""
    tables.write_input(tmp_path / "input")
    write_config(tmp_path, registry)
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD_HALF_A_CPU],
        env={**os.environ, **one_cpu},
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    wait_for(lambda: holder.stdout.readline() == "held\n", what="an actor")  # type: ignore[union-attr]
    try:
        done = batch(tmp_path, **one_cpu)
    finally:
        holder.communicate("end", timeout=30)

    assert done.returncode == 0, done.stderr
    assert result(tmp_path) == undisturbed(tmp_path, registry)


_HOLD_HALF_A_CPU = """
import ray
ray.init(log_to_driver=False)
@ray.remote(num_cpus=0.5)
class Holder:
    def ready(self): return True
holder = Holder.remote()
assert ray.get(holder.ready.remote())
print("held", flush=True)
input()
"""


def test_a_long_job_is_carried_by_ray_data(tmp_path: Path, registry: Registry, one_cpu: dict[str, str]) -> None:
    """The same bytes, in more time."""
    tables.write_input(tmp_path / "input")
    write_config(tmp_path, registry)

    done = batch(tmp_path, "--ray-data-s", "0", **one_cpu)

    assert done.returncode == 0, done.stderr
    assert "600 of 600 rows (100%)" in done.stdout
    assert result(tmp_path) == undisturbed(tmp_path, registry)


def test_a_cluster_without_a_free_cpu_is_told(tmp_path: Path, registry: Registry, one_cpu: dict[str, str]) -> None:
    """A task that asks for more than there is waits no longer than `stall_timeout_s`."""
    tables.write_input(tmp_path / "input")
    write_config(tmp_path, registry, cpus_per_task=8.0, stall_timeout_s=1)

    done = batch(tmp_path, **one_cpu)

    assert done.returncode == 1, done.stdout
    assert "no unit has finished for 1 s" in done.stderr
    assert not (tmp_path / "output" / "runs").exists()


@pytest.mark.fault
def test_a_killed_driver_goes_on_where_it_was(tmp_path: Path, registry: Registry, one_cpu: dict[str, str]) -> None:
    """`kill -9` with units in flight on Ray: no run is visible, and the next start finishes it byte for byte."""
    tables.write_input(tmp_path / "input", num_files=8)
    command = [sys.executable, "-m", "tests.batch.driver", str(tmp_path), registry.uri, "unit", "3", "ray"]
    killed = subprocess.run(command, cwd=ROOT, env={**os.environ, **one_cpu}, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "output" / "runs").exists()
    (staged,) = (tmp_path / "output" / ".staging").glob("multiclass-*/receipts")
    finished = len(list(staged.iterdir()))
    assert 3 <= finished < 16

    write_config(tmp_path, registry)
    done = batch(tmp_path, **one_cpu)

    assert done.returncode == 0, done.stderr
    assert "of 16 units are finished already" in done.stdout
    assert result(tmp_path) == undisturbed(tmp_path, registry)


@pytest.mark.fault
def test_a_killed_worker_is_replaced(tmp_path: Path, registry: Registry, one_cpu: dict[str, str]) -> None:
    """`kill -9` of the process that scores a unit: the unit is done again, once in the output."""
    tables.write_input(tmp_path / "input", num_files=20, num_rows=2_000)
    write_config(tmp_path, registry, unit_rows=2_000, batch_rows=50)
    process, writers = amid_a_unit(tmp_path, one_cpu, worker_processes)
    writers[0].kill()
    process.wait(timeout=120)

    assert process.returncode == 0
    frame = pd.read_parquet(next((tmp_path / "output/runs").iterdir()) / "predictions")
    assert len(frame) == 40_000
    assert frame["id"].is_unique


def worker_processes() -> list[psutil.Process]:
    """Ray's, of any job."""
    return [process for process in psutil.process_iter() if machine.name_of(process).startswith("ray::")]


def amid_a_unit(
    home: Path, environ: Mapping[str, str], find: Callable[[], list[psutil.Process]]
) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """A job of this home that runs, and those of the processes that are writing a unit of it.

    A job that has ended before anybody looked, on a machine that is slow to look, is thrown away and begun again.
    """
    writers: list[psutil.Process] = []
    for _ in range(5):
        shutil.rmtree(home / "output", ignore_errors=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "batch", "--config", "batch.yaml"],
            cwd=home,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            stdout=subprocess.DEVNULL,
        )

        def writing() -> bool:
            growing = {str(path) for path in (home / "output/.staging").glob("*/growing/*.part")}
            writers[:] = [each for each in (find() if growing else ()) if growing & set(open_files(each))]
            return bool(writers)

        wait_for(lambda: writing() or process.poll() is not None, timeout_s=60, what="a unit in work")  # noqa: B023  # called here
        if writers:
            return process, writers
        assert process.returncode == 0
    raise AssertionError("five jobs ended before a unit of theirs was seen in work")


def open_files(process: psutil.Process) -> list[str]:
    """Paths that a process holds open; none when it is gone."""
    try:
        return [file.path for file in process.open_files()]
    except psutil.Error:
        return []


def test_too_many_rejects_end_with_code_two(tmp_path: Path, registry: Registry, one_cpu: dict[str, str]) -> None:
    """The limit stops the job early, in one sentence, and publishes nothing."""
    tables.write_input(tmp_path / "input")
    tables.write_file(tmp_path / "input" / "part-1.parquet", tables.frame(200, seed=1).assign(amount=float("inf")))
    write_config(tmp_path, registry)
    done = batch(tmp_path, "--max-rejected", "10", **one_cpu)

    assert done.returncode == 2, done.stdout
    assert "max_rejected allows" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "output" / "runs").exists()


def submit_job(command: list[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`ray job submit`, until the job has ended."""
    environ = {**os.environ, **load_ray_env(ROOT / "configs/ray.env")}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, cwd=cwd)


def test_beside_a_server_and_submitted_to_it(tmp_path: Path, registry: Registry, server: Server) -> None:
    """From the server's home the job joins its Ray; `ray job submit` takes paths from that home too."""
    mine = server.home / tmp_path.name
    for name in ("beside", "submitted"):
        tables.write_input(mine / name / "input")
        paths = {each: f"{tmp_path.name}/{name}/{each}" for each in ("input", "output")}
        write_config(mine / name, registry, **paths).rename(mine / name / "batch.yaml")
    working_copy = tmp_path / "copy"
    working_copy.mkdir()
    (working_copy / "batch.yaml").write_text((mine / "submitted/batch.yaml").read_text())
    (server.home / "batch.yaml").write_text((mine / "beside/batch.yaml").read_text())

    beside = batch(server.home)
    assert beside.returncode == 0, beside.stderr
    assert result(mine / "beside") == undisturbed(mine / "beside", registry)

    running = machine.read_run_file(server.home / "var" / "run")
    assert running is not None
    submit = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--address", running.dashboard]
    command = [
        *submit,
        "--working-dir",
        str(working_copy),
        "--",
        sys.executable,
        "-m",
        "batch",
        "--config",
        "batch.yaml",
    ]
    submitted = submit_job(command, cwd=tmp_path)
    if (
        "RuntimeEnvSetupError" in submitted.stdout
    ):  # Ray has lost the working folder it was given, as it does now and then
        submitted = submit_job(command, cwd=tmp_path)

    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    assert "rows in 600  out 600  rejected 0" in submitted.stdout
    assert result(mine / "submitted") == undisturbed(mine / "submitted", registry)
