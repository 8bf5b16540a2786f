"""Starting and stopping leaves nothing behind; a crash is cleaned up by the next start."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from deployments.keys import app as keys_app
from tests.conftest import ROOT, Server, end_server, start_server, wait_for
from zaphod import machine
from zaphod.registry import Registry

pytestmark = [pytest.mark.cluster, pytest.mark.fault]


@pytest.mark.timeout(300)
def test_ctrl_c_leaves_no_process(tmp_path: Path, registry: Registry) -> None:
    """Ctrl-C ends HAProxy, `serve run` and every Ray process; so does SIGTERM, by which every other test ends."""
    server = start_server(tmp_path, registry=registry.uri, references=["binary"])
    # HAProxy is replaced by a new process whenever what stands behind it changes.
    expected = {"haproxy", "raylet", "gcs_server"}
    wait_for(lambda: expected <= {machine.name_of(process) for process in server.marked()}, what=f"{expected} running")

    server.send(signal.SIGINT)
    server.process.wait(timeout=60)

    assert server.process.returncode == 0, server.log.read_text()
    assert server.marked() == []


@pytest.mark.timeout(300)
def test_a_server_with_keys_says_ready(tmp_path: Path, registry: Registry) -> None:
    """Without a key to try the models with; the line that it suggests works once the key is there."""
    made = CliRunner().invoke(keys_app, ["add", "shop", "--file", str(tmp_path / "keys.json")])

    def with_keys(config: dict[str, Any]) -> None:
        config["applications"][0]["args"]["keys_file"] = "keys.json"

    server = start_server(tmp_path, registry=registry.uri, references=["binary"], change=with_keys)
    said = server.log.read_text()
    (line,) = [line for line in said.splitlines() if line.startswith("curl ")]
    refused, answered = (
        subprocess.run(["bash", "-c", line], env={**os.environ, "ZAPHOD_KEY": key}, capture_output=True, text=True)
        for key in ("", made.stdout.splitlines()[0])
    )
    end_server(server)

    assert "want an API key" in said
    assert json.loads(refused.stdout)["error"] == "unauthenticated"
    assert json.loads(answered.stdout)["example"]


@pytest.mark.timeout(300)
def test_what_a_crash_leaves_is_ended_by_the_next_start_or_by_stop(tmp_path: Path, registry: Registry) -> None:
    """After `kill -9` of the launcher the next start ends the leftovers, says so, and serves; `stop` ends them too."""
    crashed = start_server(tmp_path, registry=registry.uri, references=["binary"])
    left = kill(crashed)

    server = start_server(tmp_path, registry=registry.uri, references=["binary"])

    assert "an earlier start left behind" in server.log.read_text()
    assert not left & {process.pid for process in server.marked()}
    kill(server)
    command = [sys.executable, "-m", "deployments", "stop"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert first.stdout.startswith("stopped")
    assert "nothing left" in second.stdout
    assert server.marked() == []


def kill(server: Server) -> set[int]:
    """`kill -9` of the launcher; returns what it left running."""
    server.send(signal.SIGKILL)
    server.process.wait(timeout=10)
    left = {process.pid for process in server.marked()}
    assert left
    return left


def test_a_busy_port_is_one_clear_sentence(tmp_path: Path, registry: Registry) -> None:
    """A port in use stops the start before anything runs, and the sentence names the port."""
    config = (ROOT / "configs/serve.yaml").read_text()
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        (tmp_path / "serve.yaml").write_text(config.replace("port: 8000", f"port: {port}"))
        command = [sys.executable, "-m", "deployments", "up", "--config", "serve.yaml"]
        command += ["--ray-env", str(ROOT / "configs/ray.env")]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr
    assert f"process {os.getpid()}" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_running_file_of_a_dead_launcher_is_ignored(tmp_path: Path) -> None:
    """A stale serve.json does not keep anybody from starting."""
    child = subprocess.Popen(["sleep", "60"])
    created = psutil.Process(child.pid).create_time()
    (tmp_path / machine.RUN_FILE).write_text(
        f'{{"pid": {child.pid}, "created": {created}, "ray_address": "x", "dashboard": "x", "http": "x"}}'
    )
    assert machine.read_run_file(tmp_path) is not None

    child.kill()
    child.wait()

    assert machine.read_run_file(tmp_path) is None
