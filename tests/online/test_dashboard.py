"""Ray's dashboard does what it does, with the parts that nobody asks left out."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from ray.dashboard.subprocesses.module import SubprocessModuleConfig

from deployments.dashboard import Part, Running
from tests.conftest import ROOT, Server, wait_for
from tests.online.echo_part import EchoPart
from zaphod.settings import load_ray_env


def parts(server: Server) -> set[str]:
    """Names of the dashboard's parts that run."""
    titles = [" ".join(process.cmdline()) for process in server.marked()]
    return {title.split("-")[2] for title in titles if title.startswith("ray-dashboard-")}


def ray(server: Server, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of Ray's, at the server's dashboard."""
    program, *rest = command
    return subprocess.run(
        [str(Path(sys.executable).parent / program), *rest, "--address", server.dashboard],
        cwd=server.home, env={**os.environ, **load_ray_env(ROOT / "configs/ray.env")}, capture_output=True, text=True,
        timeout=100,
    )  # fmt: skip


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_a_part_that_nobody_asks_does_not_run(server: Server) -> None:
    """Neither of the two that no test before the next asks."""
    assert not {"DataHead", "TrainHead"} & parts(server)


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_every_part_answers_and_runs_when_it_is_asked(server: Server) -> None:
    """What commands of Ray and its pages ask for is answered."""
    headers = {"authorization": f"Bearer {(Path.home() / '.ray' / 'auth_token').read_text().strip()}"}
    paths = {
        "DataHead": "/api/data/datasets/none",
        "JobHead": "/api/jobs/",
        "MetricsHead": "/api/prometheus_health",
        "NodeHead": "/nodes?view=summary",
        "ReportHead": "/api/cluster_status",
        "ServeHead": "/api/serve/applications/",
        "StateHead": "/api/v0/actors",
        "TrainHead": "/api/train/v2/runs/v1",
    }

    with httpx.Client(base_url=server.dashboard, headers=headers, timeout=60) as client:
        codes = {name: client.get(path).status_code for name, path in paths.items()}
        page = client.get("/")

    # The other three ask Prometheus, which is not there, or for what no Ray Train has left.
    assert {name for name, code in codes.items() if code == 200} >= {
        "JobHead", "NodeHead", "ReportHead", "ServeHead", "StateHead",
    }, codes  # fmt: skip
    assert "Ray Dashboard" in page.text
    assert parts(server) >= set(paths)


@pytest.mark.cluster
@pytest.mark.timeout(240)
def test_commands_of_ray_work(server: Server) -> None:
    """`serve status` and `ray list` do what they do on every cluster; `ray job submit` is tried with the batch arm."""
    status = ray(server, "serve", "status")
    actors = ray(server, "ray", "list", "actors")

    assert "status: RUNNING" in status.stdout, status.stderr
    assert "ServeReplica" in actors.stdout, actors.stderr


def test_a_part_ends_when_nobody_asks_and_starts_again() -> None:
    """Requests wait for the part to start; once idle it ends, and the next request has a new process."""

    async def scenario(folder: Path) -> list[str]:
        part = _Impatient(asyncio.get_running_loop(), EchoPart, _config(folder))
        part.start_module()
        part.wait_for_module_ready()
        dashboard = web.Application()
        dashboard.router.add_get("/zaphod/echo", part.proxy_request)

        async with TestClient(TestServer(dashboard)) as client:

            async def ask(word: str) -> str:
                async with client.get(f"/zaphod/echo?say={word}") as answer:
                    return await answer.text()

            assert list(Running([part])) == []
            said = await asyncio.gather(ask("a"), ask("b"))
            while part.process is not None:  # noqa: ASYNC110  # the part says to nobody that it has ended
                await asyncio.sleep(0.01)
            said.append(await ask("c"))
            await part.destroy_module()
        return said

    with tempfile.TemporaryDirectory(prefix="z", dir="/tmp") as short:  # sockets
        said = asyncio.run(scenario(Path(short)))

    words, pids = zip(*(each.split() for each in said), strict=True)
    assert words == ("a", "b", "c")
    assert pids[0] == pids[1] != pids[2]
    wait_for(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids), what="both processes ended")


class _Impatient(Part):
    idle_s = 0.3


def _config(folder: Path) -> SubprocessModuleConfig:
    return SubprocessModuleConfig(
        cluster_id_hex="", gcs_address="", session_name="test", temp_dir=str(folder), session_dir=str(folder),
        logging_level="INFO", logging_format="%(message)s", log_dir=str(folder), logging_filename="dashboard.log",
        logging_rotate_bytes=0, logging_rotate_backup_count=0, socket_dir=str(folder),
    )  # fmt: skip
