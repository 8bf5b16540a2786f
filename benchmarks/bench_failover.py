"""How soon a stream goes on after `kill -9` of a scorer, and what a model swap and a rebalance cost in latency.

Measured, on a real pool of two scorers on Ray, events open loop at a fixed rate, producer and reader in processes of
their own: (1) from `kill -9` of one scorer to the first output of its successor, for each partition it owned;
(2) the longest time from an event to its visible output around a model swap and around the moment in which a
replacement takes its partitions over, beside the longest of calm time.

Not measured: many nodes, networks. On a machine that does other things as well these are upper bounds.

    python benchmarks/bench_failover.py [--kills 10] [--swaps 5] [--rate 500] [--url redis://…]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.bench_streaming import make_registry  # noqa: E402  # the path is set above
from examples import transactions  # noqa: E402
from streaming.queues.base import Queue  # noqa: E402
from streaming.queues.factory import open_queue  # noqa: E402
from streaming.reader import Reader  # noqa: E402
from streaming.settings import QueueSettings, StreamingSettings  # noqa: E402
from zaphod import machine  # noqa: E402
from zaphod.registry import CHAMPION, Registry  # noqa: E402

NUM_PARTITIONS = 4
AROUND_S = 0.5


@dataclass
class Watch:
    """What a reader sees. seen: by partition, when each output was visible and how old its event was by then."""

    settings: QueueSettings
    seen: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    moves: list[tuple[float, int]] = field(default_factory=list)
    owners: dict[int, str | None] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        """Until stopped."""
        queue = open_queue(self.settings)
        reader = Reader(queue, cursors=queue.output_ends())
        while not self.stop.is_set():
            found = reader.read(wait_s=0.2)
            now = time.time()
            for delivered in found:
                self.seen[delivered.partition].append((now, now - delivered.output.created))

    def look(self) -> None:
        """Notes when a partition has another owner."""
        queue = open_queue(self.settings)
        while not self.stop.wait(0.01):
            for position in queue.positions():
                if position.owner and position.owner != self.owners.get(position.partition):
                    self.owners[position.partition] = position.owner
                    self.moves.append((time.time(), position.partition))

    def longest_s(self, moments: list[float], *, inside: bool) -> float:
        """The oldest event among outputs near these moments, or among the others."""
        ages = [
            age
            for seen in list(self.seen.values())
            for when, age in list(seen)
            if inside == any(abs(when - moment) < AROUND_S for moment in moments)
        ]
        return max(ages, default=0.0)


def scorers(home: Path) -> list[psutil.Process]:
    """Of the pool's own Ray."""
    found = []
    for process in machine.find_processes(lambda mark: mark.startswith(str(home / "var" / "run"))):
        with contextlib.suppress(psutil.Error):
            if "ScorerActor" in " ".join(process.cmdline()):
                found.append(process)
    return found


