"""The pool's numbers as Prometheus and people read them."""

from __future__ import annotations

import io
import socket
import urllib.request

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from streaming.display import LineDisplay, summary, table
from streaming.metrics import PoolCollector, serve_metrics
from streaming.queues.base import Cause, DeadLetter, Event, MicroBatch, Position
from streaming.stats import Latency, Stats, total
from streaming.view import PoolView
from zaphod import machine
from zaphod.errors import EnvironmentNotReadyError
from zaphod.monitoring.segments import LogCounts

# Of the dead letters among so many events.
CAUSES = {1: [], 33: [Cause.UNPROCESSABLE], 66: [Cause.UNPROCESSABLE, Cause.FAILED]}


def view(*, waiting: str | None = None) -> PoolView:
    """Two partitions: one with 100 events in three batches and three dead letters, one with a lag of 7."""
    stats = Stats()
    for size in (1, 33, 66):
        events = [Event(i, "id", None, b"", {}, 1000.0 - i / 1000) for i in range(size)]
        letters = [DeadLetter(0, "id", None, b"", {}, 1000.0, cause, "", 1, 3) for cause in CAUSES[size]]
        stats.count(MicroBatch(0, 1, events), dead_letters=letters, now=1000.002)
    status = stats.status(frozenset({0}), version=3, node="n", logged=LogCounts(written=90, dropped=10, waiting=0))
    positions = (
        Position(0, next_offset=100, end_offset=100, owner="s1", epoch=1, expired=False, oldest_s=0.0),
        Position(1, next_offset=3, end_offset=10, owner=None, epoch=0, expired=True, oldest_s=1.5),
    )
    return PoolView(
        ready=True, positions=positions, counts=status.counts, num_scorers=1, num_fenced=2, num_acquired=4, num_lost=1,
        versions=frozenset({3}), waiting=waiting, num_logged=status.num_logged, num_unlogged=status.num_unlogged,
    )  # fmt: skip


def samples(text: str) -> dict[tuple[str, str], float]:
    """Value by name and cause, bucket, state or partition."""
    return {
        (
            sample.name,
            next(
                (sample.labels[label] for label in ("cause", "le", "state", "partition") if label in sample.labels), ""
            ),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels.get("partition", "0") == "0" or "lag" in sample.name
    }


def test_prometheus_reads_every_number() -> None:
    """Over HTTP, in base units, histograms cumulated."""
    port = machine.free_port()
    server = serve_metrics(PoolCollector(view, model="m"), host="127.0.0.1", port=port)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    finally:
        server.shutdown()
        server.server_close()

    found = samples(text)
    assert found["zaphod_stream_lag_events", "1"] == 7
    assert found["zaphod_stream_events_total", "0"] == 100
    assert found["zaphod_stream_dead_letters_total", "unprocessable"] == 2
    assert found["zaphod_stream_dead_letters_total", "failed"] == 1
    assert found["zaphod_stream_latency_seconds_count", "0"] == 100
    assert found["zaphod_stream_latency_seconds_bucket", "+Inf"] == 100
    assert found["zaphod_stream_batch_events_bucket", "1.0"] == 1
    assert found["zaphod_stream_batch_events_bucket", "64.0"] == 2
    assert found["zaphod_stream_fenced_commits_total", ""] == 2
    assert found["zaphod_stream_queue_down", ""] == 0
    assert [found["zaphod_stream_log_rows_total", state] for state in ("written", "dropped")] == [90, 10]


def test_a_metrics_port_in_use_is_said() -> None:
    """The sentence names the port."""
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(EnvironmentNotReadyError, match=str(port)):
            serve_metrics(PoolCollector(view, model="m"), host="127.0.0.1", port=port)


def test_quantiles_are_right_within_a_step() -> None:
    """Against numpy on a sample that spans the scale."""
    rng = np.random.default_rng(0)
    ages = rng.lognormal(-5, 1.5, 20_000)
    stats = Stats()
    stats.count(
        MicroBatch(0, 1, [Event(i, "", None, b"", {}, -age) for i, age in enumerate(ages)][:8192]),
        dead_letters=[],
        now=0,
    )
    latency = total(stats.status(frozenset(), version=1, node="").counts.values()).latency

    for share in (0.1, 0.5, 0.9, 0.99):
        assert latency.quantile(share) == pytest.approx(np.quantile(ages[:8192], share), rel=0.07)
    assert Latency([0] * len(latency.counts)).quantile(0.5) == 0


def test_people_see_rates_lag_and_what_is_waited_for() -> None:
    """In the table and in the line."""
    console = Console(file=io.StringIO(), width=160)
    console.print(table(view(waiting="the disk is full"), rates={0: 50.0}))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()

    for word in ("partition", "p99 ms", "s1", "50", "7", "version 3", "the disk is full"):
        assert word in shown
    assert "lag 7" in summary(view(), rate=50)
    assert "10 predictions not logged" in summary(view(), rate=50)


def test_the_log_is_silent_when_nothing_happens() -> None:
    """An idle pool writes no line."""
    console = Console(file=io.StringIO(), width=200)
    display = LineDisplay(console)
    idle = PoolView(
        ready=True,
        positions=(),
        counts={},
        num_scorers=1,
        num_fenced=0,
        num_acquired=0,
        num_lost=0,
        versions=frozenset(),
        waiting=None,
    )
    display._next = 0.0  # a line would be due

    display.show(idle)

    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == ""
