"""How far a table is from the one a model was trained on: PSI per field, beside what chance alone would give."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.predictor import Predictions
from zaphod.reporting.labels import bin_labels
from zaphod.schema import Schema
from zaphod.validation.profile import CategoryProfile, NumberProfile, Profile, count_columns, count_outputs

NOISE_QUANTILE = 0.99


class BinShare(msgspec.Struct, frozen=True, kw_only=True):
    """One bin: its share of the training rows and of the rows looked at."""

    label: str
    training: float
    current: float


class FieldDrift(msgspec.Struct, frozen=True, kw_only=True):
    """psi of one field or output. noise: what PSI stays under in 99 of 100 tables without any drift, after allowing
    for the number of fields looked at.
    """

    name: str
    is_output: bool
    psi: float
    noise: float
    bins: tuple[BinShare, ...]


def psi(expected: NDArray[np.float64], actual: NDArray[np.float64]) -> float:
    """Population stability index of two lists of shares > 0: sum of (q - p) ln(q / p), the symmetrised KL divergence.

    Siddiqi 2006, Credit Risk Scorecards; Jeffreys 1946.
    """
    return float(((actual - expected) * np.log(actual / expected)).sum())


def psi_of_counts(expected: NDArray[np.int64], actual: NDArray[np.int64]) -> float:
    """PSI with half a row added to each bin: an empty bin has a finite price. Bins empty in both do not count."""
    used = (expected > 0) | (actual > 0)
    p, q = expected[used] + 0.5, actual[used] + 0.5
    return psi(p / p.sum(), q / q.sum())


def psi_noise(*, num_bins: int, num_expected: int, num_actual: int, quantile: float) -> float:
    """The quantile of PSI between two samples of one population: (1/N + 1/M) chi-squared with B-1 degrees of freedom.

    Yurdakul 2018, Western Michigan University dissertation 3208.
    """
    if num_bins < 2 or not num_expected or not num_actual:
        return 0.0
    import scipy.stats  # half a second of imports that PSI itself does not need

    return float((1 / num_expected + 1 / num_actual) * scipy.stats.chi2.ppf(quantile, num_bins - 1))


class DriftCounter:
    """Adds up batches on the edges of a profile; memory does not grow with rows."""

    def __init__(self, profile: Profile, schema: Schema) -> None:
        self._profile = profile
        self._schema = schema
        self._counts = [np.zeros(len(part.counts), dtype=np.int64) for part in (*profile.fields, *profile.outputs)]

    def add(self, columns: Columns, predictions: Predictions) -> None:
        counted = [
            *count_columns(self._profile, self._schema, columns),
            *count_outputs(self._profile, self._schema, predictions),
        ]
        for total, more in zip(self._counts, counted, strict=True):
            total += more

    def result(self) -> tuple[FieldDrift, ...]:
        return drift_of_counts(self._profile, self._counts)


def drift_of_counts(profile: Profile, counts: Sequence[NDArray[np.int64]]) -> tuple[FieldDrift, ...]:
    """counts: rows in each bin of each field, then of each output."""
    parts = [(part, False) for part in profile.fields] + [(part, True) for part in profile.outputs]
    quantile = 1 - (1 - NOISE_QUANTILE) / len(parts)
    return tuple(
        _field_drift(part, current, is_output=is_output, quantile=quantile)
        for (part, is_output), current in zip(parts, counts, strict=True)
    )


def _field_drift(
    part: NumberProfile | CategoryProfile, current: NDArray[np.int64], *, is_output: bool, quantile: float
) -> FieldDrift:
    training = np.array(part.counts, dtype=np.int64)
    num_training, num_current = int(training.sum()), int(current.sum())
    used = (training > 0) | (current > 0)
    shares = zip(_labels(part), training / max(num_training, 1), current / max(num_current, 1), used, strict=True)
    return FieldDrift(
        name=part.name,
        is_output=is_output,
        psi=psi_of_counts(training, current),
        noise=psi_noise(num_bins=int(used.sum()), num_expected=num_training, num_actual=num_current, quantile=quantile),
        bins=tuple(
            BinShare(label=label, training=float(p), current=float(q)) for label, p, q, is_used in shares if is_used
        ),
    )


def _labels(part: NumberProfile | CategoryProfile) -> list[str]:
    if isinstance(part, CategoryProfile):
        return [*part.values, "other", "null"]
    return list(bin_labels(part.edges))
