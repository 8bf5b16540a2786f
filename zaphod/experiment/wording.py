"""Numbers of an experiment as people read them: shares in percent, their differences in percentage points."""

from __future__ import annotations

import msgspec

from zaphod.experiment.plan import MetricPlan
from zaphod.reporting.interval import Interval


def is_share(metric: MetricPlan) -> bool:
    """Between 0 and 1 whatever happens."""
    return metric.kind == "proportion" or (metric.kind == "ratio" and metric.measure == "correct")


def level(metric: MetricPlan, value: float | None) -> str:
    """What one variant reached."""
    if value is None:
        return "nothing yet"
    return f"{value:.2%}" if is_share(metric) else f"{value:,.4g}"


def difference(metric: MetricPlan, interval: Interval) -> tuple[str, str]:
    """The effect and its bounds apart, with signs; the bounds are empty where they do not hold."""
    value, bounds = scaled(metric, interval).texts()
    if bounds is None and interval.value is not None:
        value = f"{scaled(metric, interval).value:.2g}"
    unit = " points" if is_share(metric) else ""
    sign = "+" if (interval.value or 0.0) > 0 else ""
    return f"{sign}{value}{unit}", bounds or ""


def scaled(metric: MetricPlan, interval: Interval) -> Interval:
    """In percentage points where the metric is a share."""
    if not is_share(metric):
        return interval
    return msgspec.structs.replace(
        interval,
        value=None if interval.value is None else 100 * interval.value,
        low=None if interval.low is None else 100 * interval.low,
        high=None if interval.high is None else 100 * interval.high,
    )


def amount(metric: MetricPlan, value: float) -> str:
    """A size in the metric's units: a margin, a smallest effect."""
    return f"{100 * value:.4g} points" if is_share(metric) else f"{value:.4g}"


def duration(seconds: float) -> str:
    """Roughly."""
    for size, unit in ((86_400.0, "days"), (3_600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * size:
            number = seconds / size
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}".replace(".0 ", " ")
    return f"{seconds:.0f} seconds"
