"""A cluster of two nodes with one CPU each loses one of them amid the work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import psutil
import pytest

from tests.batch import tables
from tests.batch.test_ray import amid_a_unit, result, undisturbed, write_config
from zaphod import machine
from zaphod.registry import Registry

pytestmark = [pytest.mark.cluster, pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.fixture
def second_node(tmp_path_factory: pytest.TempPathFactory, one_cpu: dict[str, str]) -> Iterator[Path]:
    """Another node of the cluster, on an address of its own; the folder that marks its processes."""
    mark = tmp_path_factory.mktemp("node")
    command = [
        str(Path(sys.executable).parent / "ray"), "start", f"--address={one_cpu['RAY_ADDRESS']}", "--num-cpus=1",
        "--node-ip-address=127.0.0.3", "--disable-usage-stats",
    ]  # fmt: skip
    environ = {**os.environ, **one_cpu, machine.MARK: str(mark)}
    environ.pop("RAY_ADDRESS")
    done = subprocess.run(command, env=environ, timeout=100, capture_output=True, text=True, start_new_session=True)
    assert done.returncode == 0, done.stdout + done.stderr
    yield mark
    machine.end_marked(mark)


def test_a_killed_node_is_done_without(
    tmp_path: Path, registry: Registry, one_cpu: dict[str, str], second_node: Path
) -> None:
    """`kill -9` of all processes of a node while it writes a unit: the other node does the rest, and each row is there
    once, in the bytes of a run that nobody disturbed.
    """
    tables.write_input(tmp_path / "input", num_files=30, num_rows=2_000)
    sizes = {"unit_rows": 2_000, "batch_rows": 50}
    write_config(tmp_path, registry, **sizes)
    process, _ = amid_a_unit(tmp_path, one_cpu, lambda: machine.marked_processes(second_node))
    for victim in machine.marked_processes(second_node):
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.send_signal(signal.SIGKILL)
    assert process.wait(timeout=150) == 0

    (run,) = (tmp_path / "output/runs").iterdir()
    with duckdb.connect() as connection:
        found = connection.execute(
            f"SELECT count(*), count(DISTINCT id) FROM '{run}/predictions/*.parquet'"  # noqa: S608  # our own folder
        ).fetchone()
    assert found == (60_000, 60_000)
    assert result(tmp_path) == undisturbed(tmp_path, registry, **sizes)
