"""Raises and lowers the load on the shipped configuration and draws what the autoscaler makes of it.

Load: requests of 1,000 rows at a fixed rate, whether answers come or not (open loop): low, high, low. Drawn: the rate
asked and answered, replicas, p99 of each two seconds, failures. Written as SVG: docs/images/autoscaling.svg.

Not measured: several nodes. Delays are those of configs/serve.yaml, but for the one before scaling down, which is
shortened so that a picture takes minutes.

    python benchmarks/ramp_online.py [--high 300] [--seconds 40] [--output docs/images/autoscaling.svg]
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.bench_online import make_body, make_model  # noqa: E402  # the path is set above
from zaphod import machine  # noqa: E402

NUM_CALLERS = 32
NUM_ROWS = 1_000
WINDOW_S = 2.0


@dataclass
class Ramp:
    """What was asked and answered: seconds since the beginning, seconds taken, status."""

    url: str
    body: str
    began: float = field(default_factory=time.monotonic)
    asked: list[tuple[float, float, int]] = field(default_factory=list)
    replicas: list[tuple[float, int]] = field(default_factory=list)
    _due: queue.SimpleQueue[float | None] = field(default_factory=queue.SimpleQueue)

    def run(self, stages: Sequence[tuple[float, float]], count_replicas: Callable[[], int]) -> None:
        """stages: rate and seconds of each."""
        threads = [threading.Thread(target=self._call, daemon=True) for _ in range(NUM_CALLERS)]
        for thread in threads:
            thread.start()
        due, looked = self.began, 0.0
        for rate, seconds in stages:
            end = due + seconds
            while due < end:
                time.sleep(max(0.0, due - time.monotonic()))
                self._due.put(due)
                due += 1.0 / rate
                if time.monotonic() - looked > 0.5:
                    looked = time.monotonic()
                    self.replicas.append((looked - self.began, count_replicas()))
        for _ in threads:
            self._due.put(None)
        for thread in threads:
            thread.join()

    def _call(self) -> None:
        with httpx.Client(timeout=30) as client:
            while (due := self._due.get()) is not None:
                try:
                    headers = {"content-type": "application/json"}
                    status = client.post(self.url, content=self.body, headers=headers).status_code
                except httpx.HTTPError:
                    status = 0
                # From when it was due: a caller that was kept waiting counts as well.
                self.asked.append((due - self.began, time.monotonic() - due, status))


def draw(ramp: Ramp, path: Path) -> None:
    """Four panels over the same time."""
    times = np.array([each[0] for each in ramp.asked])
    taken = np.array([each[1] for each in ramp.asked])
    failed = np.array([each[2] != 200 for each in ramp.asked])
    edges = np.arange(0.0, times.max() + WINDOW_S, WINDOW_S)
    window = np.digitize(times, edges) - 1
    rate = [(edge, float((window == i).sum() / WINDOW_S)) for i, edge in enumerate(edges)]
    p99 = [
        (edge, float(np.quantile(taken[window == i], 0.99) * 1e3))
        for i, edge in enumerate(edges)
        if (window == i).any()
    ]
    bad = [(edge, float(failed[window == i].sum())) for i, edge in enumerate(edges)]
    panels = [
        (f"requests/s ({NUM_ROWS:,} rows each)", rate),
        ("replicas", [(at, float(number)) for at, number in ramp.replicas]),
        ("p99, ms", p99),
        ("failed requests", bad),
    ]
    width, height, left = 800, 110, 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height * len(panels) + 30}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    last = float(edges[-1])
    for number, (title, points) in enumerate(panels):
        top, most = number * height + 20, max(1.0, *(value for _, value in points)) * 1.1
        base = top + height - 30

        def place(at: float, value: float, *, base: float = base, most: float = most) -> str:
            return f"{left + at / last * (width - left - 20):.1f},{base - value / most * (height - 40):.1f}"

        steps: list[str] = []
        for i, (at, value) in enumerate(points):
            if i:
                steps.append(place(at, points[i - 1][1]))
            steps.append(place(at, value))
        parts += [
            f'<text x="{left}" y="{top}" fill="#333">{title}</text>',
            f'<line x1="{left}" y1="{base}" x2="{width - 20}" y2="{base}" stroke="#bbb"/>',
            f'<text x="{left - 6}" y="{base}" text-anchor="end" fill="#777">0</text>',
            f'<text x="{left - 6}" y="{base - (height - 40) / 1.1 + 4:.0f}" text-anchor="end" fill="#777">'
            f"{most / 1.1:.0f}</text>",
            f'<polyline points="{" ".join(steps)}" fill="none" stroke="#1f6feb" stroke-width="1.5"/>',
        ]
    foot = height * len(panels) + 22
    parts += [
        f'<text x="{left + at / last * (width - left - 20):.0f}" y="{foot}" text-anchor="middle" fill="#777">'
        f"{at:.0f} s</text>"
        for at in np.arange(0.0, last, 20.0)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</svg>", ""]))


def main() -> None:
    """Starts a server, runs the ramp, draws and sums up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--low", type=float, default=20.0, help="requests a second before and after")
    parser.add_argument("--high", type=float, default=300.0)
    parser.add_argument("--seconds", type=float, default=40.0, help="of the high load")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "autoscaling.svg")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        registry = make_model(home)
        config = yaml.safe_load((ROOT / "configs/serve.yaml").read_text())
        port = config["http_options"]["port"] = machine.free_port()
        config["applications"][0]["args"] |= {"registry": registry.uri, "models": ["fraud"]}
        config["applications"][0]["deployments"][0]["autoscaling_config"]["downscale_delay_s"] = 10
        (home / "serve.yaml").write_text(yaml.safe_dump(config))
        command = [
            sys.executable, "-m", "deployments", "up", "--config", "serve.yaml", "--ray-env",
            str(ROOT / "configs/ray.env"), "--dashboard-port", str(machine.free_port()),
        ]  # fmt: skip
        log = home / "launcher.log"
        with log.open("wb") as output:
            server = subprocess.Popen(command, cwd=home, stdout=output, stderr=output)
        while "Ctrl-C stops" not in log.read_text(errors="replace"):
            assert server.poll() is None, log.read_text(errors="replace")
            time.sleep(0.2)

        def count_replicas() -> int:
            running = machine.marked_processes(home / "var" / "run")
            return sum(machine.name_of(process).startswith("ray::ServeReplica") for process in running)

        ramp = Ramp(f"http://127.0.0.1:{port}/v1/models/fraud:predict", make_body("rows", NUM_ROWS))
        try:
            stages = [(arguments.low, 15.0), (arguments.high, arguments.seconds), (arguments.low, 60.0)]
            ramp.run(stages, count_replicas)
        finally:
            server.terminate()
            server.wait(timeout=60)
    draw(ramp, arguments.output)
    failed = sum(status != 200 for _, _, status in ramp.asked)
    most = max(number for _, number in ramp.replicas)
    print(
        json.dumps(
            {
                "asked": len(ramp.asked),
                "failed": failed,
                "most_replicas": most,
                "replicas_at_the_end": ramp.replicas[-1][1],
            }
        )
    )


if __name__ == "__main__":
    main()
