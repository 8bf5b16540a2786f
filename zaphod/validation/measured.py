"""What was measured of each model, and of the candidate against the others."""

from __future__ import annotations

import enum

import msgspec

from zaphod.reporting.interval import Interval
from zaphod.validation.calibration import Calibration
from zaphod.validation.metrics import Metric


class Role(enum.StrEnum):
    """Who answered."""

    CANDIDATE = "candidate"
    CHAMPION = "champion"
    DUMMY = "dummy"
    LINEAR = "linear"


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of one model."""

    metric: Metric
    interval: Interval


class ModelMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """One model's metrics. calibration: of the candidate and the champion, where they give probabilities."""

    role: Role
    metrics: tuple[Measured, ...]
    calibration: Calibration | None = None


class Test(msgspec.Struct, frozen=True, kw_only=True):
    """A paired test. statistic: z of DeLong's, chi-squared of McNemar's."""

    name: str
    statistic: float
    p_value: float
    detail: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate against another on the same rows. gains: > 0 is better, whichever way the metric counts."""

    role: Role
    gains: tuple[Measured, ...]
    tests: tuple[Test, ...] = ()

    def gain(self, name: str) -> Measured | None:
        return next((one for one in self.gains if one.metric.name == name), None)
