"""Scorers over two nodes, and the loss of one. Both raylets are on this machine."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from streaming.settings import QueueSettings
from tests.conftest import ROOT, wait_for
from tests.faults.crew import Traffic, patiently_opened, verify
from tests.streaming.conftest import RedisServer
from tests.streaming.pools import scorers_of, write_settings
from zaphod import machine
from zaphod.registry import Registry
from zaphod.settings import load_ray_env

pytestmark = [pytest.mark.cluster, pytest.mark.fault, pytest.mark.timeout(300)]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """Marks of the two nodes' processes, and the environment of a driver."""
    ray_env = load_ray_env(ROOT / "configs/ray.env")
    machine.ensure_ray_token(ray_env)
    port = machine.free_port()
    ray = [str(Path(sys.executable).parent / "ray"), "start", f"--node-ip-address={machine.RAY_HOST}", "--num-cpus=1"]
    head = [
        *ray, "--head", f"--port={port}", "--include-dashboard=false",
        f"--ray-client-server-port={machine.free_port()}",
        f"--dashboard-agent-listen-port={machine.free_port()}",
    ]  # fmt: skip
    other = [
        *ray, f"--address={machine.RAY_HOST}:{port}",
        f"--dashboard-agent-listen-port={machine.free_port()}",
    ]  # fmt: skip
    marks = tmp_path / "node1", tmp_path / "node2"
    for command, mark in zip((head, other), marks, strict=True):
        environ = {**os.environ, **ray_env, machine.MARK: str(mark)}
        subprocess.run(command, env=environ, check=True, capture_output=True, timeout=100, start_new_session=True)
    yield *marks, {**os.environ, **ray_env, "RAY_ADDRESS": f"{machine.RAY_HOST}:{port}"}
    for mark in reversed(marks):
        machine.end_marked(mark)


def scorers(mark: Path) -> list[psutil.Process]:
    """The scorer actors of one node."""
    return scorers_of(machine.marked_processes(mark))


def test_the_loss_of_a_node_is_survived(
    nodes: tuple[Path, Path, dict[str, str]], redis_server: RedisServer, registry: Registry, tmp_path: Path
) -> None:
    """Scorers are on both nodes; every process of one is killed at once; the other goes on and nothing is lost."""
    first, second, environ = nodes
    config = write_settings(tmp_path, registry=registry.uri, model="binary@1", num_scorers=2)
    document = yaml.safe_load(config.read_text())
    document["queue"] |= {"kind": "redis", "url": redis_server.url, "name": tmp_path.name}
    config.write_text(yaml.safe_dump(document))
    settings = QueueSettings.model_validate(document["queue"])
    queue = patiently_opened(settings)
    traffic = Traffic(settings, random.Random(1), rate=400)
    with (tmp_path / "pool.log").open("wb") as log:
        pool = subprocess.Popen(
            [sys.executable, "-m", "streaming", "--config", str(config)],
            cwd=tmp_path,
            env=environ,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for(
            lambda: len({p.owner for p in queue.positions() if p.owner}) == 2, timeout_s=100, what="two scorers at work"
        )
        assert (len(scorers(first)), len(scorers(second))) == (1, 1)
        traffic.produce(queue, [traffic.event() for _ in range(3_000)])
        for process in machine.marked_processes(second):
            with contextlib.suppress(psutil.Error):
                process.kill()
        traffic.produce(queue, [traffic.event() for _ in range(1_000)])

        wait_for(lambda: all(p.lag == 0 for p in queue.positions()), timeout_s=60, what="everything scored")
        wait_for(lambda: len(scorers(first)) == 2, timeout_s=100, what="a replacement on the node that is left")
        assert pool.poll() is None, (tmp_path / "pool.log").read_text()
        verify(queue, traffic)
    finally:
        pool.send_signal(signal.SIGTERM)
        pool.wait(timeout=60)
        queue.close()
