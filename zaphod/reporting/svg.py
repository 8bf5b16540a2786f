"""A frame with axes to draw in. Colours are CSS classes, so that one picture serves light and dark pages."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from zaphod.reporting.labels import short

_GAP_PX = 18


@dataclass(frozen=True, slots=True)
class Scale:
    """Values low..high drawn from start to end (pixels)."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)


@dataclass(slots=True)
class Frame:
    """One picture. Elements are drawn in the order they are added; nothing is drawn outside the axes but labels."""

    title: str
    x: Scale
    y: Scale
    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    @classmethod
    def make(
        cls,
        title: str,
        *,
        x: tuple[float, float],
        y: tuple[float, float],
        width: int = 560,
        height: int = 380,
        left: int = 64,
        right: int = 20,
        top: int = 34,
        bottom: int = 52,
    ) -> Frame:
        return cls(
            title=title,
            x=Scale(*x, left, width - right),
            y=Scale(*y, height - bottom, top),
            width=width,
            height=height,
        )

    def axes(
        self,
        *,
        x_label: str,
        y_label: str,
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
    ) -> None:
        """Grid lines, ticks and titles. Ticks of None are chosen; empty ones leave an axis bare."""
        bottom, left = self.y.start, self.x.start
        for tick in ticks(self.x.low, self.x.high) if x_ticks is None else x_ticks:
            at = self.x(tick)
            self.line(at, self.y.end, at, bottom, css="grid")
            self.text(at, bottom + 18, short(tick), css="tick", anchor="middle")
        for tick in ticks(self.y.low, self.y.high) if y_ticks is None else y_ticks:
            at = self.y(tick)
            self.line(left, at, self.x.end, at, css="grid")
            self.text(left - 8, at + 4, short(tick), css="tick", anchor="end")
        self.line(left, bottom, self.x.end, bottom, css="axis")
        self.line(left, self.y.end, left, bottom, css="axis")
        self.text((left + self.x.end) / 2, self.height - 10, x_label, css="label", anchor="middle")
        if y_label:
            middle = (self.y.end + bottom) / 2
            self.parts.append(
                f'<text class="label" text-anchor="middle" transform="translate(16 {middle:.1f}) rotate(-90)">'
                f"{html.escape(y_label)}</text>"
            )

    def line(self, x1: float, y1: float, x2: float, y2: float, *, css: str) -> None:
        """In pixels."""
        self.parts.append(f'<line class="{css}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(self, x: float, y: float, text: str, *, css: str, anchor: str = "start") -> None:
        """In pixels."""
        self.parts.append(
            f'<text class="{css}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
        )

    def columns(self, y: float, cells: Sequence[str], *, css: str) -> None:
        """Right of the axes, aligned at their right ends. y: in pixels."""
        for i, cell in enumerate(cells):
            self.text(self.x.end + 80 + 100 * i, y, cell, css=css, anchor="end")

    def path(self, xs: Sequence[float], ys: Sequence[float], *, css: str) -> None:
        """A line through values."""
        points = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, ys, strict=True))
        self.parts.append(f'<polyline class="{css}" points="{points}"/>')

    def area(self, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float], *, css: str) -> None:
        """A band between two lines of values."""
        there = [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, highs, strict=True)]
        back = [f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in zip(xs, lows, strict=True)]
        self.parts.append(f'<polygon class="{css}" points="{" ".join([*there, *reversed(back)])}"/>')

    def bar(self, x1: float, x2: float, y1: float, y2: float, *, css: str) -> None:
        """A rectangle between values."""
        left, right = sorted((self.x(x1), self.x(x2)))
        top, bottom = sorted((self.y(y1), self.y(y2)))
        self.box(left, top, right - left, bottom - top, css=css)

    def box(self, x: float, y: float, width: float, height: float, *, css: str, opacity: float = 1.0) -> None:
        """In pixels."""
        shade = "" if opacity == 1.0 else f' style="opacity:{opacity:.3f}"'
        self.parts.append(
            f'<rect class="{css}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.0):.1f}" '
            f'height="{max(height, 0.0):.1f}"{shade}/>'
        )

    def dot(self, x: float, y: float, *, css: str, radius: float = 3.5) -> None:
        """At a value."""
        self.parts.append(f'<circle class="{css}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius:g}"/>')

    def legend(self, entries: Sequence[tuple[str, str]]) -> None:
        """Pairs of CSS class and label, in a row above the axes, where no data can hide it."""
        # One text, so that each entry begins where the one before ends, whatever the font.
        spans = "".join(
            f'<tspan class="key {css}" dx="{_GAP_PX if i else 0}">{_sign(css)}</tspan>'
            f'<tspan dx="6">{html.escape(label)}</tspan>'
            for i, (css, label) in enumerate(entries)
        )
        self.parts.append(f'<text class="tick" x="{_GAP_PX}" y="{self.y.end - 13:.1f}">{spans}</text>')

    def render(self) -> str:
        body = "".join(self.parts)
        return (
            f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{html.escape(self.title)}" '
            f'xmlns="http://www.w3.org/2000/svg">{body}</svg>'
        )


def _sign(css: str) -> str:
    """What stands for an entry of the legend."""
    for name, sign in (("ring", "○"), ("swatch", "■"), ("chance", "- -")):
        if name in css:
            return sign
    return "—"


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers between low and high, at most so many: steps of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not math.isfinite(span) or span <= 0:
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if span / (step * factor) <= most)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def clip(text: str, most: int) -> str:
    """At most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def interval_bar(value: float, low: float, high: float, *, limit: float) -> str:
    """A small interval beside zero, for a table cell: gains over another model."""
    frame = Frame.make("gain", x=(-limit, limit), y=(0, 1), width=150, height=20, left=4, right=4, top=2, bottom=2)
    frame.line(frame.x(0), 1, frame.x(0), 19, css="axis")
    css = "good" if low > 0 else "bad" if high < 0 else "unsure"
    frame.line(frame.x(max(low, -limit)), 10, frame.x(min(high, limit)), 10, css=f"line {css}")
    if math.isfinite(value):
        frame.dot(max(-limit, min(limit, value)), 0.5, css=f"dot {css}", radius=3.5)
    return frame.render()
