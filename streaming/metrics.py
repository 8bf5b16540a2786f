"""The pool's numbers for Prometheus: collected when they are asked for, so that no event pays for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from wsgiref.simple_server import WSGIServer

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from streaming.stats import BATCH_SIZES, Counts
from streaming.view import PoolView
from zaphod.errors import EnvironmentNotReadyError

_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
)  # fmt: skip


class PoolCollector(Collector):
    """Reads the newest view; nothing before there is one."""

    def __init__(self, view: Callable[[], PoolView | None], *, model: str) -> None:
        self._view = view
        self._model = model

    def collect(self) -> Iterator[Metric]:
        view = self._view()
        if view is None:
            return
        lag = GaugeMetricFamily("zaphod_stream_lag_events", "events that wait", labels=["model", "partition"])
        age = GaugeMetricFamily(
            "zaphod_stream_oldest_seconds", "age of the oldest event that waits", labels=["model", "partition"]
        )
        for position in view.positions:
            lag.add_metric([self._model, str(position.partition)], position.lag)
            age.add_metric([self._model, str(position.partition)], position.oldest_s)
        yield from (lag, age, *self._counted(view), *self._pool(view))

    def _counted(self, view: PoolView) -> Iterator[Metric]:
        labels = ["model", "partition"]
        events = CounterMetricFamily("zaphod_stream_events", "events committed, dead letters included", labels=labels)
        dead = CounterMetricFamily(
            "zaphod_stream_dead_letters", "events that got no answer, by cause", labels=[*labels, "cause"]
        )
        latency = HistogramMetricFamily(
            "zaphod_stream_latency_seconds", "from the event's creation to the commit of its output", labels=labels
        )
        sizes = HistogramMetricFamily("zaphod_stream_batch_events", "events in a micro-batch", labels=labels)
        for partition, counts in sorted(view.counts.items()):
            values = [self._model, str(partition)]
            events.add_metric(values, counts.num_events)
            for cause, number in counts.dead.items():
                dead.add_metric([*values, cause.value], number)
            latency.add_metric(values, buckets=_latency_buckets(counts), sum_value=counts.latency.sum_s)
            sizes.add_metric(values, buckets=_size_buckets(counts), sum_value=counts.num_events)
        return iter((events, dead, latency, sizes))

    def _pool(self, view: PoolView) -> Iterator[Metric]:
        for name, text, value in (
            ("zaphod_stream_fenced_commits", "commits refused because the lease went to another", view.num_fenced),
            ("zaphod_stream_acquired_leases", "leases taken: one a partition at the start, more by rebalances",
             view.num_acquired),
            ("zaphod_stream_lost_scorers", "scorers that died", view.num_lost),
        ):  # fmt: skip
            counter = CounterMetricFamily(name, text, labels=["model"])
            counter.add_metric([self._model], value)
            yield counter
        logged = CounterMetricFamily("zaphod_stream_log_rows", "rows of the prediction log", labels=["model", "state"])
        logged.add_metric([self._model, "written"], view.num_logged)
        logged.add_metric([self._model, "dropped"], view.num_unlogged)
        scorers = GaugeMetricFamily("zaphod_stream_scorers", "scorers of the pool", labels=["model"])
        scorers.add_metric([self._model], view.num_scorers)
        waiting = GaugeMetricFamily("zaphod_stream_queue_down", "1 while the queue cannot be used", labels=["model"])
        waiting.add_metric([self._model], 0 if view.waiting is None else 1)
        yield from (logged, scorers, waiting)


def serve_metrics(collector: Collector, *, host: str, port: int) -> WSGIServer:
    """At `/metrics` on a thread of its own. Raises: EnvironmentNotReadyError when the port is taken."""
    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, _ = prometheus_client.start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise EnvironmentNotReadyError(
            f"Cannot serve metrics on {host}:{port}: {error.strerror}. Set another metrics.port, or none."
        ) from error
    return server


def _latency_buckets(counts: Counts) -> list[tuple[str, float]]:
    return [
        *((str(edge), float(counts.latency.at_most(edge))) for edge in _SECONDS),
        ("+Inf", float(counts.latency.count)),
    ]


def _size_buckets(counts: Counts) -> list[tuple[str, float]]:
    below, buckets = 0, []
    for size, number in zip((*map(str, map(float, BATCH_SIZES)), "+Inf"), counts.batch_sizes, strict=True):
        below += number
        buckets.append((size, float(below)))
    return buckets
