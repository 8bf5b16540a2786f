"""What any model must beat: predicting the prior, and a plain linear model on the same fields."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from zaphod.columns import Columns
from zaphod.validation.rows import Answers, Kind, Shape

NUM_FOLDS = 5
_MAX_CATEGORIES = 30
_MAX_ITERATIONS = 300
# A value this many standard deviations out no longer moves a linear baseline.
_CLIP = 10.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows to fit on. folds: int64, which fold each row is in; None to fit once on all."""

    columns: Columns
    truth: NDArray[np.float64]
    folds: NDArray[np.int64] | None


class Baseline(Protocol):
    """Predicts rows; folds say which fit may not have seen each row."""

    def predict(self, columns: Columns, *, folds: NDArray[np.int64]) -> Answers: ...


@dataclass(frozen=True, slots=True)
class Dummy:
    """Gives every row the shares of the classes, or the mean."""

    shape: Shape
    prior: NDArray[np.float64]

    def predict(self, columns: Columns, *, folds: NDArray[np.int64]) -> Answers:
        num_rows = columns.num_rows
        if self.shape.kind is Kind.REGRESSION:
            return Answers(values=np.tile(self.prior, (num_rows, 1)))
        return _classify(self.shape, np.tile(self.prior, (num_rows, 1)))


@dataclass(frozen=True, slots=True)
class Linear:
    """Logistic or ridge regression on standardised numbers and one-hot categories, one fit a fold."""

    shape: Shape
    fits: tuple[_Fit, ...]

    def predict(self, columns: Columns, *, folds: NDArray[np.int64]) -> Answers:
        if len(self.fits) == 1:
            values = self.fits[0].predict(columns)
        else:
            values = np.empty((columns.num_rows, self.shape.num_outputs))
            for fold, fit in enumerate(self.fits):
                mine = np.flatnonzero(folds == fold)
                if len(mine):
                    values[mine] = fit.predict(columns.take(mine))
        return Answers(values=values) if self.shape.kind is Kind.REGRESSION else _classify(self.shape, values)


@dataclass(frozen=True, slots=True)
class EachTarget:
    """One baseline for each of several targets."""

    parts: tuple[Baseline, ...]

    def predict(self, columns: Columns, *, folds: NDArray[np.int64]) -> Answers:
        answers = [part.predict(columns, folds=folds) for part in self.parts]
        labels = np.stack([one.labels for one in answers if one.labels is not None], axis=1)
        scores = [one.scores for one in answers if one.scores is not None]
        return Answers(labels=labels, scores=np.concatenate(scores, axis=1) if scores else None)


def fit_baselines(shape: Shape, sample: Sample) -> tuple[Baseline, Baseline]:
    """A dummy and a linear one, fitted. With folds each fit leaves one fold out, to predict it later."""
    if shape.kind is Kind.SEVERAL:
        pairs = [
            fit_baselines(one, Sample(columns=sample.columns, truth=sample.truth[:, i : i + 1], folds=sample.folds))
            for i, one in enumerate(shape.by_target())
        ]
        dummies, linears = zip(*pairs, strict=True)
        return EachTarget(dummies), EachTarget(linears)
    if shape.kind is Kind.REGRESSION:
        prior = sample.truth.mean(axis=0)
    else:
        counts = np.bincount(sample.truth[:, 0].astype(np.int64), minlength=shape.num_outputs)
        prior = counts / counts.sum()
    if sample.folds is None:
        fits = [_Fit.of(shape, sample.columns, sample.truth, prior=prior)]
    else:
        fits = []
        for fold in range(NUM_FOLDS):
            others = np.flatnonzero(sample.folds != fold)
            fits.append(_Fit.of(shape, sample.columns.take(others), sample.truth[others], prior=prior))
    return Dummy(shape=shape, prior=prior), Linear(shape=shape, fits=tuple(fits))


@dataclass(frozen=True, slots=True)
class _Fit:
    """One linear model with the encoding it was fitted on. model is None where only one class was seen."""

    medians: NDArray[np.float64]
    means: NDArray[np.float64]
    scales: NDArray[np.float64]
    categories: tuple[pa.Array, ...]
    model: LogisticRegression | Ridge | None
    prior: NDArray[np.float64]

    @classmethod
    def of(cls, shape: Shape, columns: Columns, truth: NDArray[np.float64], *, prior: NDArray[np.float64]) -> _Fit:
        numbers = columns.numbers
        known = ~np.isnan(numbers).all(axis=0)
        medians = np.zeros(numbers.shape[1])
        medians[known] = np.nanmedian(numbers[:, known], axis=0)
        filled = np.where(np.isnan(numbers), medians, numbers)
        scales = filled.std(axis=0)
        categories = tuple(_frequent(column) for column in columns.strings)
        fit = cls(medians, filled.mean(axis=0), np.where(scales > 0, scales, 1.0), categories, None, prior)
        if shape.kind is Kind.REGRESSION:
            model: LogisticRegression | Ridge = Ridge(alpha=1.0).fit(fit.encode(columns), truth)
        elif len(np.unique(truth)) < 2:
            return fit
        else:
            with warnings.catch_warnings():
                # A baseline that has nearly converged is a baseline.
                warnings.simplefilter("ignore", ConvergenceWarning)
                model = LogisticRegression(max_iter=_MAX_ITERATIONS).fit(fit.encode(columns), truth[:, 0])
        return cls(fit.medians, fit.means, fit.scales, fit.categories, model, prior)

    def encode(self, columns: Columns) -> NDArray[np.float64]:
        """Standardised numbers, one flag each for null, one column for each frequent category."""
        missing = np.isnan(columns.numbers)
        scaled = (np.where(missing, self.medians, columns.numbers) - self.means) / self.scales
        parts = [np.clip(scaled, -_CLIP, _CLIP), missing.astype(np.float64)]
        for column, values in zip(columns.strings, self.categories, strict=True):
            codes = np.asarray(pc.index_in(pa.array(column, type=pa.string()), value_set=values).fill_null(-1))
            parts.append((codes[:, None] == np.arange(len(values))).astype(np.float64))
        return np.concatenate(parts, axis=1)

    def predict(self, columns: Columns) -> NDArray[np.float64]:
        """Shape (n_rows, n_outputs): probabilities of each class, or values."""
        if self.model is None:
            return np.tile(self.prior, (columns.num_rows, 1))
        if isinstance(self.model, Ridge):
            return np.asarray(self.model.predict(self.encode(columns))).reshape(columns.num_rows, len(self.prior))
        # A class that the sample does not have gets probability 0.
        probabilities = np.zeros((columns.num_rows, len(self.prior)))
        probabilities[:, self.model.classes_.astype(np.int64)] = self.model.predict_proba(self.encode(columns))
        return probabilities


def _frequent(column: list[str | None] | pa.Array) -> pa.Array:
    counted = pc.value_counts(pa.array(column, type=pa.string()).drop_null())
    pairs = zip(counted.field("counts").to_pylist(), counted.field("values").to_pylist(), strict=True)
    ordered = sorted(pairs, key=lambda pair: (-pair[0], pair[1]))[:_MAX_CATEGORIES]
    return pa.array([value for _, value in ordered], type=pa.string())


def _classify(shape: Shape, probabilities: NDArray[np.float64]) -> Answers:
    labels = probabilities.argmax(axis=1).astype(np.float64)
    if not shape.has_scores:
        return Answers(labels=labels)
    return Answers(labels=labels, scores=probabilities if shape.kind is Kind.MULTICLASS else probabilities[:, 1])
