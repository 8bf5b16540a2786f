"""From the spool to numbers: one look at each shard, then intervals, tests, slices and calibration."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zaphod.errors import ConfigError
from zaphod.reporting.interval import Interval
from zaphod.validation import metrics, ranks
from zaphod.validation.bootstrap import Bag, resample
from zaphod.validation.calibration import Calibration, CalibrationCounter
from zaphod.validation.measured import Comparison, Measured, ModelMetrics, Role, Test
from zaphod.validation.metrics import Evaluate, Metric, Weights, evaluator, metrics_of, point
from zaphod.validation.pictures import Pictures, picture_counter
from zaphod.validation.rows import Answers, Kind, Rows, Shape
from zaphod.validation.settings import ValidationSettings
from zaphod.validation.slices import SliceCounter, Slicer, SliceReport
from zaphod.validation.spool import Spool

# Kleiner et al. find 1 to 20 bags of 100 replicates enough; the first shards are as random as any.
_MAX_RESAMPLED_SHARDS = 20
_MIN_REPLICATES = 100


@dataclass(frozen=True, slots=True)
class Statistics:
    """All that the shards had to say."""

    models: tuple[ModelMetrics, ...]
    comparisons: tuple[Comparison, ...]
    slices: SliceReport
    pictures: Pictures
    num_shards: int


def compute(
    spool: Spool, *, shape: Shape, roles: tuple[Role, ...], slicer: Slicer, settings: ValidationSettings
) -> Statistics:
    """Raises: ConfigError when the slice metric is not one of the task."""
    gathered: _Gathered | None = None
    num_shards = spool.num_shards(shard_rows=settings.shard_rows)
    for rows in spool.shards(shard_rows=settings.shard_rows):
        gathered = gathered or _Gathered(shape, roles, slicer, rows, num_rows=spool.num_rows, num_shards=num_shards,
                                         settings=settings)  # fmt: skip
        gathered.add(rows)
    assert gathered is not None, "a spool without rows"
    return gathered.result()


def slice_metric(shape: Shape, name: str | None) -> Metric:
    """The metric named, or the task's own. Raises: ConfigError when the task does not have it."""
    if name is None:
        if shape.kind is Kind.REGRESSION:
            return metrics.MAE
        if shape.kind is Kind.CLUSTERING:
            return metrics.SILHOUETTE
        is_ranked = shape.has_scores and shape.kind in (Kind.BINARY, Kind.OUTLIER)
        return metrics.ROC_AUC if is_ranked else metrics.ACCURACY
    found = next((metric for metric in metrics_of(shape) if metric.name == name), None)
    if found is None:
        known = ", ".join(metric.name for metric in metrics_of(shape))
        raise ConfigError(f"Expected a slice_metric that a {shape.kind} model has ({known}), got {name}")
    return found


