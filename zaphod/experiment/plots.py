"""The pictures of an experiment's report. Champion orange, challenger blue; a band is where the truth is."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from zaphod.experiment import wording
from zaphod.experiment.plan import MetricPlan
from zaphod.experiment.results import Look, SegmentEffect
from zaphod.experiment.samples import Exposed
from zaphod.reporting.interval import Interval
from zaphod.reporting.svg import Frame, clip

_ROW_PX = 30


@dataclass(frozen=True, slots=True)
class Row:
    """A labelled interval; above 0 is better."""

    label: str
    note: str
    interval: Interval


def effect_plot(looks: Sequence[Look], metric: MetricPlan) -> str:
    """The effect and its band over the entities that were complete; early bands may leave the frame."""
    spans = [(look.n, wording.scaled(metric, look.effect)) for look in looks]
    known = [(n, one.value, one.low, one.high) for n, one in spans if _whole(one)]
    xs = [float(n) for n, *_ in known]
    values, lows, highs = ([float(one[i] or 0.0) for one in known] for i in (1, 2, 3))
    low, high = _frame(values, lows, highs)
    margin = wording.scaled(metric, Interval(value=metric.margin)).value or 0.0
    bound = -margin if metric.higher_is_better else margin
    low, high = min(low, bound * 1.3), max(high, bound * 1.3)
    frame = Frame.make(f"effect on {metric.name}", x=_x_range(xs), y=(low, high), width=1100, height=360)
    unit = "percentage points" if wording.is_share(metric) else "in the metric's units"
    frame.axes(x_label="entities whose outcome is known", y_label=f"difference, {unit}")
    better, worse = (frame.y.end + 16, frame.y.start - 8)
    if not metric.higher_is_better:
        better, worse = worse, better
    frame.text(frame.x.end - 8, better, "challenger better", css="tick good", anchor="end")
    frame.text(frame.x.end - 8, worse, "challenger worse", css="tick bad", anchor="end")
    inside = [_within(one, low, high) for one in (lows, highs, values)]
    frame.area(xs, inside[0], inside[1], css="band candidate")
    frame.path((frame.x.low, frame.x.high), (0, 0), css="line zero")
    if margin:
        frame.path((frame.x.low, frame.x.high), (bound, bound), css="line limit")
    frame.path(xs, inside[2], css="line candidate")
    frame.dot(xs[-1], inside[2][-1], css="dot candidate", radius=5)
    entries = [("line candidate", "difference"), ("swatch candidate", "where the truth is, at every look")]
    if margin:
        entries.append(("line limit", "margin allowed"))
    frame.legend(entries)
    return frame.render()


def exposure_plot(exposure: Sequence[Exposed]) -> str:
    """Entities of each variant over time."""
    xs = [one.at_s for one in exposure]
    top = max(max(one.champion, one.challenger) for one in exposure) * 1.08 or 1.0
    frame = Frame.make("entities of each variant", x=_x_range(xs), y=(0, top))
    frame.axes(x_label="time (UTC)", y_label="entities seen", x_ticks=())
    steps = 4
    for i in range(steps + 1):
        at = frame.x.low + (frame.x.high - frame.x.low) * i / steps
        anchor = "start" if i == 0 else "end" if i == steps else "middle"
        frame.text(frame.x(at), frame.y.start + 18, _clock(at, frame.x.high - frame.x.low), css="tick", anchor=anchor)
    frame.path(xs, [one.champion for one in exposure], css="line champion")
    frame.path(xs, [one.challenger for one in exposure], css="line candidate")
    last = exposure[-1]
    frame.legend(
        [
            ("line champion", f"champion {last.champion:,}"),
            ("line candidate", f"challenger {last.challenger:,}"),
        ]
    )
    return frame.render()


def segment_plot(segments: Sequence[SegmentEffect], whole: Interval, metric: MetricPlan) -> str:
    """The effect in each segment, and of all as a dashed line."""
    rows = [
        Row(
            label=f"{clip(one.field, 20)}: {clip(one.label, 22)}",
            note=f"{one.n_champion:,} / {one.n_challenger:,}",
            interval=wording.scaled(metric, one.effect),
        )
        for one in segments
    ]
    unit = ", percentage points" if wording.is_share(metric) else ""
    centre = wording.scaled(metric, whole).value
    return forest_plot(
        rows,
        title="segments",
        x_label=f"difference in {clip(metric.name, 40)}{unit}",
        notes="entities",
        higher_is_better=metric.higher_is_better,
        reference=centre,
    )


def forest_plot(
    rows: Sequence[Row],
    *,
    title: str,
    x_label: str,
    notes: str,
    higher_is_better: bool = True,
    reference: float | None = None,
) -> str:
    """Intervals below each other, with 0 as a line; green is surely better, red surely worse."""
    ends = [value for row in rows for value in (row.interval.low, row.interval.high, row.interval.value) if value]
    size = max((abs(one) for one in ends), default=1.0) * 1.1
    height = _ROW_PX * len(rows) + 90
    frame = Frame.make(title, x=(-size, size), y=(0, len(rows)), width=1100, height=height, left=280, right=190)
    frame.axes(x_label=x_label, y_label="", y_ticks=())
    frame.line(frame.x(0), frame.y.end, frame.x(0), frame.y.start, css="axis")
    if reference is not None:
        frame.line(frame.x(reference), frame.y.end, frame.x(reference), frame.y.start, css="line chance")
    for i, row in enumerate(rows):
        at = len(rows) - i - 0.5
        y = frame.y(at)
        frame.text(frame.x.start - 12, y + 4, row.label, css="tick strong", anchor="end")
        css = _colour(row.interval, higher_is_better=higher_is_better)
        if row.interval.low is not None and row.interval.high is not None:
            frame.line(frame.x(row.interval.low), y, frame.x(row.interval.high), y, css=f"line {css}")
        if row.interval.value is not None:
            frame.dot(row.interval.value, at, css=f"dot {css}", radius=4.5)
        frame.text(frame.x.end + 180, y + 4, row.note, css="tick", anchor="end")
    frame.text(frame.x.end + 180, frame.y.end - 14, notes, css="label", anchor="end")
    better, worse = (frame.x.end, "end"), (frame.x.start, "start")
    if not higher_is_better:
        better, worse = worse, better
    frame.text(better[0], frame.y.end - 14, "challenger better", css="tick good", anchor=better[1])
    frame.text(worse[0], frame.y.end - 14, "challenger worse", css="tick bad", anchor=worse[1])
    return frame.render()


def _colour(interval: Interval, *, higher_is_better: bool) -> str:
    if interval.low is None or interval.high is None or interval.low <= 0 <= interval.high:
        return "candidate"
    return "good" if (interval.low > 0) is higher_is_better else "bad"


def _whole(one: Interval) -> bool:
    return one.value is not None and one.low is not None and one.high is not None


def _frame(values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """Twice the band of the latter half, and 0: the first bands would hide what matters."""
    half = len(values) // 2
    low, high = min(0.0, *lows[half:]), max(0.0, *highs[half:])
    room = (high - low or 1.0) * 0.35
    return low - room, high + room


def _within(values: Sequence[float], low: float, high: float) -> list[float]:
    return [min(max(one, low), high) for one in values]


def _x_range(xs: Sequence[float]) -> tuple[float, float]:
    return (xs[0], xs[-1]) if xs[-1] > xs[0] else (xs[0] - 0.5, xs[0] + 0.5)


def _clock(at_s: float, span_s: float) -> str:
    at = datetime.datetime.fromtimestamp(at_s, tz=datetime.UTC)
    if span_s > 2 * 86_400:
        return f"{at:%d %b}"
    return f"{at:%H:%M}" if span_s > 600 else f"{at:%H:%M:%S}"
