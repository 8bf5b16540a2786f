"""An estimate with its uncertainty, and how it is written."""

from __future__ import annotations

import math

import msgspec

_MORE_DIGITS = 4


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate and its two-sided confidence interval; None where the data cannot say."""

    value: float | None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None

    def text(self) -> str:
        """The value and its bounds with as many digits as the width supports: `0.830 (0.824 to 0.837)`."""
        if self.value is None:
            return "unknown"
        value, bounds = self.texts()
        return value if bounds is None else f"{value} ({bounds})"

    def texts(self) -> tuple[str, str | None]:
        """The value and `low to high` apart."""
        if self.value is None:
            return "unknown", None
        if self.low is None or self.high is None or self.high <= self.low:
            return f"{self.value:.4g}", None
        # Two digits of the half width: more would be noise.
        digits = max(0, 1 - math.floor(math.log10((self.high - self.low) / 2)))
        # But on which side of zero a bound is decides, so one that is near zero gets more.
        nearest = min((abs(bound) for bound in (self.low, self.high) if bound), default=1.0)
        digits += next((more for more in range(_MORE_DIGITS) if nearest >= 0.5 * 10.0 ** -(digits + more)), 0)
        value, low, high = (_written(number, digits=digits) for number in (self.value, self.low, self.high))
        return value, f"{low} to {high}"


def _written(value: float, *, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    # What is zero to so many digits has no sign.
    return text.removeprefix("-") if float(text.replace(",", "")) == 0 else text
