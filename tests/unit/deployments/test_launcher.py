"""What the launcher tells who started it."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from deployments.launcher import KEY_VARIABLE, Launch, Launcher, _own_folder, stop
from tests.conftest import ROOT
from zaphod import machine
from zaphod.errors import EnvironmentNotReadyError

CONFIG = """
http_options: {port: 8123}
applications:
  - {name: fraud, route_prefix: /fraud, args: {models: [fraud]}}
  - {name: churn, route_prefix: /churn/, args: {models: [churn]}}
"""
ADDRESS = "http://127.0.0.1:8123/fraud/v1/models/fraud"


def told(tmp_path: Path, examples: dict[str, str | None]) -> list[str]:
    """The lines once all is ready."""
    (tmp_path / "serve.yaml").write_text(CONFIG)
    output = io.StringIO()
    launch = Launch(config=tmp_path / "serve.yaml", ray_env=ROOT / "configs/ray.env", home=tmp_path)
    Launcher(launch, console=Console(file=output, width=60))._greet(examples)
    return output.getvalue().splitlines()


def test_the_pages_of_each_application(tmp_path: Path) -> None:
    """Below its prefix: nothing answers without it."""
    lines = told(tmp_path, {ADDRESS: "{}"})

    assert [line.split()[-1] for line in lines[1:3]] == [
        "http://127.0.0.1:8123/fraud/docs", "http://127.0.0.1:8123/churn/docs",
    ]  # fmt: skip


def test_the_suggested_line_survives_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in the example; with a key where one was used, and without a body where none was answered."""
    body = json.dumps({"rows": [{"name": "O'Hara \\ $HOME `x`"}]})
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    (line,) = [line for line in told(tmp_path, {ADDRESS: body}) if line.startswith("curl")]
    (refused,) = [line for line in told(tmp_path, {ADDRESS: None}) if line.startswith("curl")]
    monkeypatch.setenv(KEY_VARIABLE, "zk_secret")
    (keyed,) = [line for line in told(tmp_path, {ADDRESS: body}) if line.startswith("curl")]

    assert shlex.split(line) == [
        "curl", "-s", f"{ADDRESS}:predict", "-H", "content-type: application/json", "-d", body,
    ]  # fmt: skip
    assert shlex.split(refused) == ["curl", "-s", ADDRESS, "-H", f"authorization: Bearer ${KEY_VARIABLE}"]
    assert f'"authorization: Bearer ${KEY_VARIABLE}"' in keyed
    assert "zk_secret" not in keyed


@pytest.mark.parametrize("how", ["a link", "open to others", "a file"])
def test_the_edges_folder_is_nobody_elses(tmp_path: Path, how: str) -> None:
    """Who could write there could answer for the server."""
    path = tmp_path / "edge"
    match how:
        case "a link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            path.symlink_to(tmp_path / "elsewhere")
        case "open to others":
            path.mkdir()
            path.chmod(0o770)
        case "a file":
            path.touch(mode=0o600)

    with pytest.raises(EnvironmentNotReadyError, match="no folder of this user's alone"):
        _own_folder(path)

    assert _own_folder(tmp_path / "mine") == _own_folder(tmp_path / "mine") == tmp_path / "mine"


def test_a_process_that_has_the_servers_number_is_left_alone(tmp_path: Path) -> None:
    """The run file outlived the server, and the number was given away again."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    server = machine.RunningServer(pid=other.pid, created=1.0, ray_address="", dashboard="", http="")
    (tmp_path / machine.RUN_FILE).write_bytes(msgspec.json.encode(server))
    try:
        assert machine.read_run_file(tmp_path) is None
        assert "server" not in stop(tmp_path)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
