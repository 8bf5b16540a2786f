"""One small Ray for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zaphod import machine
from zaphod.settings import load_ray_env


@pytest.fixture(scope="session")
def one_cpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment to join a cluster with one CPU, on loopback: what runs there needs no second."""
    run_dir = tmp_path_factory.mktemp("cluster")
    port = machine.free_port()
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", f"--node-ip-address={machine.RAY_HOST}",
        f"--port={port}", "--num-cpus=1", "--include-dashboard=false", "--disable-usage-stats",
        f"--ray-client-server-port={machine.free_port()}",
    ]  # fmt: skip
    ray_env = load_ray_env(ROOT / "configs/ray.env")
    machine.ensure_ray_token(ray_env)
    environ = {**os.environ, **ray_env, machine.MARK: str(run_dir)}
    subprocess.run(command, env=environ, check=True, timeout=100, capture_output=True, start_new_session=True)
    yield {**ray_env, "RAY_ADDRESS": f"{machine.RAY_HOST}:{port}"}
    machine.end_marked(run_dir)
