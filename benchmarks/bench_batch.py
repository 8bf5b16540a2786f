"""Batch: rows a second on the margin, fixed seconds and memory, beside what else one would use. 2 cores.

    python benchmarks/bench_batch.py [--rows 5000000] [--peers FOLDER] [--only zaphod,bare_onnx] [--growth]
                                     [--results FILE]

Measured: wall time of the whole command, seen from outside, for a small and a large table with the same columns, on
the same files, in turns; the best of `--repeat`. Ours with its prediction log, as configs/batch.yaml has it, and
without (`zaphod_without_log`), for the others write none. Margin = (large - small rows) / (large - small seconds).
Fixed = seconds for the small table. Memory = the highest sum of PSS over the process tree, looked at once a second.
CPU = user and system seconds of the process tree, as last seen twice a second: what is left of a comparison on a busy
machine.
With `--results` runs are kept in a file and added to those in it, so that a long comparison can be made in short turns.
Not measured: reading from a cold disk (the files were just written), a network, more than one node.
Polars, Daft and PySpark are no dependencies of ours: they are left out, and said to be, unless `--peers` names the
folder of `pip install --no-deps --target FOLDER polars polars-runtime-32 daft pyspark py4j` (PySpark needs Java 17).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import resource
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
_LOOK_S = 0.5
_LOOKS_PER_PSS = 2
_SETTLE_S = 2.0
_SETTLED = 0.15  # of a core
ON_CLUSTER = ("zaphod_on_cluster", "zaphod_without_log")
OURS = ("zaphod", *ON_CLUSTER, "zaphod_default")
EXTERNAL = ("polars", "daft", "pyspark")
# These have one process for both cores: scikit-learn's trees may use both.
ONE_PROCESS = ("polars_sklearn", "daft_sklearn")
PEERS = (
    "bare_onnx", "bare_onnx_float32", "bare_sklearn", "ray_fused", "ray_documented", "ray_documented_sklearn",
    *EXTERNAL, *(f"{name}_sklearn" for name in EXTERNAL),
)  # fmt: skip


@dataclass
class Run:
    """Of one command: wall seconds, the highest PSS of its processes, and their CPU seconds."""

    seconds: float
    peak_bytes: int
    cpu_seconds: float


@dataclass
class Figures:
    """Of one contender, by number of rows."""

    runs: dict[int, list[Run]] = field(default_factory=dict)

    def seconds(self, rows: int) -> float:
        return min(run.seconds for run in self.runs[rows])

    def peak(self, rows: int) -> float:
        return max(run.peak_bytes for run in self.runs[rows]) / 1e9

    def cpu(self, rows: int) -> float:
        return min(run.cpu_seconds for run in self.runs[rows])

    def margin(self, small: int, large: int) -> float:
        return (large - small) / (self.seconds(large) - self.seconds(small))

    def cpu_margin(self, small: int, large: int) -> float:
        """Microseconds of CPU for a row beyond the small table's."""
        return 1e6 * (self.cpu(large) - self.cpu(small)) / (large - small)


def data(rows: int) -> Path:
    """Ten files, and more where they would have more rows than half a million; written once."""
    folder = WORK / f"rows-{rows}"
    num_files = max(10, rows // 500_000)
    if not (folder / f"part-{num_files - 1:04d}.parquet").exists():
        transactions.write(folder, num_rows=rows, num_files=num_files)
        os.sync()  # or the first that runs waits for the disk
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
    watch = Watch(process, mark, joined="RAY_ADDRESS" in environ)
    while process.poll() is None:
        watch.look()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_LOOK_S)
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        raise SystemExit(f"{name} failed:\n{log.read_text()[-2000:]}")
    check(name, output, rows)
    return Run(seconds=seconds, peak_bytes=watch.peak_bytes, cpu_seconds=watch.cpu_seconds())


class Watch:
    """Of a process, its descendants and all that carry its mark; workers of a Ray that was joined count too."""

    def __init__(self, process: subprocess.Popen[bytes], mark: Path, *, joined: bool) -> None:
        self._process = process
        self._mark = mark
        self._joined = joined
        self._cpu: dict[int, float] = {}
        self._before = {each.pid: seconds_of(each) for each in self._cluster()}
        self._waited_before = waited_for()
        self._looks = 0
        self.peak_bytes = 0

    def look(self) -> None:
        tree = self._tree()
        for each in tree:
            with contextlib.suppress(psutil.Error):
                self._cpu[each.pid] = seconds_of(each)
        # PSS costs the kernel a walk over all pages.
        if self._looks % _LOOKS_PER_PSS == 0:
            total = 0
            for each in tree:
                with contextlib.suppress(psutil.Error):
                    total += each.memory_full_info().pss
            self.peak_bytes = max(self.peak_bytes, total)
        self._looks += 1

    def cpu_seconds(self) -> float:
        """Without what the cluster had used before. The kernel adds up exactly what parents have waited for."""
        return max(sum(self._cpu.values()) - sum(self._before.values()), waited_for() - self._waited_before)

    def _tree(self) -> list[psutil.Process]:
        tree: dict[int, psutil.Process] = {}
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self._process.pid)
            tree = {each.pid: each for each in [parent, *parent.children(recursive=True)]}
        tree |= {each.pid: each for each in [*machine.marked_processes(self._mark), *self._cluster()]}
        return list(tree.values())

    def _cluster(self) -> list[psutil.Process]:
        return machine.marked_processes(WORK / "cluster") if self._joined else []


