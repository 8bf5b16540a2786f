"""How many events a second one scorer takes, and how soon an event's output is visible.

Measured: (1) throughput of one consuming process with 12-field gradient boosting, from a backlog, with and without the
prediction log, in one run with others on the same queue and model: a plain consumer that asks the scikit-learn pipeline
one event at a time, a Bytewax dataflow that asks it about whole micro-batches (where `bytewax` is installed), and the
ceiling, a loop that polls and commits as large micro-batches and has no model. Sides take turns; each turn is a new
process and a new stream.
(2) latency from an event's creation to its output being read, open loop, producer, pool (on Ray) and reader in
processes of their own, at half the rate that all of them together sustain on this machine, or at given rates; the first
three seconds, in which Ray still starts workers, are not counted.

Not measured: networks, disks (`durability: os`), other machines. On a machine that does other things as well, only the
ratios of one run mean anything. Faust and Quix need a Kafka server; they are not run.

    python benchmarks/bench_streaming.py [--events 60000] [--rounds 3] [--rates 500 2000] [--url redis://…]
"""

from __future__ import annotations

import argparse
import functools
import gc
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import streaming_peers as peers  # noqa: E402  # the path is set above
from examples import train, transactions  # noqa: E402
from streaming.queues.base import NewEvent  # noqa: E402
from streaming.queues.factory import open_queue  # noqa: E402
from streaming.reader import Reader  # noqa: E402
from streaming.scorer import Scorer  # noqa: E402
from streaming.settings import QueueSettings, ScoringSettings, StreamingSettings  # noqa: E402
from zaphod.monitoring.log import open_log  # noqa: E402
from zaphod.monitoring.record import Arm  # noqa: E402
from zaphod.monitoring.settings import LogSettings  # noqa: E402
from zaphod.registry import CHAMPION, Registry  # noqa: E402
from zaphod.served import Recording, ServedModel  # noqa: E402

MAX_BATCH = 256
ONE_BY_ONE = 500
SILENT_S = 20.0
WARM_UP_S = 3.0


def make_registry(folder: Path) -> Registry:
    """The demo's fraud model."""
    registry = Registry.open(str(folder))
    packaged = train.train_fraud(registry)
    registry.set_alias("fraud", alias=CHAMPION, version=packaged.version, action="promote", why="benchmark")
    return registry


def make_events(num: int, *, prefix: str) -> list[NewEvent]:
    """Rows of the demo table."""
    frame = transactions.generate(min(num, 20_000), seed=5)[list(transactions.FEATURES)]
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    values = [msgspec.json.encode(row) for row in rows]
    return [NewEvent(value=values[i % len(values)], id=f"{prefix}{i}", created=time.time()) for i in range(num)]


def fill(settings: QueueSettings, num: int) -> None:
    """A backlog."""
    queue = open_queue(settings)
    events = make_events(num, prefix=f"{time.time()}-")
    for start in range(0, num, 5_000):
        queue.produce(events[start : start + 5_000])
    queue.close()


def score(settings: QueueSettings, registry: str, *, log: str | None = None) -> float:
    """Seconds that the scorer takes for the backlog; with the log, until all of it is in files."""
    queue = open_queue(settings)
    recording = None
    if log is not None:
        kept = LogSettings(uri=log)
        opened = open_log(kept)
        assert opened is not None
        recording = Recording(opened, Arm.STREAMING, kept)
    model = ServedModel.open(Registry.open(registry), "fraud", recording=recording)
    scoring = ScoringSettings(max_batch=MAX_BATCH)
    scorer = Scorer(queue.consumer("zaphod", lease_s=600), model, settings=scoring, lease_s=600)
    scorer.assign(range(settings.partitions), steal=range(settings.partitions))
    left = peers.backlog(queue)
    began = time.perf_counter()
    while left > 0:
        left -= scorer.step()
    if recording is not None:
        recording.log.close()
    seconds = time.perf_counter() - began
    model.close()
    return seconds


