"""What the offline gate had promised of the challenger, to stand beside what traffic shows."""

from __future__ import annotations

import msgspec

from zaphod.experiment.plan import MetricPlan
from zaphod.reporting.interval import Interval

_SAME = {"correct": "accuracy", "squared_error": "brier", "absolute_error": "mae"}


class _Metric(msgspec.Struct, frozen=True):
    name: str
    title: str


class _Gain(msgspec.Struct, frozen=True):
    metric: _Metric
    interval: Interval


class _Comparison(msgspec.Struct, frozen=True):
    role: str
    gains: tuple[_Gain, ...]


class _Version(msgspec.Struct, frozen=True):
    version: int


class _Validation(msgspec.Struct, frozen=True):
    created: str
    champion: _Version | None
    comparisons: tuple[_Comparison, ...]


class OfflineGain(msgspec.Struct, frozen=True, kw_only=True):
    """One offline metric: the challenger's gain over the champion on the holdout; above 0 is better."""

    name: str
    title: str
    gain: Interval


class Offline(msgspec.Struct, frozen=True, kw_only=True):
    """champion: the version it was compared with, None when with none. created: ISO 8601."""

    created: str
    champion: int | None
    gains: tuple[OfflineGain, ...]

    @classmethod
    def read(cls, validation: bytes) -> Offline:
        """From the challenger's validation.json. Raises: msgspec.MsgspecError."""
        read = msgspec.json.decode(validation, type=_Validation)
        against = next((one for one in read.comparisons if one.role == "champion"), None)
        gains = () if against is None else against.gains
        return cls(
            created=read.created,
            champion=None if read.champion is None else read.champion.version,
            gains=tuple(OfflineGain(name=one.metric.name, title=one.metric.title, gain=one.interval) for one in gains),
        )

    def like(self, metric: MetricPlan) -> OfflineGain | None:
        """The offline metric that measures the same thing, if there is one: an outcome of its own has none."""
        return next((one for one in self.gains if one.name == _SAME.get(metric.measure)), None)
