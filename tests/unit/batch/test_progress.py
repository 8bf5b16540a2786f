"""Progress that people can read."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from batch.progress import Bar, Counts, Lines, Pace, display, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3599.7, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds: float, text: str) -> None:
    """Seconds, minutes or hours, as far as they matter."""
    assert duration(seconds) == text


def test_rows_of_an_earlier_run_are_not_speed() -> None:
    """A resumed job starts at its own pace."""
    pace = Pace(began_s=100.0, done_at_start=900)

    assert pace.describe(Counts(total=1000, done=950, rejected=3), now_s=105.0) == (
        "950 of 1,000 rows (95%), 10 rows/s, 5 s left, 3 rejected"
    )


def test_lines_come_every_few_seconds_and_at_the_end() -> None:
    """A log gets a line when the time has passed, and the last one always."""
    now = iter([0.0, 0.0, 1.0, 5.0, 6.0])
    output = io.StringIO()
    lines = Lines(Console(file=output, width=20), Counts(total=4), interval_s=5.0, clock=lambda: next(now))

    for done in (1, 2, 4):
        lines.update(Counts(total=4, done=done))

    assert [line.split(" ")[0] for line in output.getvalue().splitlines()] == ["2", "4"]


def test_a_terminal_gets_a_bar() -> None:
    """The bar's text tells rows, rate and rejects."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    with display(console, Counts(total=10), interval_s=5.0) as shown:
        shown.update(Counts(total=10, done=10, rejected=1))

    assert isinstance(shown, Bar)
    assert "10 of 10 rows" in output.getvalue()
    assert isinstance(display(Console(file=output), Counts(total=10), interval_s=5.0), Lines)
