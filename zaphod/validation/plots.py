"""The pictures of the report, each from what validation.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zaphod.reporting.svg import Frame, clip, ticks
from zaphod.validation.calibration import Calibration, wilson
from zaphod.validation.drift import FieldDrift
from zaphod.validation.pictures import Histogram, ResidualBand
from zaphod.validation.slices import SliceReport

_MAX_SLICES = 18
_MAX_FIELDS = 18
_ROW_PX = 24
_UNIT_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class ClassRow:
    """How one class fares. None where nothing can be said: no row of the class, no label given."""

    label: str
    num_rows: int
    recall: float | None
    recall_interval: tuple[float, float]
    precision: float | None


def class_rows(matrix: Sequence[Sequence[int]], labels: Sequence[str], *, confidence: float) -> list[ClassRow]:
    """From the confusion matrix; intervals are Wilson's."""
    rows: list[ClassRow] = []
    for i, label in enumerate(labels):
        total, given, hits = sum(matrix[i]), sum(row[i] for row in matrix), matrix[i][i]
        rows.append(
            ClassRow(
                label=label,
                num_rows=total,
                recall=hits / total if total else None,
                recall_interval=wilson(hits, total, confidence=confidence) if total else (0.0, 1.0),
                precision=hits / given if given else None,
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot. css: a role, or `chance`."""

    css: str
    label: str
    x: Sequence[float]
    y: Sequence[float]


def line_plot(lines: Sequence[Line], *, title: str, x_label: str, y_label: str, x_end: float = 1.0) -> str:
    """Lines from 0 to x_end and 0 to 1; the first is drawn last, on top."""
    frame = Frame.make(title, x=(0, x_end), y=(0, 1))
    frame.axes(x_label=x_label, y_label=y_label, x_ticks=_UNIT_TICKS if x_end == 1.0 else None, y_ticks=_UNIT_TICKS)
    for line in reversed(lines):
        frame.path(line.x, line.y, css=f"line {line.css}")
    frame.legend([(f"line {line.css}", line.label) for line in lines])
    return frame.render()


def calibration_plot(calibration: Calibration, champion: Calibration | None) -> str:
    """Observed against predicted, with the interval of each bin; the frame ends where the predictions end."""
    bins = calibration.bins
    top = max(max(one.predicted for one in bins), max(one.high for one in bins))
    end = 1.0 if top > 0.5 else top * 1.1
    frame = Frame.make("calibration", x=(0, end), y=(0, end))
    frame.axes(x_label="predicted probability (mean of bin)", y_label="observed share")
    frame.path((0, end), (0, end), css="line chance")
    xs = [one.predicted for one in bins]
    frame.area(xs, [one.low for one in bins], [min(one.high, end) for one in bins], css="band candidate")
    if champion is not None:
        shown = [one for one in champion.bins if one.predicted <= end and one.observed <= end]
        frame.path([one.predicted for one in shown], [one.observed for one in shown], css="line champion")
    frame.path(xs, [one.observed for one in bins], css="line candidate")
    for one in bins:
        frame.dot(one.predicted, one.observed, css="dot candidate")
    entries = [("line candidate", "this version"), ("line chance", "perfect")]
    if champion is not None:
        entries.insert(1, ("line champion", "champion"))
    frame.legend(entries)
    return frame.render()


def histogram_plot(histograms: Sequence[Histogram], *, x_label: str, css: Sequence[str]) -> str:
    """Each histogram as shares of its own rows, one over the other."""
    edges = histograms[0].edges
    shares = [[count / max(sum(one.counts), 1) for count in one.counts] for one in histograms]
    top = max(max(one) for one in shares) * 1.08 or 1.0
    frame = Frame.make(x_label, x=(edges[0], edges[-1]), y=(0, top))
    frame.axes(x_label=x_label, y_label="share of rows")
    for one, name in zip(shares, css, strict=True):
        for low, high, share in zip(edges, edges[1:], one, strict=False):
            if share:
                frame.bar(low, high, 0, share, css=f"fill {name}")
    if len(histograms) > 1:
        entries = [
            (f"swatch {name}", f"{one.label} ({sum(one.counts):,})") for one, name in zip(histograms, css, strict=True)
        ]
        frame.legend(entries)
    else:
        frame.line(frame.x(0), frame.y.end, frame.x(0), frame.y.start, css="line chance")
    return frame.render()


def confusion_plot(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Rows: truth; columns: label given; shaded by the share of each true class."""
    size = len(matrix)
    frame = Frame.make("confusion matrix", x=(0, size), y=(0, size), left=110, bottom=64)
    cell_x, cell_y = (frame.x.end - frame.x.start) / size, (frame.y.start - frame.y.end) / size
    css = "cell-text" if size <= 6 else "cell-text small"
    for i, row in enumerate(matrix):
        total = max(sum(row), 1)
        y = frame.y.end + i * cell_y
        frame.text(frame.x.start - 10, y + cell_y / 2 + 4, clip(labels[i], 12), css="tick", anchor="end")
        for j, count in enumerate(row):
            x = frame.x.start + j * cell_x
            frame.box(x + 1, y + 1, cell_x - 2, cell_y - 2, css="cell")
            frame.box(x + 1, y + 1, cell_x - 2, cell_y - 2, css="fill-solid candidate", opacity=0.75 * count / total)
            if size <= 10:
                frame.text(
                    x + cell_x / 2, y + cell_y / 2 + (0 if size <= 5 else 4), f"{count:,}", css=css, anchor="middle"
                )
            if size <= 5:
                share = f"{count / total:.1%}"
                frame.text(x + cell_x / 2, y + cell_y / 2 + 17, share, css="tick", anchor="middle")
    for j in range(size):
        x = frame.x.start + (j + 0.5) * cell_x
        frame.text(x, frame.y.start + 18, clip(labels[j], max(4, 60 // size)), css="tick", anchor="middle")
    frame.axes(x_label="label given", y_label="truth", x_ticks=(), y_ticks=())
    return frame.render()


def class_plot(rows: Sequence[ClassRow]) -> str:
    """Recall of each class with its interval, and precision as a ring; the rarest classes at the bottom."""
    frame = Frame.make("per class", x=(0, 1), y=(0, len(rows)), left=120, height=max(380, 26 * len(rows) + 90))
    frame.axes(x_label="recall, precision", y_label="", x_ticks=_UNIT_TICKS, y_ticks=())
    for i, row in enumerate(sorted(rows, key=lambda one: -one.num_rows)):
        at = len(rows) - i - 0.5
        y = frame.y(at)
        frame.text(frame.x.start - 10, y, clip(row.label, 15), css="tick strong", anchor="end")
        frame.text(frame.x.start - 10, y + 15, f"{row.num_rows:,} rows", css="tick", anchor="end")
        if row.recall is not None:
            low, high = row.recall_interval
            frame.line(frame.x(low), y, frame.x(high), y, css="line candidate")
            frame.dot(row.recall, at, css="dot candidate", radius=4.5)
        if row.precision is not None:
            frame.dot(row.precision, at, css="ring", radius=4.5)
    frame.legend([("line candidate", "recall, with interval"), ("swatch ring", "precision")])
    return frame.render()


def scatter_plot(points: Sequence[tuple[float, float]]) -> str:
    """True against predicted values."""
    everything = [value for point in points for value in point]
    low, high = min(everything), max(everything)
    margin = (high - low) * 0.04 or 0.5
    frame = Frame.make("truth against prediction", x=(low - margin, high + margin), y=(low - margin, high + margin))
    frame.axes(x_label="predicted", y_label="true")
    frame.path((low, high), (low, high), css="line chance")
    for predicted, true in points:
        frame.dot(predicted, true, css="point candidate", radius=2.6)
    return frame.render()


def residual_plot(bands: Sequence[ResidualBand]) -> str:
    """Quantiles of the residuals over the range of predictions: a good model's are level, centred and even."""
    xs = [one.predicted for one in bands]
    low, high = min(one.quantiles[0] for one in bands), max(one.quantiles[4] for one in bands)
    margin = (high - low) * 0.06 or 0.5
    frame = Frame.make("residuals", x=_spread(xs), y=(low - margin, high + margin))
    frame.axes(x_label="predicted", y_label="truth minus prediction")
    frame.area(xs, [one.quantiles[0] for one in bands], [one.quantiles[4] for one in bands], css="band candidate")
    frame.area(xs, [one.quantiles[1] for one in bands], [one.quantiles[3] for one in bands], css="band candidate")
    frame.path(_spread(xs), (0, 0), css="line chance")
    frame.path(xs, [one.quantiles[2] for one in bands], css="line candidate")
    frame.legend(
        [
            ("line candidate", "median"),
            ("swatch candidate strong", "half of the rows"),
            ("swatch candidate", "nine in ten"),
        ]
    )
    return frame.render()


def slice_plot(report: SliceReport) -> str:
    """The worst slices with their simultaneous intervals, and the whole holdout as a line."""
    shown = report.slices[:_MAX_SLICES]
    values = [bound for one in shown for bound in (one.low, one.high)]
    if report.overall is not None:
        values.append(report.overall)
    low, high = min(values), max(values)
    margin = (high - low) * 0.05 or 0.5
    height = _ROW_PX * len(shown) + 92
    frame = Frame.make(
        "slices", x=(low - margin, high + margin), y=(0, len(shown)), width=1140, height=height, left=330, right=330
    )
    frame.axes(x_label=report.metric.title, y_label="", y_ticks=())
    if report.overall is not None:
        frame.line(frame.x(report.overall), frame.y.end, frame.x(report.overall), frame.y.start, css="line chance")
    has_champion = any(one.champion_gain is not None for one in shown)
    for i, one in enumerate(shown):
        at = len(shown) - i - 0.5
        surely_worse = one.drop_low > 0
        css = "bad" if surely_worse else "candidate"
        y = frame.y(at)
        frame.text(
            frame.x.start - 12,
            y + 4,
            f"{clip(one.field, 20)}: {clip(one.label, 22)}",
            css="tick strong",
            anchor="end",
        )
        frame.line(frame.x(one.low), y, frame.x(one.high), y, css=f"line {css}")
        frame.dot(one.value, at, css=f"dot {css}", radius=4.5)
        cells = [f"{one.value:.3f}", f"{one.num_rows:,}"]
        if one.champion_gain is not None:
            cells.append(f"{one.champion_gain:+.3f}")
        frame.columns(y + 4, cells, css="tick")
    titles = [report.metric.title if len(report.metric.title) < 12 else "value", "rows"]
    frame.columns(frame.y.end - 14, [*titles, "vs champion"][: 2 + has_champion], css="label")
    return frame.render()


def drift_plot(drift: Sequence[FieldDrift], *, limit: float | None, current: str = "holdout") -> str:
    """PSI of each field and output, the largest first, with what chance alone would give."""
    shown = sorted(drift, key=lambda one: -one.psi)[:_MAX_FIELDS]
    top = max([one.psi for one in shown] + [one.noise for one in shown] + ([] if limit is None else [limit])) * 1.08
    frame = Frame.make(
        "drift", x=(0, top), y=(0, len(shown)), width=1140, height=_ROW_PX * len(shown) + 92, left=330, right=330
    )
    frame.axes(x_label=f"population stability index, training to {current}", y_label="", y_ticks=())
    for i, one in enumerate(shown):
        at = len(shown) - i - 0.5
        y = frame.y(at)
        over = limit is not None and one.psi > max(limit, one.noise)
        name = f"{clip(one.name, 30)}{' (prediction)' if one.is_output else ''}"
        frame.text(frame.x.start - 12, y + 4, name, css="tick strong", anchor="end")
        frame.bar(0, one.psi, at - 0.3, at + 0.3, css=f"fill {'bad' if over else 'candidate'}")
        frame.line(frame.x(one.noise), y - 10, frame.x(one.noise), y + 10, css="noise")
        frame.columns(y + 4, [f"{one.psi:.3f}", f"{one.noise:.3f}"], css="tick")
    frame.columns(frame.y.end - 14, ["PSI", "chance up to"], css="label")
    if limit is not None:
        frame.line(frame.x(limit), frame.y.end, frame.x(limit), frame.y.start, css="line limit")
        frame.text(frame.x(limit), frame.y.end - 10, f"limit {limit:g}", css="tick", anchor="middle")
    return frame.render()


def bins_plot(drift: FieldDrift, *, current: str = "holdout") -> str:
    """One field's shares in training and in the holdout, bin by bin."""
    bins = drift.bins[:16]
    top = max(max(one.training, one.current) for one in bins) * 1.08
    frame = Frame.make(drift.name, x=(0, len(bins)), y=(0, top), height=300, bottom=96)
    frame.axes(x_label="", y_label="share of rows", x_ticks=(), y_ticks=ticks(0, top, most=4))
    for i, one in enumerate(bins):
        frame.bar(i + 0.12, i + 0.5, 0, one.training, css="fill-solid muted")
        frame.bar(i + 0.5, i + 0.88, 0, one.current, css="fill-solid candidate")
        x = frame.x(i + 0.5)
        frame.parts.append(
            f'<text class="tick" text-anchor="end" transform="translate({x + 4:.1f} {frame.y.start + 14:.1f}) '
            f'rotate(-32)">{_escaped(clip(one.label, 20))}</text>'
        )
    frame.legend([("swatch muted", "training"), ("swatch candidate strong", current)])
    return frame.render()


def _spread(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.03 or 0.5
    return low - margin, high + margin


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
