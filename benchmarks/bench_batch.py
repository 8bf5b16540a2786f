"""Batch: rows a second on the margin, fixed seconds and memory, beside what else one would use. 2 cores.

    python benchmarks/bench_batch.py [--rows 5000000] [--peers FOLDER] [--only zaphod,bare_onnx] [--growth]

Measured: wall time of the whole command, seen from outside, for a small and a large table with the same columns, on
the same files, in turns; the best of `--repeat`. Margin = (large - small rows) / (large - small seconds). Fixed =
seconds for the small table. Memory = the highest sum of PSS over the process tree, looked at once a second.
Not measured: reading from a cold disk (the files were just written), a network, more than one node.
Polars, Daft and PySpark are no dependencies of ours: they are left out, and said to be, unless `--peers` names the
folder of `pip install --no-deps --target FOLDER polars polars-runtime-32 daft pyspark py4j` (PySpark needs Java 17).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import train, transactions  # noqa: E402  # the path is set above
from zaphod import machine  # noqa: E402
from zaphod.registry import CHAMPION, Registry  # noqa: E402
from zaphod.settings import load_ray_env  # noqa: E402

WORK = ROOT / "var" / "bench" / "batch"
REGISTRY = WORK / "registry"
OURS = ("zaphod", "zaphod_on_cluster", "zaphod_default")
EXTERNAL = ("polars", "daft", "pyspark")
PEERS = ("bare_onnx", "bare_onnx_float32", "bare_sklearn", "ray_fused", "ray_documented", *EXTERNAL)


@dataclass
class Run:
    """Of one command: seconds and the highest PSS of its processes."""

    seconds: float
    peak_bytes: int


@dataclass
class Figures:
    """Of one contender, by number of rows."""

    runs: dict[int, list[Run]] = field(default_factory=dict)

    def seconds(self, rows: int) -> float:
        return min(run.seconds for run in self.runs[rows])

    def peak(self, rows: int) -> float:
        return max(run.peak_bytes for run in self.runs[rows]) / 1e9

    def margin(self, small: int, large: int) -> float:
        return (large - small) / (self.seconds(large) - self.seconds(small))


def data(rows: int) -> Path:
    """Ten files; written once."""
    folder = WORK / f"rows-{rows}"
    if not (folder / "part-0009.parquet").exists():
        transactions.write(folder, num_rows=rows, num_files=10)
    return folder


def command(name: str, source: Path, output: Path) -> list[str]:
    """What is run and timed."""
    if name not in OURS:
        return [sys.executable, str(ROOT / "benchmarks/batch_peers.py"), name, str(source), str(output), str(REGISTRY)]
    config = ROOT / "configs" / "batch.yaml"
    flags = {
        "registry": REGISTRY,
        "input": source,
        "output": output,
        "in-process-s": 2 if name == "zaphod_default" else 0,
    }
    ours = [sys.executable, "-m", "batch", "--config", str(config)]
    return [*ours, *(str(word) for flag, value in flags.items() for word in (f"--{flag}", value))]


def run(name: str, rows: int, *, environ: dict[str, str]) -> Run:
    """Raises: SystemExit with the command's last words when it fails or writes another number of rows."""
    output = WORK / "output" / name
    shutil.rmtree(output, ignore_errors=True)
    mark = WORK / f"mark-{name}-{time.monotonic_ns()}"
    log = WORK / f"{name}.log"
    began = time.perf_counter()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(name, data(rows), output),
            cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env={**environ, machine.MARK: str(mark)},
        )  # fmt: skip
    peak = 0
    while process.poll() is None:
        peak = max(peak, pss(process, mark, joined="RAY_ADDRESS" in environ))
        try:
            process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            continue
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        raise SystemExit(f"{name} failed:\n{log.read_text()[-2000:]}")
    check(name, output, rows)
    return Run(seconds=seconds, peak_bytes=peak)


def pss(process: subprocess.Popen[bytes], mark: Path, *, joined: bool) -> int:
    """Of the process, its descendants and all that carry its mark; workers of a Ray that was joined count too."""
    tree: dict[int, psutil.Process] = {}
    try:
        parent = psutil.Process(process.pid)
        tree = {each.pid: each for each in [parent, *parent.children(recursive=True)]}
    except psutil.Error:
        pass
    tree |= {each.pid: each for each in machine.marked_processes(mark)}
    if joined:
        tree |= {each.pid: each for each in machine.marked_processes(WORK / "cluster")}
    total = 0
    for each in tree.values():
        try:
            total += each.memory_full_info().pss
        except psutil.Error:
            continue
    return total