def throughput(
    settings: Callable[[str], QueueSettings], registry: str, log: str, *, num_events: int, rounds: int
) -> None:
    """Prints events/s of each side, the middle of some rounds, and the ratios."""
    sides: dict[str, tuple[Callable[[QueueSettings, str], float], int]] = {
        "scorer": (score, num_events),
        "commit loop": (functools.partial(peers.commit_loop, max_events=MAX_BATCH), num_events),
        "scorer, logged": (functools.partial(score, log=log), num_events),
        "plain": (functools.partial(peers.plain_consumer, max_events=1), ONE_BY_ONE),
    }
    if peers.HAS_BYTEWAX:
        sides["bytewax"] = (functools.partial(peers.bytewax_flow, max_events=MAX_BATCH), num_events // 4)
    rates: dict[str, list[float]] = {name: [] for name in sides}
    context = multiprocessing.get_context("spawn")
    for number in range(rounds):
        for name, (run, num) in sides.items():
            queue = settings(f"{name.replace(' ', '-').replace(',', '')}-{number}")
            fill(queue, num)
            with context.Pool(1) as pool:
                rates[name].append(num / pool.apply(run, (queue, registry)))
    for name, values in rates.items():
        rounded = ", ".join(f"{value:,.0f}" for value in values)
        print(f"{name:<15} {statistics.median(values):>10,.0f} events/s   (rounds: {rounded})", flush=True)
    for name in list(sides)[1:]:
        ratios = [mine / other for mine, other in zip(rates["scorer"], rates[name], strict=True)]
        print(
            f"scorer over {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True
        )


@dataclass
class OpenLoop:
    """Producer, pool and reader, each a process of its own (the reader is this one), on a new stream."""

    config: Path
    settings: StreamingSettings
    home: Path
    ages: list[float] = field(default_factory=list)
    seen: list[tuple[float, int]] = field(default_factory=list)

    def run(self, *, rate: float | None, limit: int) -> None:
        """Sends so many events at the rate, as fast as it goes when None, and reads their outputs."""
        environ = {**os.environ, "PYTHONPATH": str(ROOT), "ZAPHOD_HOME": str(self.home)}
        command = [sys.executable, "-m", "streaming"]
        with (self.home / "pool.log").open("ab") as log:
            pool = subprocess.Popen(
                [*command, "--config", str(self.config)], cwd=ROOT, env=environ, stdout=log, stderr=log
            )
        try:
            queue = open_queue(self.settings.queue)
            while not all(position.owner and not position.expired for position in queue.positions()):
                time.sleep(0.1)
                assert pool.poll() is None, (self.home / "pool.log").read_text()
            reader = Reader(queue, cursors=queue.output_ends())
            gc.freeze()  # as `python -m streaming consume` does
            producer = subprocess.Popen(
                [*command, "produce", "--config", str(self.config), "--events", str(self.home / "events"),
                 "--limit", str(limit), *(() if rate is None else ("--rate", str(rate)))],
                cwd=ROOT, env=environ, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            quiet_since = time.monotonic()
            while len(self.ages) < limit and time.monotonic() - quiet_since < SILENT_S:
                found = reader.read(wait_s=0.5)
                now = time.time()
                self.ages.extend(now - delivered.output.created for delivered in found)
                if found:
                    quiet_since = time.monotonic()
                    self.seen.append((quiet_since, len(self.ages)))
            producer.wait()
            queue.close()
        finally:
            pool.terminate()
            pool.wait()

    def rate(self) -> float:
        """Outputs a second, without the first seconds and the last twentieth of them."""
        low = next(mark for mark in self.seen if mark[0] >= self.seen[0][0] + WARM_UP_S)
        high = next(mark for mark in self.seen if mark[1] >= 0.95 * len(self.ages))
        assert high[0] > low[0] + 1.0, "the flood was over too soon"
        return (high[1] - low[1]) / (high[0] - low[0])


def latency(open_loop: Callable[[str], OpenLoop], *, rates: list[float], seconds: float, flood: int) -> None:
    """Prints the rate that is sustained, unless rates are given, and p50 and p99 where outputs are read.

    flood: number of events by which the rate is found.
    """
    if not rates:
        loop = open_loop("flood")
        loop.run(rate=None, limit=flood)
        sustained = loop.rate()
        print(f"producer, one scorer and reader together sustain {sustained:,.0f} events/s", flush=True)
        rates = [500.0, sustained / 4, sustained / 2]
    for rate in rates:
        loop, limit = open_loop(f"rate-{rate:.0f}"), int(rate * (WARM_UP_S + seconds))
        loop.run(rate=rate, limit=limit)
        ms = np.array(loop.ages[int(rate * WARM_UP_S) :]) * 1000
        print(
            f"at {rate:>7,.0f} events/s: {len(loop.ages):,} of {limit:,} outputs, p50 {np.quantile(ms, 0.5):.2f} ms, "
            f"p99 {np.quantile(ms, 0.99):.2f} ms, p99.9 {np.quantile(ms, 0.999):.2f} ms, max {ms.max():.1f} ms",
            flush=True,
        )


def main() -> None:
    """Both measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3, help="0: latency only")
    parser.add_argument("--rates", type=float, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=15.0, help="0: throughput only")
    parser.add_argument(
        "--flood", type=int, default=400_000, help="events that find the sustained rate; over 5 s' worth"
    )
    parser.add_argument("--url", help="redis://… or kafka://… instead of the embedded queue")
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--option", nargs="*", default=[], help="kafka: librdkafka's settings, key=value")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        registry = make_registry(home / "registry")

        def queue_of(name: str) -> dict[str, object]:
            if arguments.url:
                options = dict(option.split("=", 1) for option in arguments.option)
                kind, name = arguments.url.partition(":")[0], f"bench-{os.getpid()}-{name}"
                return {
                    "kind": kind,
                    "url": arguments.url,
                    "name": name,
                    "partitions": arguments.partitions,
                    "options": options,
                }
            return {"path": str(home / name), "partitions": arguments.partitions}

        def settings(name: str) -> QueueSettings:
            return QueueSettings.model_validate(queue_of(name))

        def open_loop(name: str) -> OpenLoop:
            pool = {"min_scorers": 1, "max_scorers": 1}
            document = {"registry": registry.uri, "model": "fraud", "queue": queue_of(name), "pool": pool}
            config = home / f"{name}.yaml"
            config.write_text(yaml.safe_dump(document))
            return OpenLoop(config, StreamingSettings.model_validate(document), home)

        if arguments.rounds:
            throughput(
                settings, registry.uri, str(home / "log"), num_events=arguments.events, rounds=arguments.rounds
            )  # fmt: skip
        if arguments.seconds:
            transactions.write(home / "events", num_rows=600_000, num_files=6)
            latency(open_loop, rates=arguments.rates, seconds=arguments.seconds, flood=arguments.flood)


if __name__ == "__main__":
    main()