def waited_for() -> float:
    """CPU seconds of children that have ended, and of theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def seconds_of(process: psutil.Process) -> float:
    """User and system."""
    times = process.cpu_times()
    return times.user + times.system


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
    settle()
    return {**ray_env, "RAY_ADDRESS": f"{machine.RAY_HOST}:{port}"}


def settle() -> None:
    """A cluster that has just been started is busy for some seconds with starting; one that runs is not."""
    before = -1.0
    while True:
        now = sum(seconds_of(each) for each in machine.marked_processes(WORK / "cluster"))
        if 0 <= now - before < _SETTLED * _SETTLE_S:
            return
        before = now
        time.sleep(_SETTLE_S)


def measure(names: list[str], sizes: list[int], *, repeat: int, peers: Path | None) -> dict[str, Figures]:
    """Contenders take turns, so that a busy moment of the machine does not fall on one alone."""
    figures = {name: Figures() for name in names}
    base = {**os.environ, **load_ray_env(ROOT / "configs/ray.env")}
    base["PYTHONPATH"] = str(ROOT)
    for _ in range(repeat):
        for rows in sizes:
            for name in names:
                environ = dict(base)
                if peers is not None and name.removesuffix("_sklearn") in EXTERNAL:
                    environ["PYTHONPATH"] += f"{os.pathsep}{peers}"
                if name in ON_CLUSTER:
                    environ |= start_cluster()
                if name == "zaphod_without_log":
                    environ["ZAPHOD_MONITORING"] = "{features: false}"
                if name in ONE_PROCESS:
                    environ["OMP_NUM_THREADS"] = "2"
                try:
                    figures[name].runs.setdefault(rows, []).append(run(name, rows, environ=environ))
                finally:
                    machine.end_marked(WORK / "cluster")
                print(f"  {name:20} {rows:>11,} rows  {figures[name].runs[rows][-1].seconds:7.2f} s", flush=True)
    return figures


def keep(path: Path, figures: dict[str, Figures]) -> dict[str, Figures]:
    """Adds the runs to the file, and returns all that are in it."""
    with path.open("a") as file:
        for name, each in figures.items():
            for rows, runs in each.runs.items():
                file.writelines(
                    json.dumps([name, rows, run.seconds, run.peak_bytes, run.cpu_seconds]) + "\n" for run in runs
                )
    every: dict[str, Figures] = {}
    for line in path.read_text().splitlines():
        name, rows, seconds, peak_bytes, cpu_seconds = json.loads(line)
        run = Run(seconds=seconds, peak_bytes=peak_bytes, cpu_seconds=cpu_seconds)
        every.setdefault(name, Figures()).runs.setdefault(rows, []).append(run)
    return every


def show(figures: dict[str, Figures], *, small: int, large: int) -> None:
    """The table, and the ratio of our margin to each; of those that were run on both tables."""
    figures = {name: each for name, each in figures.items() if {small, large} <= set(each.runs)}
    ours = next((figures[name] for name in (*ON_CLUSTER, "zaphod") if name in figures), None)
    print(
        f"\n| | fixed s ({small:,} rows) | rows/s on the margin | ours / theirs | CPU us a row | theirs / ours | "
        "peak PSS GB |\n|---|---|---|---|---|---|---|"
    )
    for name, each in figures.items():
        margin = each.margin(small, large)
        cost = each.cpu_margin(small, large)
        ratio = f"{ours.margin(small, large) / margin:.2f}" if ours else ""
        cost_ratio = f"{cost / ours.cpu_margin(small, large):.2f}" if ours else ""
        print(
            f"| {name} | {each.seconds(small):.1f} | {margin:,.0f} | {ratio} | {cost:.2f} | {cost_ratio} | "
            f"{each.peak(large):.2f} |"
        )


def show_growth(name: str, figures: Figures, sizes: list[int]) -> None:
    """Time a row and memory, as tables grow."""
    print(f"\n{name}\n| rows | seconds | us a row beyond the smallest | peak PSS GB |\n|---|---|---|---|")
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
    parser.add_argument("--sizes", help="rows of the tables, in place of --small and --rows")
    parser.add_argument("--growth", action="store_true", help="show time a row and memory by size")
    parser.add_argument("--results", type=Path, help="a file that keeps runs from one call to the next")
    arguments = parser.parse_args()
    registry = Registry.open(str(REGISTRY))
    if CHAMPION not in registry.state("fraud").aliases:
        packaged = train.train_fraud(registry)
        registry.set_alias("fraud", alias=CHAMPION, version=packaged.version, action="promote", why="benchmark")
    sys.path += [str(arguments.peers)] if arguments.peers else []
    names = arguments.only.split(",")
    package = {name: name.removesuffix("_sklearn") for name in names}
    missing = [name for name in names if package[name] in EXTERNAL and importlib.util.find_spec(package[name]) is None]
    if missing:
        print(f"left out, not installed: {', '.join(missing)}")
    names = [name for name in names if name not in missing]
    sizes = [int(size) for size in arguments.sizes.split(",")] if arguments.sizes else [arguments.small, arguments.rows]
    figures = measure(names, sizes, repeat=arguments.repeat, peers=arguments.peers)
    if arguments.results is not None:
        figures = keep(arguments.results, figures)
    if not arguments.growth:
        show(figures, small=arguments.small, large=arguments.rows)
        return
    for name, each in figures.items():
        show_growth(name, each, sorted(each.runs))


if __name__ == "__main__":
    main()
