"""What the prediction log takes of an arm's throughput: each arm with the log and without, by turns in one run.

    python benchmarks/bench_prediction_log.py [--rounds 7] [--arms online streaming]

Measured: (online) a replica's ASGI application under uvicorn, one row a request with an entity in a header, 12 fields,
gradient boosting, 8 connections kept open by a client in another process; (streaming) one scorer's loop on a backlog of
the embedded queue, micro-batches of 256, the keys of 20,000 customers; (batch) a job of two files on one core as
configs/batch.yaml has it, which logs answers alone, without entities. The log of the other two keeps every feature,
hashes the entity and writes to a local folder every two seconds. Both sides live at the same time and take turns, so
that a busy machine slows both; the figure is the median over the turns of time with over time without. `cpu` is the
process's own processor time for the same, the log's thread included: what the log takes where no core is free.

Not measured: Ray and HAProxy in front of the replica, which cost both sides the same and make the log's share smaller;
buckets as storage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.bench_streaming import make_events, make_registry  # noqa: E402  # the path is set above
from benchmarks.streaming_peers import backlog  # noqa: E402
from examples import transactions  # noqa: E402
from streaming.queues.factory import open_queue  # noqa: E402
from streaming.scorer import Scorer  # noqa: E402
from streaming.settings import QueueSettings, ScoringSettings  # noqa: E402
from zaphod import machine  # noqa: E402
from zaphod.monitoring.log import open_log  # noqa: E402
from zaphod.monitoring.record import Arm  # noqa: E402
from zaphod.monitoring.settings import LogSettings  # noqa: E402
from zaphod.registry import Registry  # noqa: E402
from zaphod.served import Recording, ServedModel  # noqa: E402
from zaphod.shadow import ShadowCounts  # noqa: E402

CONNECTIONS = 8
EVENTS = 1_200_000
CUSTOMERS = 20_000
BATCH_ROWS = 400_000
Cost = tuple[float, float]
"""Seconds by the clock, and of the processor."""


def served(registry: str, log: str | None, arm: Arm) -> ServedModel:
    """The model, recording when a folder is given."""
    recording = None
    if log is not None:
        settings = LogSettings(uri=log)
        opened = open_log(settings)
        assert opened is not None
        recording = Recording(opened, arm, settings)
    return ServedModel.open(Registry.open(registry), "fraud", recording=recording)


def serve(registry: str, log: str, port: int) -> None:
    """A replica's application alone: `--serve`."""
    import uvicorn

    from deployments import inline
    from deployments.access import open_access
    from deployments.asgi import OnlineApp
    from deployments.batching import Batcher
    from deployments.catalogue import Catalogue
    from deployments.lookups import Lookups
    from deployments.metrics import Meter
    from deployments.outcomes import OutcomeInbox
    from deployments.protocols.plain import Plain
    from deployments.scaling import Busyness
    from deployments.scoring import Scoring
    from deployments.settings import Limits

    model = served(registry, log or None, Arm.ONLINE)

    def shadows() -> dict[str, ShadowCounts]:
        trial = model.snapshot().trial
        return {} if trial is None or trial.shadow is None else {"fraud": trial.shadow.counts}

    catalogue = Catalogue({"fraud": model})
    limits = Limits()
    app = OnlineApp(
        catalogue, protocols=[Plain(limits=limits)], scoring=Scoring(Batcher(max_rows=1_024)), limits=limits,
        access=open_access(None), inbox=OutcomeInbox(None, max_rows=1), lookups=Lookups(None, timeout_s=1.0),
        meter=Meter(replica="r", busyness=Busyness(), shadows=shadows),
    )  # fmt: skip
    # As a replica answers what takes microseconds: where HTTP is parsed.
    inline.install(app, shedding=lambda: inline.Shedding(None, 429, None))
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


