"""The points that the report draws, collected shard by shard: curves, histograms, the confusion matrix."""

from __future__ import annotations

from collections import Counter

import msgspec
import numpy as np
from numpy.typing import NDArray

from zaphod.validation.rows import Kind, Rows, Shape

_CURVE_POINTS = 201
_HISTOGRAM_BINS = 40
_RESIDUAL_BINS = 12
_SCATTER_POINTS = 400
_MAX_CLASSES = 20
_THRESHOLDS = 101


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """One line of one model (its position among the models)."""

    model: int
    x: tuple[float, ...]
    y: tuple[float, ...]


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counts between edges; `label` says of which rows."""

    label: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class ResidualBand(msgspec.Struct, frozen=True, kw_only=True):
    """Quantiles 5, 25, 50, 75 and 95 % of truth minus prediction, where predictions are about `predicted`."""

    predicted: float
    num_rows: int
    quantiles: tuple[float, float, float, float, float]


class Threshold(msgspec.Struct, frozen=True, kw_only=True):
    """What calling every row positive from this probability on would give."""

    threshold: float
    precision: float | None
    recall: float
    share: float


class Pictures(msgspec.Struct, frozen=True, kw_only=True):
    """What the task has; the rest is empty. by_target: those of each of several targets.

    Curves, bands and points are of the first shard, counts of all rows.

    confusion: row: true class, column: label given. tolerance: share of rows whose absolute error is at most x.
    points: predicted and true values of some rows. clusters: numbers and rows of the largest.
    """

    roc: tuple[Curve, ...] = ()
    precision_recall: tuple[Curve, ...] = ()
    scores: tuple[Histogram, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()
    residuals: tuple[Histogram, ...] = ()
    tolerance: tuple[Curve, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    bands: tuple[ResidualBand, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    clusters: tuple[tuple[int, int], ...] = ()
    by_target: tuple[Pictures, ...] = ()


def picture_counter(shape: Shape, first: Rows) -> PictureCounter | TargetPictures:
    """What to feed with the shards; first: the first of them."""
    return TargetPictures(shape, first) if shape.kind is Kind.SEVERAL else PictureCounter(shape, first)


class TargetPictures:
    """A counter for each of several targets."""

    def __init__(self, shape: Shape, first: Rows) -> None:
        self._shape = shape
        parts = zip(shape.by_target(), first.by_target(shape), strict=True)
        self._counters = [PictureCounter(one, rows) for one, rows in parts]

    def add(self, rows: Rows) -> None:
        for counter, part in zip(self._counters, rows.by_target(self._shape), strict=True):
            counter.add(part)

    def result(self) -> Pictures:
        return Pictures(by_target=tuple(counter.result() for counter in self._counters))


class PictureCounter:
    """Fed with every shard; memory does not grow."""

    def __init__(self, shape: Shape, first: Rows) -> None:
        self._shape = shape
        self._num_classes = shape.num_outputs if shape.kind in (Kind.BINARY, Kind.MULTICLASS) else 2
        self._confusion = np.zeros((self._num_classes, self._num_classes), dtype=np.int64)
        self._roc, self._pr = _curves(shape, first)
        self._thresholds = _thresholds(shape, first)
        self._tolerance = _tolerance(first) if shape.kind is Kind.REGRESSION else ()
        self._edges = _histogram_edges(shape, first)
        self._counts = np.zeros((2, _HISTOGRAM_BINS), dtype=np.int64)
        self._sizes: Counter[int] = Counter()
        self._bands = _bands(first) if shape.kind is Kind.REGRESSION else ()
        self._points = _points(first) if shape.kind is Kind.REGRESSION else ()

    def add(self, rows: Rows) -> None:
        answers = rows.answers[0]
        if self._shape.kind is Kind.REGRESSION:
            assert answers.values is not None
            self._counts[0] += self._count(rows.truth[:, 0] - answers.values[:, 0])
            return
        assert answers.labels is not None
        if self._shape.kind is Kind.CLUSTERING:
            assert answers.scores is not None
            self._counts[0] += self._count(answers.scores)
            numbers, sizes = np.unique(answers.labels.astype(np.int64), return_counts=True)
            self._sizes.update(dict(zip(numbers.tolist(), sizes.tolist(), strict=True)))
            return
        truth, labels = rows.truth[:, 0].astype(np.int64), answers.labels.astype(np.int64)
        flat = np.bincount(truth * self._num_classes + labels, minlength=self._num_classes**2)
        self._confusion += flat.reshape(self._confusion.shape)
        if answers.scores is None:
            return
        if self._shape.kind is Kind.MULTICLASS:
            right = truth == labels
            top = answers.scores.max(axis=1)
        else:
            right, top = truth == 1, answers.scores
        self._counts[0] += self._count(top[~right])
        self._counts[1] += self._count(top[right])

    def result(self) -> Pictures:
        def histogram(label: str, position: int) -> Histogram:
            return Histogram(
                label=label, edges=tuple(self._edges.tolist()), counts=tuple(self._counts[position].tolist())
            )

        if self._shape.kind is Kind.REGRESSION:
            return Pictures(
                residuals=(histogram("truth minus prediction", 0),),
                tolerance=self._tolerance,
                bands=self._bands,
                points=self._points,
            )
        if self._shape.kind is Kind.CLUSTERING:
            largest = tuple(self._sizes.most_common(_MAX_CLASSES))
            return Pictures(scores=(histogram("rows", 0),), clusters=largest)
        labels = ("wrong", "right") if self._shape.kind is Kind.MULTICLASS else ("negative", "positive")
        return Pictures(
            roc=self._roc,
            precision_recall=self._pr,
            thresholds=self._thresholds,
            scores=tuple(histogram(label, i) for i, label in enumerate(labels)) if self._shape.has_scores else (),
            confusion=tuple(tuple(row) for row in self._confusion.tolist())
            if self._num_classes <= _MAX_CLASSES
            else (),
        )

    def _count(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        clipped = np.clip(values, self._edges[0], self._edges[-1])
        return np.histogram(clipped, bins=self._edges)[0]


def roc_curve(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """False and true positive rates and precision at every distinct score, from the highest down; starts at (0, 0)."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order]) != 0), len(order) - 1)
    hits = np.cumsum(positive[order])[ends].astype(np.float64)
    alarms = ends + 1.0
    true_rate = np.append(0.0, hits / max(hits[-1], 1.0))
    false_rate = np.append(0.0, (alarms - hits) / max(alarms[-1] - hits[-1], 1.0))
    return false_rate, true_rate, np.append(1.0, hits / alarms)


