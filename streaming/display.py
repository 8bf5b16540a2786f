"""What a person sees of a running pool: a live table in a terminal, else one line every few seconds."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from streaming.queues.base import Queue
from streaming.stats import NOTHING, Counts
from streaming.view import PoolView

_LINE_EVERY_S = 5.0
_TABLE_EVERY_S = 0.5


def tell_risks(queue: Queue, console: Console) -> None:
    """Before anything is trusted to it."""
    for risk in queue.risks:
        console.print(f"warning: {risk}", style="yellow", soft_wrap=True, highlight=False, markup=False)


class LineDisplay:
    """For logs: a line when anything has happened since the last."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = time.monotonic() + _LINE_EVERY_S
        self._rates = Rates()

    def show(self, view: PoolView) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            if self._rates.has_moved(view) or view.lag or view.waiting:
                self.say(view)

    def say(self, view: PoolView) -> None:
        rate = sum(self._rates.take(view).values())
        self._console.print(summary(view, rate=rate), soft_wrap=True, highlight=False)

    def close(self, view: PoolView) -> None:
        """The last line."""
        self.say(view)


class LiveDisplay:
    """For terminals: rates, lag and latency of each partition, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False)
        self._live.start()
        self._next = 0.0
        self._rates = Rates()

    def show(self, view: PoolView) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _TABLE_EVERY_S
            self._live.update(table(view, rates=self._rates.take(view)), refresh=True)

    def close(self, view: PoolView) -> None:
        """The last table stays."""
        self._live.update(table(view, rates={}), refresh=True)
        self._live.stop()


class Rates:
    """Events a second of each partition, between two looks."""

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._counts: dict[int, int] = {}

    def has_moved(self, view: PoolView) -> bool:
        return self._counts != {partition: counts.num_events for partition, counts in view.counts.items()}

    def take(self, view: PoolView) -> dict[int, float]:
        now = time.monotonic()
        passed_s = max(now - self._at, 1e-9)
        counts = {partition: counts.num_events for partition, counts in view.counts.items()}
        rates = {partition: (num - self._counts.get(partition, 0)) / passed_s for partition, num in counts.items()}
        self._at, self._counts = now, counts
        return rates


def _scorers(view: PoolView) -> str:
    return f"{view.num_scorers} scorer{'' if view.num_scorers == 1 else 's'}"


def _ms(counts: Counts, share: float) -> str:
    return f"{counts.latency.quantile(share) * 1000:.2f}" if counts.num_events else "-"


def summary(view: PoolView, *, rate: float) -> str:
    """One line."""
    counts = view.total
    versions = ", ".join(str(version) for version in sorted(view.versions)) or "-"
    return (
        f"scored {counts.num_events:,} events ({rate:,.0f}/s), lag {view.lag:,}, event to commit "
        f"p50 {counts.latency.quantile(0.5) * 1000:.2f} ms p99 {counts.latency.quantile(0.99) * 1000:.2f} ms, "
        f"{counts.num_dead} dead letters, {_scorers(view)}, version {versions}"
        + (f"; {view.num_unlogged:,} predictions not logged" if view.num_unlogged else "")
        + (f"; waiting: {view.waiting}" if view.waiting else "")
    )


def table(view: PoolView, *, rates: dict[int, float]) -> Table:
    """A row for each partition, and one for all."""
    made = Table("partition", "events/s", "lag", "p50 ms", "p99 ms", "events", "dead letters", "owner")
    for column in made.columns[1:7]:
        column.justify = "right"
    rows = [
        (str(p.partition), rates.get(p.partition, 0.0), p.lag, view.counts.get(p.partition, NOTHING), p.owner or "-")
        for p in view.positions
    ]
    owners = f"{_scorers(view)}, version {', '.join(map(str, sorted(view.versions))) or '-'}"
    for name, rate, lag, counts, owner in [*rows, ("all", sum(rates.values()), view.lag, view.total, owners)]:
        made.add_row(
            name, f"{rate:,.0f}", f"{lag:,}", _ms(counts, 0.5), _ms(counts, 0.99), f"{counts.num_events:,}",
            f"{counts.num_dead:,}", owner,
            end_section=name == str(len(rows) - 1),
        )  # fmt: skip
    if view.waiting:
        made.caption = f"waiting: {view.waiting}"
    return made
