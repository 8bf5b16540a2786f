"""Large libraries stay out of the processes that do not need them, and come when they are needed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import Server


def libraries(process: psutil.Process) -> set[str]:
    """Which packages a process has loaded compiled parts of."""
    lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    return {line.rpartition("site-packages/")[2].split("/")[0] for line in lines if ".so" in line}


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_helpers_of_ray_serve_load_neither_pandas_nor_pyarrow(server: Server) -> None:
    """The controller and the two that look after the edge are a third smaller for it."""
    loaded = {title: libraries(process) for process in server.marked() if (title := process.name()).startswith("ray::")}
    helpers = [
        title for title in loaded if title.startswith(("ray::ServeContro", "ray::ProxyActor", "ray::HAProxyMan"))
    ]

    assert len(helpers) == 3, loaded.keys()
    for title in helpers:
        assert not {"pandas", "pyarrow"} & loaded[title], title


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_replicas_give_back_what_they_have_freed(server: Server) -> None:
    """The allocator is told before it starts, for it cannot be told later how many heaps to have."""
    replicas = [process for process in server.marked() if process.name().startswith("ray::ServeRepli")]

    assert replicas
    for replica in replicas:
        environ = replica.environ()
        assert (environ["MALLOC_ARENA_MAX"], environ["MALLOC_TRIM_THRESHOLD_"]) == ("2", "131072")


def test_a_replica_has_pandas_when_it_is_needed() -> None:
    """Without a model that takes DataFrames none of the large libraries is loaded; pyarrow finds pandas later."""
    code = """
import sys
from deployments import lean
lean.setup()
import deployments.app
lean.arrow_without_pandas()
import pyarrow as pa
pa.table({"a": pa.array([1, None])})
print(sorted({"duckdb", "pandas", "scipy", "sklearn"} & sys.modules.keys()))
print(pa.array(["a", None]).to_pandas().isna().tolist())
import pandas
print(pa.array(pandas.Series([1.0, float("nan")])).null_count)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)

    assert done.stdout.splitlines() == ["[]", "[False, True]", "1"], done.stderr
