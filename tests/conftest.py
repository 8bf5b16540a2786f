"""Fixtures for every test folder: a packaged registry and a real server in a folder of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import threadpoolctl
import yaml

from tests import cli, models
from zaphod import machine
from zaphod.registry import Registry

# Its assertions tell what differed, as those of tests do.
pytest.register_assert_rewrite("tests.faults.crew")

ROOT = Path(__file__).resolve().parents[1]


def wait_for(condition: Callable[[], bool], *, timeout_s: float = 30.0, what: str = "the condition") -> None:
    """Polls until the condition holds. Raises: AssertionError naming what did not come true.

    While the machine lets this process stand still, time stands still too; and a look that took long tells how things
    were before, so that the last one begins when the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if condition():
            return
        assert began < deadline, f"{what} did not come true within {timeout_s} s"
        now = time.monotonic()
        time.sleep(0.05)
        deadline += max(0.0, time.monotonic() - now - 0.1)


class Pulse:
    """A thread that does nothing else beside what is timed: what takes longer than it is late has waited for something.

    late_s: the longest that it was not let run. A machine that stands still holds both up.
    """

    def __init__(self) -> None:
        self.late_s = 0.0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _beat(self) -> None:
        before = time.monotonic()
        while not self._stopped.wait(0.01):
            now = time.monotonic()
            self.late_s, before = max(self.late_s, now - before), now


@dataclass
class Server:
    """A real `python -m deployments up` in its own home."""

    home: Path
    url: str
    grpc: str
    process: subprocess.Popen[bytes]
    log: Path
    dashboard: str

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def marked(self) -> list[psutil.Process]:
        return machine.marked_processes(self.home / "var" / "run")


def start_server(
    home: Path, *, registry: str, references: list[str], change: Callable[[dict[str, Any]], None] | None = None
) -> Server:
    """Starts a server on free ports and returns once it says ready. Raises: AssertionError with its output.

    change: what is to differ from configs/serve.yaml.
    """
    config = yaml.safe_load((ROOT / "configs/serve.yaml").read_text())
    port = machine.free_port()
    config["http_options"]["port"] = port
    config["applications"][0]["args"] |= {"registry": registry, "models": references}
    config["applications"][0]["args"]["limits"]["body_timeout_s"] = 2.0
    grpc_port = machine.free_port()
    config["grpc_options"] = {
        "port": grpc_port,
        "grpc_servicer_functions": ["deployments.protocols.messages.add_to_server"],
    }
    if change is not None:
        change(config)
    home.mkdir(parents=True, exist_ok=True)
    (home / "serve.yaml").write_text(yaml.safe_dump(config))
    log = home / "launcher.log"
    dashboard_port = machine.free_port()
    command = [
        sys.executable, "-m", "deployments", "up", "--config", "serve.yaml",
        "--ray-env", str(ROOT / "configs/ray.env"), "--dashboard-port", str(dashboard_port),
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=home, stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ))
    server = Server(
        home=home, url=f"http://127.0.0.1:{port}", grpc=f"127.0.0.1:{grpc_port}", process=process, log=log,
        dashboard=f"http://127.0.0.1:{dashboard_port}",
    )  # fmt: skip
    try:
        wait_for(
            lambda: process.poll() is not None or "Ctrl-C stops" in log.read_text(errors="replace"),
            timeout_s=110,
            what="ready",
        )
        assert process.poll() is None, log.read_text(errors="replace")
    except BaseException:
        kill_server(server)
        raise
    return server


def end_server(server: Server) -> None:
    """SIGTERM. Raises: AssertionError when a process is left, TimeoutExpired when it does not end, after ending it."""
    server.send(signal.SIGTERM)
    try:
        code = server.process.wait(timeout=60)
    finally:
        left = kill_server(server)
    assert (code, left) == (0, []), server.log.read_text(errors="replace")


def kill_server(server: Server) -> list[str]:
    """`kill -9`, and what it leaves: told what that was."""
    server.process.kill()
    server.process.wait()
    return machine.end_marked(server.home / "var" / "run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the slow tests unless the marker is named; gives those on a real cluster a second try, told in the summary.

    Never those that look for lost or doubled work, and no unit test: one failure of theirs is one too many.
    """
    slow_too = "slow" in config.getoption("markexpr")
    for item in items:
        if item.get_closest_marker("slow") and not slow_too:
            item.add_marker(pytest.mark.skip(reason="minutes: run with -m slow"))
        if item.get_closest_marker("cluster") and not item.get_closest_marker("fault"):
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """scikit-learn's threads wait for each other longer than these small models compute."""
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A registry with three champions: binary, multiclass, regressor."""
    made = Registry.open(str(tmp_path_factory.mktemp("registry")))
    models.publish(made)
    return made


@pytest.fixture(scope="session")
def constant_models(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Two versions of a model that says its number. Not to be changed."""
    made = Registry.open(str(tmp_path_factory.mktemp("constants")))
    models.publish_constants(made)
    return made


@pytest.fixture(scope="session")
def several(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A classifier of two targets."""
    made = Registry.open(str(tmp_path_factory.mktemp("several")))
    models.publish_several(made)
    return made


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Server]:
    """One server for the whole run, serving the three models."""
    started = start_server(
        tmp_path_factory.mktemp("home"), registry=registry.uri, references=["binary", "multiclass", "regressor"]
    )
    yield started
    end_server(started)


@pytest.fixture
def zaphod(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> cli.Zaphod:
    """The `zaphod` command."""
    return cli.make(monkeypatch, capsys)