def check(name: str, output: Path, rows: int) -> None:
    """Everybody wrote every row."""
    import pyarrow.parquet as pq

    found = sum(pq.read_metadata(path).num_rows for path in output.rglob("*.parquet") if ".staging" not in path.parts)
    if found != rows:
        raise SystemExit(f"{name} wrote {found} rows of {rows}")


def start_cluster() -> dict[str, str]:
    """A running Ray with two CPUs; returns the environment to join it."""
    port = machine.free_port()
    ray_env = load_ray_env(ROOT / "configs/ray.env")
    machine.ensure_ray_token(ray_env)
    subprocess.run(
        [
            str(Path(sys.executable).parent / "ray"), "start", "--head", f"--node-ip-address={machine.RAY_HOST}",
            f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats",
            f"--ray-client-server-port={machine.free_port()}",
        ],
        env={**os.environ, **ray_env, machine.MARK: str(WORK / "cluster")}, check=True, capture_output=True,
    )  # fmt: skip
    return {**ray_env, "RAY_ADDRESS": f"{machine.RAY_HOST}:{port}"}


def measure(names: list[str], sizes: list[int], *, repeat: int, peers: Path | None) -> dict[str, Figures]:
    """Contenders take turns, so that a busy moment of the machine does not fall on one alone."""
    figures = {name: Figures() for name in names}
    base = {**os.environ, **load_ray_env(ROOT / "configs/ray.env")}
    base["PYTHONPATH"] = os.pathsep.join([str(ROOT), *([str(peers)] if peers else [])])
    for _ in range(repeat):
        for rows in sizes:
            for name in names:
                environ = dict(base)
                if name == "zaphod_on_cluster":
                    environ |= start_cluster()
                try:
                    figures[name].runs.setdefault(rows, []).append(run(name, rows, environ=environ))
                finally:
                    machine.end_marked(WORK / "cluster")
                print(f"  {name:20} {rows:>11,} rows  {figures[name].runs[rows][-1].seconds:7.2f} s", flush=True)
    return figures


def show(figures: dict[str, Figures], *, small: int, large: int) -> None:
    """The table, and the ratio of our margin to each."""
    ours = next((figures[name] for name in ("zaphod_on_cluster", "zaphod") if name in figures), None)
    print(
        f"\n| | fixed s ({small:,} rows) | rows/s on the margin | ours / theirs | peak PSS GB |\n|---|---|---|---|---|"
    )
    for name, each in figures.items():
        margin = each.margin(small, large)
        ratio = f"{ours.margin(small, large) / margin:.2f}" if ours else ""
        print(f"| {name} | {each.seconds(small):.1f} | {margin:,.0f} | {ratio} | {each.peak(large):.2f} |")


def show_growth(figures: Figures, sizes: list[int]) -> None:
    """Time a row and memory, as tables grow."""
    print("\n| rows | seconds | us a row beyond the smallest | peak PSS GB |\n|---|---|---|---|")
    for rows in sizes:
        over = "" if rows == sizes[0] else f"{1e6 / figures.margin(sizes[0], rows):.3f}"
        print(f"| {rows:,} | {figures.seconds(rows):.1f} | {over} | {figures.peak(rows):.2f} |")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--small", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--only", default=",".join((*OURS, *PEERS)))
    parser.add_argument("--growth", action="store_true", help="ours alone at 1, 5, 20 and 50 million rows")
    arguments = parser.parse_args()
    registry = Registry.open(str(REGISTRY))
    if CHAMPION not in registry.state("fraud").aliases:
        packaged = train.train_fraud(registry)
        registry.set_alias("fraud", alias=CHAMPION, version=packaged.version, action="promote", why="benchmark")
    if arguments.growth:
        sizes = [1_000_000, 5_000_000, 20_000_000, 50_000_000]
        figures = measure(["zaphod_on_cluster"], sizes, repeat=arguments.repeat, peers=None)
        show_growth(figures["zaphod_on_cluster"], sizes)
        return
    names = arguments.only.split(",")
    sys.path += [str(arguments.peers)] if arguments.peers else []
    missing = [name for name in names if name in EXTERNAL and importlib.util.find_spec(name) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)}")
    names = [name for name in names if name not in missing]
    sizes = [arguments.small, arguments.rows]
    show(
        measure(names, sizes, repeat=arguments.repeat, peers=arguments.peers),
        small=arguments.small,
        large=arguments.rows,
    )


if __name__ == "__main__":
    main()
