"""A real pool: `python -m streaming` in its own process, in a home of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from streaming.queues.base import Cursor, DeadLetter, Delivered
from streaming.queues.log import LogReader
from streaming.queues.sqlite import SqliteQueue
from tests.conftest import ROOT, wait_for
from zaphod import machine
from zaphod.errors import TrimmedError

NUM_PARTITIONS = 4


@dataclass
class Pool:
    """The process, its settings and the stream it works on."""

    home: Path
    process: subprocess.Popen[bytes]
    log: Path
    queue: SqliteQueue

    def scorers(self) -> list[psutil.Process]:
        """The processes of the scorer actors, found by the mark that Ray passes on."""
        return scorers_of(self._ray_processes())

    def outputs(self) -> list[Delivered]:
        """Every output so far, each partition's in order."""
        cursors = {partition: Cursor() for partition in range(NUM_PARTITIONS)}
        return self.queue.read_outputs(cursors, max_outputs=10_000_000)

    def dead_letters(self) -> list[DeadLetter]:
        """Every dead letter so far."""
        cursors = {partition: Cursor() for partition in range(NUM_PARTITIONS)}
        return [entry.letter for entry in self.queue.read_dead_letters(cursors, max_letters=1_000_000)]

    def wait_scored(self, *, timeout_s: float = 60.0) -> None:
        """Until nothing waits."""
        wait_for(lambda: all(p.lag == 0 for p in self.queue.positions()), timeout_s=timeout_s, what="everything scored")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Sends the signal and waits for the end."""
        self.process.send_signal(number)
        self.process.wait(timeout=60)

    def left_behind(self) -> list[psutil.Process]:
        """What runs of a Ray of this home although its owner is gone."""
        return self._ray_processes()

    def _ray_processes(self) -> list[psutil.Process]:
        return machine.find_processes(lambda mark: mark.startswith(str(self.home / "var" / "run")))


def scorers_of(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those that are scorer actors: Ray writes it into their title."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if "ScorerActor" in " ".join(process.cmdline()):
                found.append(process)
    return found


def has_first_event(stream: Path, partition: int) -> bool:
    """False once it was removed for its age."""
    with contextlib.closing(LogReader(stream, f"p{partition:04d}")) as log:
        try:
            return bool(log.read(0, max_events=1))
        except TrimmedError:
            return False


def write_settings(home: Path, *, registry: str, model: str, num_scorers: int) -> Path:
    """A streaming.yaml with paths of its own."""
    settings = yaml.safe_load((ROOT / "configs/streaming.yaml").read_text())
    settings |= {"registry": registry, "model": model}
    settings["queue"] |= {"path": "var/stream", "partitions": NUM_PARTITIONS, "lease_s": 2.0}
    settings["pool"] |= {"min_scorers": num_scorers, "max_scorers": num_scorers, "num_cpus": 0.2}
    path = home / "streaming.yaml"
    path.write_text(yaml.safe_dump(settings))
    (home / "configs").mkdir(exist_ok=True)
    (home / "configs/ray.env").write_text((ROOT / "configs/ray.env").read_text())
    return path


def start_pool(
    home: Path,
    *,
    registry: str,
    model: str,
    num_scorers: int = 2,
    ray_home: Path | None = None,
    keep_s: float | None = None,
) -> Pool:
    """Returns once every partition has an owner. ray_home: where a server runs whose Ray is to be joined.

    Raises: AssertionError with its output.
    """
    home.mkdir(parents=True, exist_ok=True)
    config = write_settings(home, registry=registry, model=model, num_scorers=num_scorers)
    if keep_s is not None:
        settings = yaml.safe_load(config.read_text())
        settings["queue"] |= {"keep_s": keep_s, "dedupe_window_s": keep_s}
        config.write_text(yaml.safe_dump(settings))
    log = home / "pool.log"
    environ = dict(os.environ)
    server = machine.read_run_file(ray_home / "var/run") if ray_home else None
    if server is not None:
        environ |= {"RAY_ADDRESS": server.ray_address, "RAY_AUTH_MODE": "token"}
    queue = SqliteQueue(home / "var/stream", num_partitions=NUM_PARTITIONS)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "streaming", "--config", str(config)],
            cwd=home, stdout=output, stderr=subprocess.STDOUT, env=environ,
        )  # fmt: skip
    pool = Pool(home=home, process=process, log=log, queue=queue)
    wait_for(
        lambda: process.poll() is not None or all(p.owner and not p.expired for p in queue.positions()),
        timeout_s=60, what="every partition owned",
    )  # fmt: skip
    assert process.poll() is None, log.read_text(errors="replace")
    return pool


def end_pool(pool: Pool) -> None:
    """Whatever state it is in."""
    if pool.process.poll() is None:
        pool.stop()
    machine.end_orphans(pool.home / "var" / "run")
    pool.queue.close()
