"""What a challenger in the shadow takes from the champion: the same replica with and without it, by turns in one run.

    python benchmarks/bench_shadow.py [--pairs 6] [--rounds 15] [--apart]

Measured: a replica's ASGI application under uvicorn, one row a request, 12 fields, gradient boosting, the prediction
log on; an open loop of requests at half of what the replica without a shadow can answer, from a client in another
process; the time from a request's due moment to its answer. The challenger is a second version of the same size that
scores a copy of every request in its own process. Two replicas live at the same time and take turns of four seconds.
Two replicas differ also when neither has a shadow, so there are several pairs, one after the other. The figures are the
medians over all turns of the 90th and 99th percentile with over that without, and the intervals in which 90 % of such
medians lie when the pairs, and of each its turns, are drawn again. What the challenger scored and dropped is told too,
for one that scores nothing costs nothing.
With `--apart` the last core is the client's, as if it were on another machine, and the replicas with their challenger
have the others. Without, on a machine with few cores, all share them, and a second of requests says as much about the
scheduler as about the shadow.

Not measured: Ray and HAProxy in front of the replica.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.bench_prediction_log import CONNECTIONS, load, request_bytes, wait_port  # noqa: E402
from examples import train  # noqa: E402
from zaphod import machine  # noqa: E402
from zaphod.experiment.lifecycle import start  # noqa: E402
from zaphod.experiment.plan import MetricPlan, Plan  # noqa: E402
from zaphod.experiment.spec import Mode  # noqa: E402
from zaphod.registry import CHAMPION, Registry  # noqa: E402

PLAN = Plan(metrics=(MetricPlan(name="right answers", measure="correct"),))
# Twice what the log keeps its rows: each turn has as many of its files.
SECONDS = 4.0
SIDES = ("without", "shadow")
QUANTILES = (0.9, 0.99)
# In which the challenger scores what waits.
PAUSE_S = 0.7


def make_registry(folder: Path, *, shadow: bool) -> str:
    """The demo's fraud model twice; with an experiment in the shadow."""
    registry = Registry.open(str(folder))
    versions = [train.train_fraud(registry).version for _ in range(2)]
    registry.set_alias("fraud", alias=CHAMPION, version=versions[0], action="promote", why="benchmark")
    if shadow:
        start(registry, "fraud", challenger=versions[1], plan=PLAN, mode=Mode.SHADOW, why="benchmark")
    return registry.uri


def paced(port: int, rate: float, seconds: float) -> list[float]:
    """Seconds from each request's due moment to its answer; the slots of a connection follow each other."""

    async def one(requests: list[bytes], begin: float, number: int) -> list[float]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        taken = []
        for i in range(int(rate * seconds / CONNECTIONS)):
            due = begin + (i * CONNECTIONS + number) / rate
            delay = due - time.perf_counter()
            if delay > 0:
                await asyncio.sleep(delay)
            writer.write(requests[i % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            taken.append(time.perf_counter() - due)
        writer.close()
        return taken

    async def many() -> list[float]:
        requests = request_bytes()
        begin = time.perf_counter() + 0.2
        several = await asyncio.gather(*(one(requests, begin, i) for i in range(CONNECTIONS)))
        return [seconds for each in several for seconds in each]

    return asyncio.run(many())


def copies(port: int) -> dict[str, int]:
    """What became of them."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    found = re.findall(r'zaphod_shadow_rows_total\{.*state="(\w+)".*\} (\d+)', text)
    return {state: int(number) for state, number in found}


def told(ratios: NDArray[np.float64]) -> dict[str, str]:
    """ratios: shape (pairs, turns, quantiles)."""
    rng = np.random.default_rng(1)
    num_pairs, num_turns, _ = ratios.shape
    pairs = rng.choice(num_pairs, (2_000, num_pairs, 1))
    turns = rng.choice(num_turns, (2_000, num_pairs, num_turns))
    low, high = np.quantile(np.median(ratios[pairs, turns], axis=(1, 2)), (0.05, 0.95), axis=0) - 1
    middle = np.median(ratios, axis=(0, 1)) - 1
    return {
        f"p{100 * quantile:.0f}": f"{middle[i]:+.1%} ({low[i]:+.1%} to {high[i]:+.1%})"
        for i, quantile in enumerate(QUANTILES)
    }


@contextlib.contextmanager
def pair(folder: Path, cores: list[int], pool: Pool) -> Iterator[dict[str, int]]:
    """The ports of a replica without a shadow and of one with it, both warmed up."""
    serve = str(ROOT / "benchmarks/bench_prediction_log.py")
    servers: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
    try:
        for side in SIDES:
            port = machine.free_port()
            registry = make_registry(folder / side, shadow=side == "shadow")
            command = [sys.executable, serve, "--serve", registry, str(folder / f"log-{side}"), str(port)]
            servers[side] = (subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}), port)
            # Before it has threads and a child, which inherit it.
            os.sched_setaffinity(servers[side][0].pid, cores)
        for _, port in servers.values():
            wait_port(port)
            pool.apply(load, (port, 1.0))
        yield {side: port for side, (_, port) in servers.items()}
    finally:
        for process, _ in servers.values():
            process.terminate()
            process.wait()


def take_turns(ports: dict[str, int], pool: Pool, *, rounds: int) -> list[NDArray[np.float64]]:
    """The quantiles with over those without, of each turn."""
    most = pool.apply(load, (ports["without"], 3.0)) / 3.0
    ratios = []
    for turn in range(rounds):
        ms = {}
        for side in SIDES if turn % 2 else SIDES[::-1]:
            taken = pool.apply(paced, (ports[side], most / 2, SECONDS))
            ms[side] = np.quantile(taken, QUANTILES) * 1000
            time.sleep(PAUSE_S)
        ratios.append(ms["shadow"] / ms["without"])
        print(f"{most / 2:,.0f}/s: p99 {ms['without'][-1]:.2f} ms without, {ms['shadow'][-1]:.2f} ms with", flush=True)
    return ratios


def main() -> None:
    """Prints each turn and the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=15, help="turns of each pair")
    parser.add_argument("--apart", action="store_true", help="the client has a core of its own")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if arguments.apart and len(cores) < 2:
        parser.error("--apart needs two cores: one for the client")
    theirs, ours = (cores[-1:], cores[:-1]) if arguments.apart else (cores, cores)
    spawn = multiprocessing.get_context("spawn")
    ratios = []
    with spawn.Pool(1, os.sched_setaffinity, (0, theirs)) as pool:
        for _ in range(arguments.pairs):
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name, pair(Path(name), ours, pool) as ports:
                ratios.append(take_turns(ports, pool, rounds=arguments.rounds))
                print(json.dumps(told(np.array(ratios[-1:])) | copies(ports["shadow"])), flush=True)
    print(json.dumps({"all": told(np.array(ratios))}))


if __name__ == "__main__":
    main()
