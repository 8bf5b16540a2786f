"""Ray Serve's own commands work on configs/serve.yaml, without the launcher."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import ROOT, wait_for
from zaphod import machine
from zaphod.registry import Registry
from zaphod.settings import load_ray_env

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

GOOD = {"amount": 100.0, "balance": None, "count": 3, "kind": "a"}


@pytest.fixture
def environ(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What `set -a; . configs/ray.env` gives, with a temporary folder and ports apart from other clusters'."""
    ray_env = load_ray_env(ROOT / "configs/ray.env")
    machine.ensure_ray_token(ray_env)
    with tempfile.TemporaryDirectory(prefix="z", dir="/tmp", ignore_cleanup_errors=True) as short:  # sockets
        yield {
            **os.environ,
            **ray_env,
            "RAY_TMPDIR": short,
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{short}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{short}/admin.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": short,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{short}/server-state",
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{short}/metrics.sock",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(machine.free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(machine.free_port()),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(machine.free_port()),
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(machine.free_port()),
            machine.MARK: str(tmp_path),
        }
        machine.end_marked(tmp_path)


def write_config(folder: Path, registry: Registry) -> str:
    """configs/serve.yaml on a free port; returns its address."""
    config = yaml.safe_load((ROOT / "configs/serve.yaml").read_text())
    config["http_options"]["port"] = machine.free_port()
    config["applications"][0]["args"] |= {"registry": registry.uri, "models": ["binary"]}
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    return f"http://127.0.0.1:{config['http_options']['port']}"


def answers(url: str) -> bool:
    """Whether a prediction comes back."""
    try:
        return httpx.post(f"{url}/v1/models/binary:predict", json=GOOD, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def script(name: str) -> str:
    """A console script of this environment."""
    return str(Path(sys.executable).parent / name)


def listen_to_ctrl_c() -> None:
    """A shell starts what it puts in the background deaf to it, tests included, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_serve_run_starts_its_own_ray(tmp_path: Path, registry: Registry, environ: dict[str, str]) -> None:
    """`serve run configs/serve.yaml` serves, and Ctrl-C ends it."""
    url = write_config(tmp_path, registry)
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [script("serve"), "run", "serve.yaml"],
            cwd=tmp_path, env=environ, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=listen_to_ctrl_c,
        )  # fmt: skip

    wait_for(lambda: process.poll() is not None or answers(url), timeout_s=100, what="a prediction")

    assert process.poll() is None, log.read_text(errors="replace")
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)


def test_serve_deploy_on_a_running_cluster(tmp_path: Path, registry: Registry, environ: dict[str, str]) -> None:
    """`serve deploy configs/serve.yaml` puts the models on a cluster that was started before."""
    url = write_config(tmp_path, registry)
    dashboard = machine.free_port()
    start = [
        script("ray"), "start", "--head", f"--node-ip-address={machine.RAY_HOST}", f"--port={machine.free_port()}",
        f"--dashboard-port={dashboard}", f"--ray-client-server-port={machine.free_port()}",
        f"--dashboard-agent-listen-port={machine.free_port()}",
    ]  # fmt: skip
    subprocess.run(start, env=environ, cwd=tmp_path, check=True, capture_output=True, timeout=100)

    deployed = subprocess.run(
        [script("serve"), "deploy", "serve.yaml", "--address", f"http://127.0.0.1:{dashboard}"],
        cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100,
    )  # fmt: skip

    assert deployed.returncode == 0, deployed.stdout + deployed.stderr
    wait_for(lambda: answers(url), timeout_s=100, what="a prediction")
