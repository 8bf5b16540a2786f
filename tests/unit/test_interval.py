"""How an interval is written."""

from __future__ import annotations

import pytest

from zaphod.reporting.interval import Interval


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.83012, 0.8243, 0.83712, "0.8301 (0.8243 to 0.8371)"),
        (2.54, 0.03, 5.05, "2.54 (0.03 to 5.05)"),
        (2.54, -0.004, 5.08, "2.540 (-0.004 to 5.080)"),
        (2.5, 0.0, 5.0, "2.5 (0.0 to 5.0)"),
        (0.5, None, None, "0.5"),
    ],
)
def test_a_bound_that_is_not_zero_is_not_written_as_zero(
    value: float, low: float | None, high: float | None, text: str
) -> None:
    """Two digits of the half width, and more where the sign of a bound would be lost."""
    assert Interval(value=value, low=low, high=high).text() == text
