"""What a challenger in the shadow takes from the champion: the same replica with and without it, by turns in one run.

    python benchmarks/bench_shadow.py [--rounds 60]

Measured: a replica's ASGI application under uvicorn, one row a request, 12 fields, gradient boosting, the prediction
log on; an open loop of requests at half of what the replica without a shadow can answer, from a client in another
process; the 99th percentile of the time from a request's due moment to its answer. The challenger is a second version
of the same size that scores a copy of every request in its own process. Two replicas live at the same time and take
turns of a second; the figure is the median over the turns of p99 with over p99 without, and the interval in which 90 %
of such medians lie when the turns are drawn again. What the challenger scored and dropped is told too, for one that
scores nothing costs nothing.

Not measured: Ray and HAProxy in front of the replica. On a machine with few cores, client, champion and challenger
share them; the challenger's process scores when nothing else wants one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np

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
SECONDS = 1.0
# In which the challenger scores what waits.
PAUSE_S = 0.4


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


def main() -> None:
    """Prints each turn and the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    rounds = parser.parse_args().rounds
    serve = str(ROOT / "benchmarks/bench_prediction_log.py")
    with tempfile.TemporaryDirectory() as name, multiprocessing.get_context("spawn").Pool(1) as pool:
        servers: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
        for side in ("without", "shadow"):
            port = machine.free_port()
            registry = make_registry(Path(name) / side, shadow=side == "shadow")
            command = [sys.executable, serve, "--serve", registry, str(Path(name) / f"log-{side}"), str(port)]
            servers[side] = (subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}), port)
        try:
            for _, port in servers.values():
                wait_port(port)
                pool.apply(load, (port, 1.0))
            most = pool.apply(load, (servers["without"][1], 3.0)) / 3.0
            ratios = []
            for turn in range(rounds):
                p99 = {}
                for side in ("without", "shadow") if turn % 2 else ("shadow", "without"):
                    taken = pool.apply(paced, (servers[side][1], most / 2, SECONDS))
                    p99[side] = float(np.quantile(taken, 0.99)) * 1000
                    time.sleep(PAUSE_S)
                ratios.append(p99["shadow"] / p99["without"])
                print(
                    f"{most / 2:,.0f}/s: p99 {p99['without']:.2f} ms without, {p99['shadow']:.2f} ms with", flush=True
                )
            drawn = np.random.default_rng(1).choice(ratios, (2_000, len(ratios)))
            low, high = np.quantile(np.median(drawn, axis=1), (0.05, 0.95)) - 1
            p99 = f"{statistics.median(ratios) - 1:+.1%} ({low:+.1%} to {high:+.1%})"
            print(json.dumps({"p99": p99} | copies(servers["shadow"][1])))
        finally:
            for process, _ in servers.values():
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
