"""What a replica counts: requests, rows and durations by model, version, variant, protocol and outcome.

Counting is a look-up and three additions, so that it may be done for every request. Durations are seconds from a whole
request to its answer, within the replica.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from deployments.scaling import Busyness
from zaphod.monitoring.segments import LogCounts
from zaphod.served import Scored, Stamp
from zaphod.shadow import ShadowCounts

# Resolves 100 us where compiled models answer, and reaches to time-outs.
BOUNDS_S = (
    0.00005, 0.0001, 0.0002, 0.0003, 0.0004, 0.0005, 0.0007, 0.001, 0.0015, 0.002, 0.003, 0.005,
    0.0075, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip

_MAX_USUAL = 256
# Of those who are to come again.
_OUTCOMES = {429: "refused", 503: "refused"}

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Labels(NamedTuple):
    """outcome: ok, unprocessable (the caller's fault), refused (no room) or failed. Unknown models are empty."""

    model: str
    version: int
    variant: str
    protocol: str
    outcome: str


class Tally(NamedTuple):
    """A counter that no request adds to. name: without Prometheus' `_total`; labels: without the replica's."""

    name: str
    text: str
    labels: Mapping[str, str]
    value: int


@dataclass(slots=True)
class Cell:
    """Of one set of labels. buckets: how many durations fell between two bounds, the last beyond all."""

    num_rows: int = 0
    sum_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))

    def add(self, duration_s: float, num_rows: int) -> None:
        self.buckets[bisect.bisect_left(BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s
        self.num_rows += num_rows

    @property
    def num_requests(self) -> int:
        return sum(self.buckets)


class Meter:
    """Counts on the event loop alone; read from other threads, which may see a request half counted."""

    def __init__(
        self,
        *,
        replica: str,
        busyness: Busyness,
        logged: Callable[[], LogCounts | None] = lambda: None,
        shadows: Callable[[], Mapping[str, ShadowCounts]] = dict,
    ) -> None:
        """logged: what the prediction log has counted. shadows: the same of challengers in the shadow, by model."""
        self.replica = replica
        self._busyness = busyness
        self._logged = logged
        self._shadows = shadows
        self._cells: dict[Labels, Cell] = {}
        self._usual: dict[tuple[int, str], tuple[Stamp, Cell]] = {}

    def count(self, labels: Labels, *, duration_s: float, num_rows: int) -> Cell:
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = Cell()
        cell.add(duration_s, num_rows)
        return cell

    def answered(
        self, scored: Scored | None, *, stamp: Stamp, protocol: str, status: int, began: float, num_rows: int
    ) -> None:
        """Counts a request. stamp: of whom was asked, for when nobody scored. began: of `time.perf_counter`."""
        duration_s = time.perf_counter() - began
        outcome = "ok" if status < 400 else _OUTCOMES.get(status, "unprocessable" if status < 500 else "failed")
        variant = stamp.variant
        if scored is not None:
            stamp = scored.stamps[0]
            variant = stamp.variant if scored.stamp_index is None else "mixed"
            # What nearly all requests are is found by the very stamp: hashing five labels takes longer than counting.
            known = self._usual.get((id(stamp), protocol))
            if known is not None and known[0] is stamp and outcome == "ok" and variant != "mixed":
                known[1].add(duration_s, num_rows)
                return
        cell = self.count(
            Labels(stamp.model, stamp.version, variant, protocol, outcome), duration_s=duration_s, num_rows=num_rows
        )
        if outcome == "ok" and variant != "mixed":
            if len(self._usual) >= _MAX_USUAL:
                self._usual.clear()  # stamps of versions that serve no more
            self._usual[id(stamp), protocol] = stamp, cell

    def cells(self) -> Mapping[Labels, Cell]:
        return dict(self._cells)

    def text(self) -> bytes:
        """Prometheus' text format."""
        cells = self.cells()
        lines = [
            *_family("zaphod_requests_total", "counter", "Prediction requests answered."),
            *(f"zaphod_requests_total{{{self._labels(labels)}}} {cell.num_requests}" for labels, cell in cells.items()),
            *_family("zaphod_rows_total", "counter", "Rows in those requests."),
            *(f"zaphod_rows_total{{{self._labels(labels)}}} {cell.num_rows}" for labels, cell in cells.items()),
            *_family("zaphod_request_duration_seconds", "histogram", "From a whole request to its answer."),
            *(line for labels, cell in cells.items() for line in self._histogram(labels, cell)),
            *_family("zaphod_replica_busy_ratio", "gauge", "Share of time in which the event loop had work."),
            f'zaphod_replica_busy_ratio{{replica="{self.replica}"}} {self._busyness.ratio:.4f}',
            *self._tally_lines(),
        ]
        return ("\n".join(lines) + "\n").encode()

    def tallies(self) -> list[Tally]:
        """Of the prediction log and of challengers in the shadow, where there are any."""
        made: list[Tally] = []
        logged = self._logged()
        if logged is not None:
            name, text = "zaphod_log_rows", "Rows of the prediction log."
            made += [
                Tally(name, text, {"state": "written"}, logged.written),
                Tally(name, text, {"state": "dropped"}, logged.dropped),
            ]
        for model, counts in self._shadows().items():
            name, text = "zaphod_shadow_rows", "Copies for the challenger in the shadow."
            made += [
                Tally(name, text, {"model": model, "state": "scored"}, counts.scored),
                Tally(name, text, {"model": model, "state": "dropped"}, counts.dropped),
                Tally(name, text, {"model": model, "state": "lost"}, counts.lost),
                Tally(
                    "zaphod_shadow_deaths", "How often its process was ended or died.", {"model": model}, counts.deaths
                ),
            ]
        return made

    def _tally_lines(self) -> Iterator[str]:
        # Prometheus wants the lines of a name together.
        by_name = sorted(self.tallies(), key=lambda tally: tally.name)
        for name, tallies in itertools.groupby(by_name, key=lambda tally: tally.name):
            for number, tally in enumerate(tallies):
                if number == 0:
                    yield from _family(f"{name}_total", "counter", tally.text)
                yield f"{name}_total{{{self._written(tally.labels.items())}}} {tally.value}"
        logged = self._logged()
        if logged is not None:
            yield from _family("zaphod_log_waiting_rows", "gauge", "Rows that are in no file yet.")
            yield f'zaphod_log_waiting_rows{{replica="{self.replica}"}} {logged.waiting}'

    def _histogram(self, labels: Labels, cell: Cell) -> Iterator[str]:
        name, written = "zaphod_request_duration_seconds", self._labels(labels)
        for bound, total in cumulative(cell):
            yield f'{name}_bucket{{{written},le="{bound}"}} {total}'
        yield f"{name}_sum{{{written}}} {cell.sum_s:.9g}"
        yield f"{name}_count{{{written}}} {cell.num_requests}"

    def _labels(self, labels: Labels) -> str:
        return self._written(zip(labels._fields, labels, strict=True))

    def _written(self, labels: Iterable[tuple[str, object]]) -> str:
        pairs = [f'{name}="{_escape(str(value))}"' for name, value in labels]
        return ",".join([*pairs, f'replica="{self.replica}"'])


def cumulative(cell: Cell) -> Iterator[tuple[str, int]]:
    """Upper bounds, the last `+Inf`, with the number of durations up to each."""
    total = 0
    for bound, number in zip((*(f"{bound:g}" for bound in BOUNDS_S), "+Inf"), cell.buckets, strict=True):
        total += number
        yield bound, total


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
