"""Where a model is worse than elsewhere: every category and every quantile bin of every field, with intervals.

Each slice is compared with all other rows. Looking at many slices finds bad ones by chance, so the intervals are
widened (Bonferroni) and the p-values adjusted (Holm 1979, Scandinavian Journal of Statistics 6:65) for their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import scipy.stats
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.reporting.labels import bin_labels
from zaphod.schema import DType, LogPolicy, Schema
from zaphod.validation import metrics, ranks
from zaphod.validation.metrics import Metric
from zaphod.validation.rows import Answers, Kind, Rows, Shape

_MIN_OF_EACH_CLASS = 10


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one kind. drop: how much worse than the other rows, > 0 is worse; in units of the metric, or as a share
    of the other rows' error for a regressor. low, high and drop_low, drop_high hold for all slices together.

    champion_gain: how much better than the champion on these rows, > 0 is better; p values are Holm-adjusted.
    """

    field: str
    label: str
    num_rows: int
    value: float
    low: float
    high: float
    drop: float
    drop_low: float
    drop_high: float
    p_value: float
    champion_gain: float | None = None
    champion_gain_high: float | None = None


class SliceReport(msgspec.Struct, frozen=True, kw_only=True):
    """All slices that are large enough, the worst first. num_small were left out."""

    metric: Metric
    overall: float | None
    slices: tuple[Slice, ...]
    num_small: int
    min_rows: int


@dataclass(frozen=True, slots=True)
class _Axis:
    """One field cut into slices. edges cut numbers; values name strings."""

    name: str
    labels: tuple[str, ...]
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()


class Slicer:
    """Gives each row its slice on every axis. The cuts come from the first rows seen, so they do not move."""

    def __init__(self, schema: Schema, first: Columns, *, num_bins: int, max_categories: int) -> None:
        self._numbers = [
            _cut_numbers(one.name, first.numbers[:, i], num_bins=num_bins, is_bool=one.dtype is DType.BOOL)
            for i, one in enumerate(schema.number_fields)
        ]
        self._strings = [
            # A report is a log, too.
            _cut_strings(
                one.name,
                pa.array(column, type=pa.string()),
                max_categories=max_categories if one.log is LogPolicy.KEEP else 0,
            )
            for one, column in zip(schema.string_fields, first.strings, strict=True)
        ]
        self.axes = (*self._numbers, *self._strings)

    def codes(self, columns: Columns) -> NDArray[np.int16]:
        """Shape (n_rows, n_axes)."""
        codes = np.empty((columns.num_rows, len(self.axes)), dtype=np.int16)
        for i, axis in enumerate(self._numbers):
            values = columns.numbers[:, i]
            bins = np.searchsorted(np.array(axis.edges), values, side="left")
            codes[:, i] = np.where(np.isnan(values), len(axis.edges) + 1, bins)
        for i, (axis, column) in enumerate(zip(self._strings, columns.strings, strict=True), start=len(self._numbers)):
            array = pa.array(column, type=pa.string())
            found = pc.index_in(array, value_set=pa.array(axis.values, type=pa.string()))
            known = np.asarray(found.fill_null(len(axis.values)))
            codes[:, i] = np.where(np.asarray(array.is_null()), len(axis.values) + 1, known)
        return codes


@dataclass(slots=True)
class _Tally:
    """Estimates of one slice from each shard, weighted by rows: value, rest, and gain over the champion."""

    num_rows: int = 0
    weighted: int = 0
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros(6))
    compared: int = 0


@dataclass(frozen=True, slots=True)
class _Estimate:
    value: float
    variance: float

    @property
    def known(self) -> bool:
        return math.isfinite(self.value) and math.isfinite(self.variance)


