"""A replica's counts in Ray's exporter, which every node has for Prometheus to scrape."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ray.util import metrics

from deployments.metrics import Cell, Labels, Meter, Tally, cumulative

_EXPORT_INTERVAL_S = 5.0


class RayExport:
    """Hands what a meter has counted to Ray's exporter, every few seconds.

    Ray's own histogram takes one observation at a time, for microseconds each. Counters with the label `le` are as good
    to `histogram_quantile` and cost nothing a request. Ray puts `ray_` before a counter's name and `_total` behind it.
    """

    def __init__(self, meter: Meter, *, new_counter: Callable[..., metrics.Counter] = metrics.Counter) -> None:
        """new_counter: takes name, text and the names of labels."""
        self._meter = meter
        self._new_counter = new_counter
        names = Labels._fields
        self._requests = new_counter("zaphod_requests", "Prediction requests answered.", names)
        self._rows = new_counter("zaphod_rows", "Rows in those requests.", names)
        name = "zaphod_request_duration_seconds"
        self._sums = new_counter(f"{name}_sum", "Seconds of those requests.", names)
        self._counts = new_counter(f"{name}_count", "Durations of which these are sum and buckets.", names)
        self._buckets = new_counter(f"{name}_bucket", "Requests up to `le` seconds.", (*names, "le"))
        self._seen: dict[Labels, Cell] = {}
        self._tallies: dict[str, metrics.Counter] = {}
        self._told: dict[tuple[str, ...], int] = {}
        self._thread = threading.Thread(target=self._forever, name="export-metrics", daemon=True)
        self._stop = threading.Event()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()

    def _forever(self) -> None:
        while not self._stop.wait(_EXPORT_INTERVAL_S):
            self.export()

    def export(self) -> None:
        """Adds what has been counted since the last time."""
        for labels, cell in self._meter.cells().items():
            new = Cell(cell.num_rows, cell.sum_s, list(cell.buckets))
            old = self._seen.get(labels, Cell())
            if new.buckets == old.buckets:
                continue
            tags = {name: str(value) for name, value in zip(labels._fields, labels, strict=True)}
            self._requests.inc(new.num_requests - old.num_requests, tags)
            _add(self._rows, new.num_rows - old.num_rows, tags)
            _add(self._counts, new.num_requests - old.num_requests, tags)
            _add(self._sums, new.sum_s - old.sum_s, tags)
            for (bound, total), (_, before) in zip(cumulative(new), cumulative(old), strict=True):
                _add(self._buckets, total - before, {**tags, "le": bound})
            self._seen[labels] = new
        for tally in self._meter.tallies():
            self._export_tally(tally)

    def _export_tally(self, tally: Tally) -> None:
        counter = self._tallies.get(tally.name)
        if counter is None:
            counter = self._tallies[tally.name] = self._new_counter(tally.name, tally.text, tuple(tally.labels))
        key = (tally.name, *tally.labels.values())
        before = self._told.get(key, 0)
        # A challenger of the next phase begins to count anew.
        _add(counter, tally.value - before if tally.value >= before else tally.value, dict(tally.labels))
        self._told[key] = tally.value


def _add(counter: metrics.Counter, amount: float, tags: dict[str, str]) -> None:
    if amount > 0:  # Ray refuses to add nothing
        counter.inc(amount, tags)
