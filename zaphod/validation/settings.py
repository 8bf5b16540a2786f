"""What configs/validation.yaml may say: how to measure, and what a version must hold to pass."""

from __future__ import annotations

from typing import Literal

import pydantic

from zaphod.settings import Settings

MetricName = Literal[
    "roc_auc",
    "pr_auc",
    "log_loss",
    "brier",
    "accuracy",
    "exact_match",
    "f1",
    "macro_f1",
    "ovr_auc",
    "rmse",
    "mae",
    "r2",
    "median_ae",
    "silhouette",
    "largest_cluster",
]


class MetricRule(Settings):
    """What one metric must hold. A rule about a metric that the model's task does not have is left out."""

    metric: MetricName
    """Which metric."""

    at_least: float | None = None
    """The lower confidence bound must reach this."""

    at_most: float | None = None
    """The upper confidence bound must stay under this."""

    not_worse_than_champion_by: pydantic.NonNegativeFloat | None = None
    """The paired interval must rule out that the metric is worse than the champion's by more than this."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> MetricRule:
        if self.at_least is None and self.at_most is None and self.not_worse_than_champion_by is None:
            raise ValueError(f"Expected at_least, at_most or not_worse_than_champion_by for {self.metric}, got none")
        return self


class ValidationSettings(Settings):
    """One validation. A gate setting of null is not checked."""

    metrics: tuple[MetricRule, ...] = (
        MetricRule(metric="roc_auc", at_least=0.7, not_worse_than_champion_by=0.01),
        MetricRule(metric="log_loss", not_worse_than_champion_by=0.02),
        MetricRule(metric="accuracy", not_worse_than_champion_by=0.01),
        MetricRule(metric="r2", at_least=0.3, not_worse_than_champion_by=0.01),
        MetricRule(metric="silhouette", not_worse_than_champion_by=0.02),
    )
    """Gate: rules about metrics, absolute ones and against the champion."""

    better_than_baseline: bool = True
    """Gate: surely better than predicting the prior or the mean, and no linear model is surely better than this one."""

    worst_slice_drop_at_most: pydantic.NonNegativeFloat | None = 0.15
    """Gate: no slice is surely worse than the other rows by more than this: in the slice metric's units, or as a share
    of the other rows' error for a regressor."""

    no_slice_worse_than_champion: bool = True
    """Gate: on no slice is the champion surely better."""

    ece_at_most: pydantic.NonNegativeFloat | None = 0.05
    """Gate: expected calibration error, or what chance alone explains if that is more."""

    psi_at_most: pydantic.NonNegativeFloat | None = 0.25
    """Gate: drift of any field or of the score from training, or what chance alone explains if that is more."""

    latency_p99_ms_at_most: pydantic.PositiveFloat | None = 50.0
    """Gate: one row, decoding included, on the machine that validates."""

    bundle_mb_at_most: pydantic.PositiveFloat | None = 500.0
    """Gate: size of the bundle in megabytes of a million bytes."""

    schema_compatible: bool = True
    """Gate: every request that the champion's schema takes is taken by this one."""

    max_rejected_share: float = pydantic.Field(default=0.01, ge=0.0, le=1.0)
    """Gate: rows of the holdout that break the schema."""

    min_rows: pydantic.PositiveInt = 200
    """Gate: rows that were measured; below that, intervals are too wide and too optimistic to decide by."""

    confidence: float = pydantic.Field(default=0.95, gt=0.5, lt=1.0)
    """Of every two-sided interval."""

    replicates: int = pydantic.Field(default=1000, ge=100)
    """Resampled tables behind each interval."""

    seed: pydantic.NonNegativeInt = 0
    """Of everything random: the same data, settings and seed give the same numbers."""

    shard_rows: int = pydantic.Field(default=20_000, ge=1000)
    """Rows resampled in memory at once. A larger holdout becomes several shards, each a random sample of it."""

    batch_rows: pydantic.PositiveInt = 32_768
    """Rows decoded and predicted at once."""

    baseline_rows: int = pydantic.Field(default=20_000, ge=100)
    """Rows that the baselines are fitted on, at most: a random sample of the training rows, or of the holdout."""

    slice_bins: int = pydantic.Field(default=4, ge=2, le=20)
    """Slices of a number, of about equal numbers of rows."""

    slice_max_categories: int = pydantic.Field(default=10, ge=1, le=100)
    """Slices of a string: its most frequent values, one each; all others together."""

    slice_min_rows: pydantic.PositiveInt = 100
    """Smaller slices are not judged; AUC also needs ten rows of each class."""

    slice_metric: Literal["roc_auc", "log_loss", "brier", "accuracy", "mae"] | None = None
    """What slices are judged by; by default ROC AUC, accuracy without scores or of several classes or targets, MAE; the
    silhouette of clusters."""

    calibration_bins: int = pydantic.Field(default=15, ge=2, le=100)
    """Bins of about equal numbers of rows for the expected calibration error and its picture."""

    latency_calls: pydantic.PositiveInt = 1000
    """One-row predictions to time, at most."""

    latency_limit_s: pydantic.PositiveFloat = 5.0
    """Time to spend on that, at most."""