class SliceCounter:
    """Adds up shards; memory is one tally a slice."""

    def __init__(self, shape: Shape, slicer: Slicer, *, metric: Metric, min_rows: int, has_champion: bool) -> None:
        self._shape = shape
        self._axes = slicer.axes
        self._metric = metric
        self._min_rows = min_rows
        self._has_champion = has_champion
        self._tallies = {(i, code): _Tally() for i, axis in enumerate(self._axes) for code in range(len(axis.labels))}

    def add(self, rows: Rows) -> None:
        measure = _Measure(self._shape, self._metric, rows, has_champion=self._has_champion)
        for (i, code), tally in self._tallies.items():
            inside = rows.codes[:, i] == code
            num_rows = int(inside.sum())
            tally.num_rows += num_rows
            if not num_rows or num_rows == rows.num_rows:
                continue
            here, rest = measure.estimate(inside), measure.estimate(~inside)
            if not (here.known and rest.known):
                continue
            tally.weighted += num_rows
            tally.sums[:4] += [
                num_rows * here.value, num_rows**2 * here.variance,
                num_rows * rest.value, num_rows**2 * rest.variance,
            ]  # fmt: skip
            gain = measure.gain(inside)
            if gain is not None and gain.known:
                tally.compared += num_rows
                tally.sums[4:] += [num_rows * gain.value, num_rows**2 * gain.variance]

    def report(self, *, confidence: float, overall: float | None) -> SliceReport:
        found = [
            (axis, code, self._tallies[i, code])
            for i, axis in enumerate(self._axes)
            for code in range(len(axis.labels))
            if self._tallies[i, code].num_rows
        ]
        judged = [part for part in found if part[2].weighted >= self._min_rows]
        z = float(scipy.stats.norm.ppf(1 - (1 - confidence) / 2 / max(len(judged), 1)))
        slices = [self._slice(axis, code, tally, z=z) for axis, code, tally in judged]
        adjusted = holm(np.array([one.p_value for one in slices]))
        ordered = sorted(
            (msgspec.structs.replace(one, p_value=float(p)) for one, p in zip(slices, adjusted, strict=True)),
            key=lambda one: (-one.drop_low, -one.drop, one.field, one.label),
        )
        return SliceReport(
            metric=self._metric,
            overall=overall,
            slices=tuple(ordered),
            num_small=len(found) - len(judged),
            min_rows=self._min_rows,
        )

    def _slice(self, axis: _Axis, code: int, tally: _Tally, *, z: float) -> Slice:
        value, value_var, rest, rest_var = tally.sums[:4] / np.array([tally.weighted, tally.weighted**2] * 2)
        drop, variance = _drop(self._metric, self._shape, (value, value_var), (rest, rest_var))
        error, half = math.sqrt(variance), z * math.sqrt(value_var)
        p_value = 1.0 if error == 0 else float(2 * scipy.stats.norm.sf(abs(drop) / error))
        made = Slice(
            field=axis.name,
            label=axis.labels[code],
            num_rows=tally.num_rows,
            value=float(value),
            low=float(value - half),
            high=float(value + half),
            drop=drop,
            drop_low=drop - z * error,
            drop_high=drop + z * error,
            p_value=p_value,
        )
        if not tally.compared:
            return made
        gain, gain_error = tally.sums[4] / tally.compared, math.sqrt(tally.sums[5]) / tally.compared
        return msgspec.structs.replace(made, champion_gain=float(gain), champion_gain_high=float(gain + z * gain_error))


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Step-down adjusted p-values: the chance of any false alarm among all of them stays at the level."""
    order = np.argsort(p_values)
    steps = np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * steps))
    return adjusted


class _Measure:
    """The metric of any part of a shard with its variance: DeLong for AUC, sd / sqrt(n) for what is a mean."""

    def __init__(self, shape: Shape, metric: Metric, rows: Rows, *, has_champion: bool) -> None:
        self._metric = metric
        self._sign = 1.0 if metric.higher_is_better else -1.0
        models = rows.answers[: 2 if has_champion else 1]
        if metric is metrics.ROC_AUC:
            self._positive = rows.truth[:, 0] == 1
            self._rankings = [ranks.Ranking(self._positive, _scores(one)) for one in models]
            self._contributions: list[NDArray[np.float64]] = []
        else:
            self._contributions = [contributions(shape, metric, rows.truth, one) for one in models]

    def estimate(self, inside: NDArray[np.bool_]) -> _Estimate:
        if self._metric is metrics.ROC_AUC:
            if not self._has_both(inside):
                return _Estimate(math.nan, math.nan)
            area = self._rankings[0].auc(inside)
            return _Estimate(area.value, area.variance)
        return _mean(self._contributions[0][inside])

    def gain(self, inside: NDArray[np.bool_]) -> _Estimate | None:
        if self._metric is metrics.ROC_AUC:
            if len(self._rankings) < 2 or not self._has_both(inside):
                return None
            test = ranks.compare_auc(self._rankings[0], self._rankings[1], inside)
            return None if test is None else _Estimate(test.difference, test.variance)
        if len(self._contributions) < 2:
            return None
        return _mean(self._sign * (self._contributions[0][inside] - self._contributions[1][inside]))

    def _has_both(self, inside: NDArray[np.bool_]) -> bool:
        positives = int(self._positive[inside].sum())
        return min(positives, int(inside.sum()) - positives) >= _MIN_OF_EACH_CLASS


def contributions(shape: Shape, metric: Metric, truth: NDArray[np.float64], answers: Answers) -> NDArray[np.float64]:
    """Each row's part in a metric that is a mean over rows, shape (n_rows,). Raises: KeyError for another metric."""
    if shape.kind is Kind.REGRESSION:
        assert answers.values is not None
        parts: dict[Metric, NDArray[np.float64]] = {metrics.MAE: np.abs(truth - answers.values).mean(axis=1)}
        return parts[metric]
    if shape.kind is Kind.SEVERAL:
        pairs = zip(shape.by_target(), answers.by_target(shape), strict=True)
        each = [contributions(one, metric, truth[:, i : i + 1], given) for i, (one, given) in enumerate(pairs)]
        mean: NDArray[np.float64] = np.mean(each, axis=0)
        return mean
    assert answers.labels is not None
    if metric is metrics.ACCURACY:
        right: NDArray[np.float64] = (answers.labels == truth[:, 0]).astype(np.float64)
        return right
    scores = answers.scores
    assert scores is not None
    if metric is metrics.SILHOUETTE:
        return scores
    if metric is metrics.BRIER:
        brier: NDArray[np.float64] = (scores - truth[:, 0]) ** 2
        return brier
    return {metrics.LOG_LOSS: metrics.log_losses(truth[:, 0], scores)}[metric]


