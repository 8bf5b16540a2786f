"""What a person sees of a running job: a bar in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows that are dealt with, of how many, and how many of them were rejected. exact: the total is no guess.

    uncounted_files: rejected whole, and nobody knows with how many rows.
    """

    total: int
    done: int = 0
    rejected: int = 0
    uncounted_files: int = 0
    exact: bool = True

    def plus(self, *, done: int, rejected: int, uncounted_files: int = 0) -> Counts:
        return dataclasses.replace(
            self,
            done=self.done + done,
            rejected=self.rejected + rejected,
            uncounted_files=self.uncounted_files + uncounted_files,
        )


class Display(Protocol):
    """Shows how far a job is. Used as a context manager around the run."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def update(self, counts: Counts) -> None: ...


@dataclass(slots=True)
class Pace:
    """Rows a second since the first look. Rows that an earlier run finished do not count as fast."""

    began_s: float
    done_at_start: int

    def rows_per_s(self, counts: Counts, *, now_s: float) -> float:
        elapsed_s = now_s - self.began_s
        return (counts.done - self.done_at_start) / elapsed_s if elapsed_s > 0 else 0.0

    def describe(self, counts: Counts, *, now_s: float) -> str:
        """`1,200,000 of 5,000,000 rows (24 %), 610,000 rows/s, 6 s left, 12 rejected`"""
        rate = self.rows_per_s(counts, now_s=now_s)
        share = min(1.0, counts.done / counts.total) if counts.total else 1.0
        parts = [f"{counts.done:,} of {'' if counts.exact else 'about '}{counts.total:,} rows ({share:.0%})"]
        if rate:
            left = max(0, counts.total - counts.done)
            parts += [f"{rate:,.0f} rows/s", f"{duration(left / rate)} left"]
        parts.append(f"{counts.rejected:,} rejected")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """`4 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Lines:
    """One line at most every `interval_s`: what a log keeps."""

    def __init__(
        self, console: Console, counts: Counts, *, interval_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._interval_s = interval_s
        self._clock = clock
        self._pace = Pace(began_s=clock(), done_at_start=counts.done)
        self._last_s = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def update(self, counts: Counts) -> None:
        now_s = self._clock()
        if now_s - self._last_s < self._interval_s and counts.done < counts.total:
            return
        self._last_s = now_s
        self._console.print(self._pace.describe(counts, now_s=now_s), highlight=False, soft_wrap=True)


class Bar:
    """A bar that moves."""

    def __init__(self, console: Console, counts: Counts) -> None:
        pace = Pace(began_s=time.monotonic(), done_at_start=counts.done)
        self._counts = counts
        column = _Description(lambda: pace.describe(self._counts, now_s=time.monotonic()))
        self._progress = Progress(TextColumn("scoring"), BarColumn(), column, console=console, transient=True)
        self._task = self._progress.add_task("scoring", total=counts.total, completed=counts.done)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def update(self, counts: Counts) -> None:
        self._counts = counts
        self._progress.update(self._task, completed=counts.done)


class _Description(ProgressColumn):
    def __init__(self, describe: Callable[[], str]) -> None:
        super().__init__()
        self._describe = describe

    def render(self, task: Task) -> Text:
        return Text(self._describe())


def display(console: Console, counts: Counts, *, interval_s: float) -> Display:
    """What suits the console."""
    return Bar(console, counts) if console.is_terminal else Lines(console, counts, interval_s=interval_s)