def wait(condition: object, *, timeout_s: float = 60.0) -> None:
    """Until it holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def measure(home: Path, settings: StreamingSettings, *, kills: int, swaps: int, rate: float) -> None:
    """Prints the figures."""
    document = settings.model_dump(mode="json")
    document["queue"]["url"] = settings.queue.url.get_secret_value()
    config = home / "streaming.yaml"
    config.write_text(yaml.safe_dump(document))
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "ZAPHOD_HOME": str(home)}
    command = [sys.executable, "-m", "streaming"]
    queue = open_queue(settings.queue)
    registry = Registry.open(settings.registry)
    watch = Watch(settings.queue)
    threads = [threading.Thread(target=target, daemon=True) for target in (watch.read, watch.look)]
    with (home / "pool.log").open("ab") as log:
        pool = subprocess.Popen([*command, "--config", str(config)], cwd=ROOT, env=environ, stdout=log, stderr=log)
    producer = None
    try:
        wait(lambda: len({p.owner for p in queue.positions() if p.owner and not p.expired}) == 2)
        for thread in threads:
            thread.start()
        producer = subprocess.Popen(
            [*command, "produce", "--config", str(config), "--events", str(home / "events"), "--rate", str(rate)],
            cwd=ROOT, env=environ, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait(lambda: all(watch.seen[p] for p in range(NUM_PARTITIONS)))
        time.sleep(5)  # calm time
        swapped = []
        for number in range(swaps):
            registry.set_alias("fraud", alias=CHAMPION, version=2 - number % 2, action="promote", why="benchmark")
            swapped.append(time.time() + 0.5)  # a scorer looks twice a second
            time.sleep(2)
        calm_s = watch.longest_s(swapped, inside=False)
        print(f"longest event to output: calm {calm_s * 1000:.1f} ms, "
              f"around {swaps} swaps {watch.longest_s(swapped, inside=True) * 1000:.1f} ms")  # fmt: skip
        failovers: list[float] = []
        joined: list[float] = []
        replaced = [kill_one(home, queue, watch, failovers, joined) for _ in range(kills)]
        ms = sorted(value * 1000 for value in failovers)
        print(f"kill -9 to the successor's first output: p50 {statistics.median(ms):.0f} ms, longest {ms[-1]:.0f} ms "
              f"({kills} kills, {len(ms)} partitions); a replacement at work after p50 "
              f"{statistics.median(replaced):.1f} s")  # fmt: skip
        print(f"longest event to output around {len(joined)} moves to a replacement: "
              f"{watch.longest_s(joined, inside=True) * 1000:.1f} ms")  # fmt: skip
    finally:
        watch.stop.set()
        if producer is not None:
            producer.kill()
        pool.terminate()
        pool.wait()
        for thread in threads:
            if thread.is_alive():
                thread.join()


def kill_one(home: Path, queue: Queue, watch: Watch, failovers: list[float], joined: list[float]) -> float:
    """One scorer; notes the seconds to each partition's next output, and when partitions moved to the replacement.

    Returns the seconds until that one worked.
    """
    wait(lambda: len(scorers(home)) == 2 and len({p.owner for p in queue.positions()}) == 2)
    time.sleep(1)
    victim, num_moves = scorers(home)[0], len(watch.moves)
    began = time.time()
    victim.kill()
    victim.wait(10)
    dead = time.time()
    wait(lambda: len(watch.moves) > num_moves)
    time.sleep(1)
    num_taken = len(watch.moves)
    for partition in {partition for _, partition in watch.moves[num_moves:num_taken]}:
        # What the victim had committed in its last moment may be seen a moment later.
        wait(lambda: watch.seen[partition][-1][0] > dead + 0.005)  # noqa: B023  # called at once
        failovers.append(next(when for when, _ in watch.seen[partition] if when > dead + 0.005) - began)
    wait(lambda: len({p.owner for p in queue.positions()}) == 2)
    replaced_s = time.time() - began
    time.sleep(1)
    joined += [when for when, _ in watch.moves[num_taken:]]
    return replaced_s


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--swaps", type=int, default=5)
    parser.add_argument("--rate", type=float, default=500.0)
    parser.add_argument("--url", help="redis://… or kafka://… instead of the embedded queue")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        registry = make_registry(home / "registry")
        registry.publish("fraud", registry.load("fraud", 1).files)
        transactions.write(home / "events", num_rows=400_000, num_files=1)
        queue = QueueSettings(path=str(home / "stream"), partitions=NUM_PARTITIONS)
        if arguments.url:
            name = f"failover-{os.getpid()}"
            queue = QueueSettings(
                kind=arguments.url.partition(":")[0], url=arguments.url, name=name, partitions=NUM_PARTITIONS
            )
        settings = StreamingSettings.model_validate(
            {"registry": registry.uri, "model": "fraud", "queue": queue, "pool": {"min_scorers": 2, "max_scorers": 2}}
        )
        measure(home, settings, kills=arguments.kills, swaps=arguments.swaps, rate=arguments.rate)


if __name__ == "__main__":
    main()