def _scores(answers: Answers) -> NDArray[np.float64]:
    assert answers.scores is not None
    return answers.scores


def _mean(values: NDArray[np.float64]) -> _Estimate:
    if len(values) < 2:
        return _Estimate(math.nan, math.nan)
    return _Estimate(float(values.mean()), float(values.var(ddof=1)) / len(values))


def _drop(metric: Metric, shape: Shape, here: tuple[float, float], rest: tuple[float, float]) -> tuple[float, float]:
    """How much worse here than elsewhere, and the variance of that; by the delta method where it is a ratio."""
    (value, value_var), (other, other_var) = here, rest
    if shape.kind is not Kind.REGRESSION:
        sign = 1.0 if metric.higher_is_better else -1.0
        return float(sign * (other - value)), float(value_var + other_var)
    if other == 0:
        return (0.0 if value == 0 else math.inf), 0.0
    return float(value / other - 1.0), float(value_var / other**2 + value**2 * other_var / other**4)


def _cut_numbers(name: str, values: NDArray[np.float64], *, num_bins: int, is_bool: bool) -> _Axis:
    if is_bool:
        return _Axis(name=name, labels=("false", "true", "null"), edges=(0.5,))
    known = values[~np.isnan(values)]
    cuts = np.unique(np.quantile(known, np.linspace(0, 1, num_bins + 1)[1:-1])) if len(known) else np.array([0.0])
    edges = tuple(cuts.tolist())
    return _Axis(name=name, labels=bin_labels(edges), edges=edges)


def _cut_strings(name: str, values: pa.Array, *, max_categories: int) -> _Axis:
    counted = pc.value_counts(values.drop_null())
    pairs = zip(counted.field("counts").to_pylist(), counted.field("values").to_pylist(), strict=True)
    ordered = [value for _, value in sorted(pairs, key=lambda pair: (-pair[0], pair[1]))][:max_categories]
    return _Axis(name=name, labels=(*ordered, "other", "null"), values=tuple(ordered))