class _Gathered:
    """Everything that shards are added to."""

    def __init__(
        self,
        shape: Shape,
        roles: tuple[Role, ...],
        slicer: Slicer,
        first: Rows,
        *,
        num_rows: int,
        num_shards: int,
        settings: ValidationSettings,
    ) -> None:
        self._shape = shape
        self._roles = roles
        self._settings = settings
        self._num_rows = num_rows
        self._num_shards = num_shards
        self._metrics = metrics_of(shape)
        self._signs = np.array([1.0 if metric.higher_is_better else -1.0 for metric in self._metrics])
        self._rng = np.random.default_rng([settings.seed, 3])
        self._bag = Bag(confidence=settings.confidence)
        self._num_resampled = min(num_shards, _MAX_RESAMPLED_SHARDS)
        self._replicates = max(_MIN_REPLICATES, settings.replicates // self._num_resampled)
        self._added = 0
        has_champion = Role.CHAMPION in roles
        self._slice_metric = slice_metric(shape, settings.slice_metric)
        self._slices = SliceCounter(
            shape, slicer, metric=self._slice_metric, min_rows=settings.slice_min_rows, has_champion=has_champion
        )
        self._pictures = picture_counter(shape, first)
        has_right_answers = shape.kind not in (Kind.REGRESSION, Kind.CLUSTERING)
        self._tests = _PairedTests(shape) if has_champion and has_right_answers else None
        self._calibrations: list[CalibrationCounter] = []
        if shape.has_scores and shape.kind in (Kind.BINARY, Kind.MULTICLASS):
            packaged = first.answers[: 2 if has_champion else 1]
            self._calibrations = [
                CalibrationCounter(_stated(one)[0], num_bins=settings.calibration_bins) for one in packaged
            ]

    def add(self, rows: Rows) -> None:
        evaluate = _together([evaluator(self._shape, rows.truth, one) for one in rows.answers], self._signs)
        replicates = None
        if self._added < self._num_resampled:
            replicates = resample(
                evaluate,
                num_rows=rows.num_rows,
                num_draws=self._num_rows,
                replicates=self._replicates,
                rng=self._rng,
            )
        self._bag.add(point(evaluate, rows.num_rows), num_rows=rows.num_rows, replicates=replicates)
        self._added += 1
        self._slices.add(rows)
        self._pictures.add(rows)
        if self._tests is not None:
            self._tests.add(rows)
        for counter, answers in zip(self._calibrations, rows.answers, strict=False):
            stated, labels = _stated(answers)
            counter.add(stated, rows.truth[:, 0] == labels)

    def result(self) -> Statistics:
        intervals = self._bag.intervals()
        width = len(self._metrics)
        parts = [intervals[i : i + width] for i in range(0, len(intervals), width)]
        num_models = len(self._roles)
        calibrations: list[Calibration | None] = [
            counter.result(confidence=self._settings.confidence, seed=self._settings.seed)
            for counter in self._calibrations
        ]
        calibrations += [None] * (num_models - len(calibrations))
        models = tuple(
            ModelMetrics(role=role, metrics=_measured(self._metrics, part), calibration=calibration)
            for role, part, calibration in zip(self._roles, parts[:num_models], calibrations, strict=True)
        )
        comparisons = tuple(
            Comparison(
                role=role,
                gains=_measured(self._metrics, part),
                tests=self._tests.result() if role is Role.CHAMPION and self._tests is not None else (),
            )
            for role, part in zip(self._roles[1:], parts[num_models:], strict=True)
        )
        position = next((i for i, one in enumerate(self._metrics) if one == self._slice_metric), None)
        overall = None if position is None else parts[0][position].value
        return Statistics(
            models=models,
            comparisons=comparisons,
            slices=self._slices.report(confidence=self._settings.confidence, overall=overall),
            pictures=self._pictures.result(),
            num_shards=self._num_shards,
        )


class _PairedTests:
    """McNemar over all rows; DeLong shard by shard, whose differences are averaged as independent."""

    def __init__(self, shape: Shape) -> None:
        self._ranked = shape.has_scores and shape.kind in (Kind.BINARY, Kind.OUTLIER)
        self._only_first = self._only_second = 0
        self._rows = 0
        self._difference = self._variance = 0.0

    def add(self, rows: Rows) -> None:
        first, second = rows.answers[:2]
        right, other = metrics.right_rows(rows.truth, first), metrics.right_rows(rows.truth, second)
        self._only_first += int((right & ~other).sum())
        self._only_second += int((other & ~right).sum())
        if not self._ranked:
            return
        assert first.scores is not None
        assert second.scores is not None
        rankings = [ranks.Ranking(rows.truth[:, 0] == 1, scores) for scores in (first.scores, second.scores)]
        test = ranks.compare_auc(rankings[0], rankings[1], np.ones(rows.num_rows, dtype=bool))
        if test is not None:
            self._rows += rows.num_rows
            self._difference += rows.num_rows * test.difference
            self._variance += rows.num_rows**2 * test.variance

    def result(self) -> tuple[Test, ...]:
        mcnemar = ranks.mcnemar(only_first=self._only_first, only_second=self._only_second)
        made = [
            Test(
                name="McNemar",
                statistic=mcnemar.statistic,
                p_value=mcnemar.p_value,
                detail=f"{self._only_first} rows right here only, {self._only_second} right in the champion only",
            )
        ]
        if self._rows:
            difference, variance = self._difference / self._rows, self._variance / self._rows**2
            test = ranks.z_test(difference, variance)
            made.append(
                Test(
                    name="DeLong",
                    statistic=test.statistic,
                    p_value=test.p_value,
                    detail=f"ROC AUC differs by {difference:+.4f}, standard error {math.sqrt(variance):.4f}",
                )
            )
        return tuple(made)


def _together(evaluates: list[Evaluate], signs: NDArray[np.float64]) -> Evaluate:
    """Every model's metrics, then the first model's gains over each of the others: one weighting serves all."""

    def evaluate(weights: Weights) -> NDArray[np.float64]:
        values = [one(weights) for one in evaluates]
        return np.concatenate([*values, *(signs * (values[0] - other) for other in values[1:])], axis=1)

    return evaluate


def _stated(answers: Answers) -> tuple[NDArray[np.float64], NDArray[np.float64] | float]:
    """The probability a model states of a label, and that label: the second of two, or the likeliest of many."""
    assert answers.scores is not None
    if answers.scores.ndim == 1:
        return answers.scores, 1.0
    return answers.scores.max(axis=1), answers.scores.argmax(axis=1).astype(np.float64)


def _measured(names: tuple[Metric, ...], intervals: list[Interval]) -> tuple[Measured, ...]:
    return tuple(Measured(metric=one, interval=interval) for one, interval in zip(names, intervals, strict=True))
