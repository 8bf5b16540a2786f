"""How many events a second one scorer takes, and how soon an event's output is visible.

Measured: (1) throughput of one consuming process on the embedded queue with 12-field gradient boosting, from a
backlog, in one run with two others on the same queue and model: a plain consumer that asks the scikit-learn pipeline
one event at a time, and the ceiling, a loop that polls and commits as large micro-batches and has no model; sides take
turns.
(2) latency from an event's creation to its output being read, open loop at a fixed rate, producer, pool (on Ray) and
reader in processes of their own.

Not measured: networks, disks (`durability: os`), other machines. On a machine that does other things as well, only the
ratios of one run mean anything.

    python benchmarks/bench_streaming.py [--events 60000] [--rounds 3] [--rates 500 2000] [--url redis://…]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from examples import train, transactions  # noqa: E402  # the path is set above
from streaming.queues.base import MicroBatch, NewEvent, Output, Queue  # noqa: E402
from streaming.queues.factory import open_queue  # noqa: E402
from streaming.reader import Reader  # noqa: E402
from streaming.scorer import Scorer  # noqa: E402
from streaming.settings import QueueSettings, ScoringSettings, StreamingSettings  # noqa: E402
from zaphod.registry import CHAMPION, Registry  # noqa: E402
from zaphod.served import ServedModel  # noqa: E402
from zaphod.trust import load_estimator  # noqa: E402

MAX_BATCH = 256


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


def backlog(queue: Queue) -> int:
    """Events that wait."""
    return sum(position.lag for position in queue.positions())


def zaphod_scorer(settings: QueueSettings, registry: str) -> float:
    """Seconds that the scorer takes for the backlog."""
    queue = open_queue(settings)
    model = ServedModel.open(Registry.open(registry), "fraud")
    scoring = ScoringSettings(max_batch=MAX_BATCH)
    scorer = Scorer(queue.consumer("zaphod", lease_s=600), model, settings=scoring, lease_s=600)
    scorer.assign(range(settings.partitions), steal=range(settings.partitions))
    left = backlog(queue)
    began = time.perf_counter()
    while left > 0:
        left -= scorer.step()
    return time.perf_counter() - began


def commit_loop(settings: QueueSettings, registry: str) -> float:
    """The ceiling: poll and commit, no decoding, no model, outputs of the usual size."""
    return consume(settings, lambda batch: [b"x" * 190] * len(batch.events), max_events=MAX_BATCH)


def plain_consumer(settings: QueueSettings, registry: str) -> float:
    """What one writes by hand: each event a one-row frame for the pipeline, its answer committed with its offset."""
    estimator = load_estimator(Registry.open(registry).load("fraud", 1).files["model.skops"])

    def answer(batch: MicroBatch) -> list[bytes]:
        row = msgspec.json.decode(batch.events[0].value)
        frame = pd.DataFrame([{name: np.nan if row[name] is None else row[name] for name in transactions.FEATURES}])
        for name in transactions.CATEGORIES:
            frame[name] = frame[name].astype("str")
        return [
            msgspec.json.encode(
                {"label": int(estimator.predict(frame)[0]), "p": estimator.predict_proba(frame)[0].tolist()}
            )
        ]

    return consume(settings, answer, max_events=1)


def consume(settings: QueueSettings, answer: Callable[[MicroBatch], list[bytes]], *, max_events: int) -> float:
    """Seconds for the backlog."""
    queue = open_queue(settings)
    consumer = queue.consumer("peer", lease_s=600)
    for partition in range(settings.partitions):
        consumer.acquire(partition, steal=True)
    left = backlog(queue)
    began = time.perf_counter()
    while left > 0:
        batch = consumer.poll(max_events=max_events, wait_s=1.0)
        if batch is None:
            continue
        outputs = [
            Output(event.offset, event.id, event.key, value, {}, event.created)
            for event, value in zip(batch.events, answer(batch), strict=True)
        ]
        consumer.commit(batch, outputs=outputs, dead_letters=[])
        left -= len(batch.events)
    seconds = time.perf_counter() - began
    consumer.close()
    return seconds


def throughput(settings: Callable[[str], QueueSettings], registry: str, *, num_events: int, rounds: int) -> None:
    """Prints events/s of each side, the middle of some rounds, and the ratios."""
    sides = {
        "scorer": (zaphod_scorer, num_events),
        "commit loop": (commit_loop, num_events),
        "plain": (plain_consumer, 1_000),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    context = multiprocessing.get_context("spawn")
    for number in range(rounds):
        for name, (run, num) in sides.items():
            queue = settings(f"{name.replace(' ', '-')}-{number}")
            fill(queue, num)
            with context.Pool(1) as pool:
                rates[name].append(num / pool.apply(run, (queue, registry)))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in middle.items():
        print(f"{name:<12} {rate:>10,.0f} events/s   (rounds: {', '.join(f'{value:,.0f}' for value in rates[name])})")
    over_plain, of_ceiling = middle["scorer"] / middle["plain"], middle["scorer"] / middle["commit loop"]
    print(f"scorer over plain consumer {over_plain:.0f}x, over commit loop {of_ceiling:.2f}")


def latency(
    config: Path, settings: StreamingSettings, home: Path, events: Path, *, rate: float, seconds: float
) -> None:
    """Prints p50 and p99 where outputs are read."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "ZAPHOD_HOME": str(home)}
    with (home / "pool.log").open("ab") as log:
        pool = subprocess.Popen(
            [sys.executable, "-m", "streaming", "--config", str(config)], cwd=ROOT, env=environ, stdout=log, stderr=log
        )
    queue = open_queue(settings.queue)
    while not all(position.owner and not position.expired for position in queue.positions()):
        time.sleep(0.1)
        assert pool.poll() is None, (home / "pool.log").read_text()
    reader = Reader(queue, cursors=queue.output_ends())
    limit = int(rate * seconds)
    producer = subprocess.Popen(
        [sys.executable, "-m", "streaming", "produce", "--config", str(config), "--events", str(events),
         "--rate", str(rate), "--limit", str(limit)],
        cwd=ROOT, env=environ, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    ages: list[float] = []
    quiet_since = time.monotonic()
    while len(ages) < limit and time.monotonic() - quiet_since < 20:
        found = reader.read(wait_s=0.5)
        now = time.time()
        ages.extend(now - delivered.output.created for delivered in found)
        quiet_since = time.monotonic() if found else quiet_since
    producer.wait()
    pool.terminate()
    pool.wait()
    queue.close()
    ms = np.array(ages) * 1000
    print(
        f"at {rate:>7,.0f} events/s: {len(ages):,} of {limit:,} outputs, "
        f"p50 {np.quantile(ms, 0.5):.2f} ms, p99 {np.quantile(ms, 0.99):.2f} ms, max {ms.max():.1f} ms"
    )


def main() -> None:
    """Both measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rates", type=float, nargs="*", default=[500.0, 2_000.0])
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--url", help="redis://… or kafka://… instead of the embedded queue")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        registry = make_registry(home / "registry")

        def settings(name: str) -> QueueSettings:
            if arguments.url:
                return QueueSettings(
                    kind=arguments.url.partition(":")[0], url=arguments.url, name=f"bench-{os.getpid()}-{name}",
                    partitions=4,
                )  # fmt: skip
            return QueueSettings(path=str(home / name), partitions=4)

        throughput(settings, registry.uri, num_events=arguments.events, rounds=arguments.rounds)
        transactions.write(home / "events", num_rows=100_000, num_files=1)
        for rate in arguments.rates:
            queue = settings(f"latency-{rate:.0f}")
            made = StreamingSettings(registry=registry.uri, model="fraud", queue=queue)
            document = made.model_dump(mode="json")
            document["queue"]["url"] = queue.url.get_secret_value()
            config = home / f"streaming-{rate:.0f}.yaml"
            config.write_text(yaml.safe_dump(document))
            latency(config, made, home, home / "events", rate=rate, seconds=arguments.seconds)


if __name__ == "__main__":
    main()