def request_bytes() -> list[bytes]:
    """A few hundred different requests."""
    frame = transactions.generate(200, seed=5)[list(transactions.FEATURES)]
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    made = []
    for i, row in enumerate(rows):
        body = msgspec.json.encode(row)
        head = (
            f"POST /v1/models/fraud:predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"x-zaphod-entity: customer-{i}\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


def load(port: int, seconds: float) -> int:
    """Requests answered; runs in a process of its own."""

    async def one(requests: list[bytes], deadline: float, offset: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = offset
        while time.perf_counter() < deadline:
            writer.write(requests[count % len(requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            count += 1
        writer.close()
        return count - offset

    async def many() -> int:
        requests = request_bytes()
        deadline = time.perf_counter() + seconds
        return sum(await asyncio.gather(*(one(requests, deadline, i * 20) for i in range(CONNECTIONS))))

    return asyncio.run(many())


def online(folder: Path, registry: str, rounds: int) -> list[Cost]:
    """What an answer takes with the log over without, of each turn."""
    servers: dict[str, tuple[subprocess.Popen[bytes], int]] = {}
    for side in ("off", "on"):
        port = machine.free_port()
        log = str(folder / "online") if side == "on" else ""
        command = [sys.executable, __file__, "--serve", registry, log, str(port)]
        servers[side] = (subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}), port)
    try:
        for _, port in servers.values():
            wait_port(port)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            ratios = []
            for turn in range(rounds + 1):
                taken: dict[str, Cost] = {}
                for side in ("off", "on") if turn % 2 else ("on", "off"):
                    process, port = servers[side]
                    before = cpu_s(process.pid)
                    answered = pool.apply(load, (port, 3.0))
                    # What the log still has to write belongs to the turn.
                    time.sleep(2.2)
                    taken[side] = (3.0 / answered, (cpu_s(process.pid) - before) / answered)
                if turn:  # the first warms up
                    ratios.append(told("online", taken))
        return ratios
    finally:
        for process, _ in servers.values():
            process.terminate()
            process.wait()


def streaming(folder: Path, registry: str, rounds: int) -> list[Cost]:
    """As `online`; the models live for all turns: the first files of a log take longer than all others."""
    models = {
        "off": served(registry, None, Arm.STREAMING),
        "on": served(registry, str(folder / "streaming"), Arm.STREAMING),
    }
    ratios = []
    for turn in range(rounds + 1):
        taken = {}
        for side in ("off", "on") if turn % 2 else ("on", "off"):
            settings = QueueSettings(path=str(folder / f"stream-{side}-{turn}"), partitions=1)
            fill(settings)
            taken[side] = drain(settings, models[side])
            shutil.rmtree(folder / f"stream-{side}-{turn}")
        if turn:
            ratios.append(told("streaming", taken))
    for model in models.values():
        model.close()
    return ratios


def fill(settings: QueueSettings) -> None:
    """A backlog, each event about a customer."""
    queue = open_queue(settings)
    events = make_events(EVENTS, prefix=f"{time.time()}-")
    keyed = [msgspec.structs.replace(event, key=f"customer-{i * 7919 % CUSTOMERS}") for i, event in enumerate(events)]
    for start in range(0, EVENTS, 5_000):
        queue.produce(keyed[start : start + 5_000])
    queue.close()


def told(arm: str, taken: dict[str, Cost]) -> Cost:
    """With over without."""
    (seconds_on, cpu_on), (seconds_off, cpu_off) = taken["on"], taken["off"]
    print(
        f"{arm}: {1e6 * seconds_off:.2f} us without, {1e6 * seconds_on:.2f} with; "
        f"of the processor {1e6 * cpu_off:.2f} and {1e6 * cpu_on:.2f}",
        flush=True,
    )
    return seconds_on / seconds_off, cpu_on / cpu_off


def batch(folder: Path, registry: str, rounds: int) -> list[Cost]:
    """As `online`, of a job in this very process."""
    from rich.console import Console

    from batch.inline import inline_executor
    from batch.job import Job
    from batch.settings import BatchSettings

    (folder / "input").mkdir()
    for part in range(2):
        frame = transactions.generate(BATCH_ROWS // 2, seed=part)
        frame.to_parquet(folder / f"input/part-{part}.parquet", index=False)
    ratios = []
    for turn in range(rounds + 1):
        taken = {}
        for side in ("off", "on") if turn % 2 else ("on", "off"):
            monitoring = {"uri": str(folder / "batch") if side == "on" else None, "features": False}
            settings = BatchSettings.model_validate(
                {"model": "fraud", "registry": registry, "input": str(folder / "input"), "keep": ["transaction_id"],
                 "output": str(folder / f"batch-{side}-{turn}"), "monitoring": monitoring}
            )  # fmt: skip
            job = Job(settings, open_executor=lambda seconds: inline_executor(), console=Console(quiet=True))
            ready = job.check()
            began, cpu = time.perf_counter(), time.process_time()
            job.run(ready)
            taken[side] = (time.perf_counter() - began) / BATCH_ROWS, (time.process_time() - cpu) / BATCH_ROWS
        if turn:
            ratios.append(told("batch", taken))
    return ratios


def drain(settings: QueueSettings, model: ServedModel) -> Cost:
    """For the backlog: seconds until the last output is committed; the processor's until all of the log is in files."""
    queue = open_queue(settings)
    scorer = Scorer(queue.consumer("bench", lease_s=600), model, settings=ScoringSettings(max_batch=256), lease_s=600)
    scorer.assign([0])
    left = backlog(queue)
    began, cpu = time.perf_counter(), time.process_time()
    while left > 0:
        left -= scorer.step()
    seconds = time.perf_counter() - began
    recorder = model.snapshot().recorder
    if recorder is not None:
        assert recorder.log.flush(timeout_s=60)
        assert not recorder.log.counts.dropped
    cost = seconds / EVENTS, (time.process_time() - cpu) / EVENTS
    queue.close()
    return cost


def cpu_s(pid: int) -> float:
    """Processor seconds a process has used."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def wait_port(port: int) -> None:
    """Until something listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("no server came up")


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--arms", nargs="+", default=["online", "streaming", "batch"])
    parser.add_argument("--serve", nargs=3)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve[0], arguments.serve[1], int(arguments.serve[2]))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        registry = make_registry(folder / "registry").uri
        for arm, measure in (("online", online), ("streaming", streaming), ("batch", batch)):
            if arm in arguments.arms:
                seconds, cpu = zip(*measure(folder, registry, arguments.rounds), strict=True)
                print(
                    json.dumps(
                        {arm: f"{statistics.median(seconds) - 1:+.1%}", "cpu": f"{statistics.median(cpu) - 1:+.1%}"}
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