def _curves(shape: Shape, rows: Rows) -> tuple[tuple[Curve, ...], tuple[Curve, ...]]:
    if shape.kind not in (Kind.BINARY, Kind.OUTLIER) or not shape.has_scores:
        return (), ()
    positive = rows.truth[:, 0] == 1
    roc: list[Curve] = []
    pr: list[Curve] = []
    for model, answers in enumerate(rows.answers):
        assert answers.scores is not None
        false_rate, true_rate, precision = roc_curve(positive, answers.scores)
        roc.append(_thinned(model, false_rate, true_rate))
        pr.append(_thinned(model, true_rate, precision))
    return tuple(roc), tuple(pr)


def _thresholds(shape: Shape, rows: Rows) -> tuple[Threshold, ...]:
    scores = rows.answers[0].scores
    if shape.kind is not Kind.BINARY or scores is None:
        return ()
    positive = np.sort(scores[rows.truth[:, 0] == 1])
    every = np.sort(scores)
    made: list[Threshold] = []
    for threshold in np.linspace(0.0, 1.0, _THRESHOLDS).tolist():
        hits = len(positive) - int(np.searchsorted(positive, threshold, side="left"))
        called = len(every) - int(np.searchsorted(every, threshold, side="left"))
        made.append(
            Threshold(
                threshold=round(threshold, 4),
                precision=hits / called if called else None,
                recall=hits / max(len(positive), 1),
                share=called / len(every),
            )
        )
    return tuple(made)


def _tolerance(rows: Rows) -> tuple[Curve, ...]:
    """The regression error characteristic of Bi and Bennett 2003, ICML 20: the error's distribution function."""
    curves: list[Curve] = []
    shares = np.linspace(0.0, 1.0, _CURVE_POINTS)
    for model, answers in enumerate(rows.answers):
        assert answers.values is not None
        errors = np.abs(rows.truth[:, 0] - answers.values[:, 0])
        curves.append(Curve(model=model, x=tuple(np.quantile(errors, shares).tolist()), y=tuple(shares.tolist())))
    return tuple(curves)


def _thinned(model: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> Curve:
    """At most _CURVE_POINTS points, evenly along the line, so that steep parts keep theirs."""
    length = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    chosen = np.unique(np.searchsorted(length, np.linspace(0.0, length[-1], _CURVE_POINTS)))
    chosen = np.minimum(chosen, len(x) - 1)
    return Curve(model=model, x=tuple(x[chosen].round(5).tolist()), y=tuple(y[chosen].round(5).tolist()))


def _histogram_edges(shape: Shape, rows: Rows) -> NDArray[np.float64]:
    answers = rows.answers[0]
    if shape.kind in (Kind.BINARY, Kind.MULTICLASS):
        return np.linspace(0.0, 1.0, _HISTOGRAM_BINS + 1)
    if shape.kind is Kind.CLUSTERING:
        return np.linspace(-1.0, 1.0, _HISTOGRAM_BINS + 1)
    if shape.kind is Kind.OUTLIER:
        assert answers.scores is not None
        values = answers.scores
    else:
        assert answers.values is not None
        values = rows.truth[:, 0] - answers.values[:, 0]
    low, high = np.quantile(values, (0.002, 0.998))
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, _HISTOGRAM_BINS + 1)


def _bands(rows: Rows) -> tuple[ResidualBand, ...]:
    values = rows.answers[0].values
    assert values is not None
    predicted, residual = values[:, 0], rows.truth[:, 0] - values[:, 0]
    cuts = np.unique(np.quantile(predicted, np.linspace(0, 1, _RESIDUAL_BINS + 1)[1:-1]))
    bins = np.searchsorted(cuts, predicted, side="left")
    made: list[ResidualBand] = []
    for i in range(len(cuts) + 1):
        inside = bins == i
        if inside.any():
            q05, q25, q50, q75, q95 = np.quantile(residual[inside], (0.05, 0.25, 0.5, 0.75, 0.95)).tolist()
            made.append(
                ResidualBand(
                    predicted=float(predicted[inside].mean()),
                    num_rows=int(inside.sum()),
                    quantiles=(q05, q25, q50, q75, q95),
                )
            )
    return tuple(made)


def _points(rows: Rows) -> tuple[tuple[float, float], ...]:
    values = rows.answers[0].values
    assert values is not None
    chosen = np.unique(np.linspace(0, rows.num_rows - 1, _SCATTER_POINTS).astype(np.int64))
    pairs = zip(values[chosen, 0].tolist(), rows.truth[chosen, 0].tolist(), strict=True)
    return tuple((predicted, true) for predicted, true in pairs)
