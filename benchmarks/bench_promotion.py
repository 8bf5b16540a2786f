"""How soon a promotion and a rollback show in another process that watches the registry.

python -m benchmarks.bench_promotion

The parent promotes, then rolls back, at random moments; a child serves the model as every arm does and notes when the
other version answers. Measured: from before the registry is written to the swap seen by the child, the loading, the
check of every hash and the warm-up of the version included. The child looks twice a second, so a quarter of a second
of the median is waiting for its next look.

Not measured: the start of the `zaphod` command (about half a second) and buckets, whose own latency comes on top.
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import IO, Annotated

import typer
from rich.console import Console
from rich.table import Table

from examples.train import train_fraud
from zaphod.registry import CHAMPION, Registry

CHILD = """
import sys, threading, time
from zaphod.registry import Registry
from zaphod.served import ServedModel

def swapped(snapshot):
    print(snapshot.bundle.version, time.monotonic_ns(), flush=True)

served = ServedModel.open(Registry.open(sys.argv[1]), "fraud", on_swap=swapped)
print("ready", flush=True)
sys.stdin.read()
"""


def move(registry: Registry, heard: IO[str], *, version: int, action: str) -> float:
    """Seconds until the child serves the version."""
    start = time.monotonic_ns()
    registry.set_alias("fraud", alias=CHAMPION, version=version, action=action, why="benchmark")
    seen, at_ns = heard.readline().split()
    assert int(seen) == version
    return (int(at_ns) - start) / 1e9


def main(rounds: Annotated[int, typer.Option(help="promotions, and as many rollbacks", min=1)] = 30) -> None:
    """Prints the table."""
    taken: dict[str, list[float]] = {"promote": [], "rollback": []}
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry.open(folder)
        versions = [train_fraud(registry).version for _ in range(2)]
        registry.set_alias("fraud", alias=CHAMPION, version=versions[0], action="promote", why="benchmark")
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        for _ in range(rounds):
            for action, version in (("promote", versions[1]), ("rollback", versions[0])):
                # Any moment between two looks is as likely as another.
                time.sleep(random.uniform(0.0, 0.5))
                taken[action].append(move(registry, child.stdout, version=version, action=action))
        child.stdin.close()
        child.wait()
    table = Table("", "times", "median s", "largest s")
    for action, seconds in taken.items():
        table.add_row(action, str(len(seconds)), f"{statistics.median(seconds):.2f}", f"{max(seconds):.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
