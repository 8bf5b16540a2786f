"""The metrics of each task, computed for many weightings of the rows at once: that is what a bootstrap asks for.

Every metric here equals scikit-learn's of the same name for weights of one; a test holds them together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from zaphod.validation.rows import Answers, Kind, Shape

Weights: TypeAlias = NDArray[np.float64]
"""Shape (n_weightings, n_rows), each >= 0."""

Evaluate: TypeAlias = Callable[[Weights], NDArray[np.float64]]
"""Weights to metric values, shape (n_weightings, n_metrics); NaN where a class the metric needs has no weight."""

_EPSILON = float(np.finfo(np.float64).eps)
_MAX_OVR_CLASSES = 20


class Metric(msgspec.Struct, frozen=True):
    """What is measured. `title` is for people."""

    name: str
    title: str
    higher_is_better: bool


ROC_AUC = Metric("roc_auc", "ROC AUC", higher_is_better=True)
PR_AUC = Metric("pr_auc", "average precision", higher_is_better=True)
LOG_LOSS = Metric("log_loss", "log loss", higher_is_better=False)
BRIER = Metric("brier", "Brier score", higher_is_better=False)
EXACT_MATCH = Metric("exact_match", "all labels right", higher_is_better=True)
ACCURACY = Metric("accuracy", "accuracy", higher_is_better=True)
F1 = Metric("f1", "F1", higher_is_better=True)
MACRO_F1 = Metric("macro_f1", "macro F1", higher_is_better=True)
OVR_AUC = Metric("ovr_auc", "one-vs-rest ROC AUC", higher_is_better=True)
MAE = Metric("mae", "MAE", higher_is_better=False)
RMSE = Metric("rmse", "RMSE", higher_is_better=False)
R2 = Metric("r2", "R²", higher_is_better=True)
MEDIAN_AE = Metric("median_ae", "median absolute error", higher_is_better=False)

SILHOUETTE = Metric("silhouette", "silhouette", higher_is_better=True)
LARGEST_CLUSTER = Metric("largest_cluster", "share of the largest cluster", higher_is_better=False)


def metrics_of(shape: Shape) -> tuple[Metric, ...]:
    """What `evaluator` computes, in its order; the first is the one to look at first."""
    match shape.kind:
        case Kind.BINARY:
            return (ROC_AUC, PR_AUC, LOG_LOSS, BRIER, ACCURACY, F1) if shape.has_scores else (ACCURACY, F1)
        case Kind.MULTICLASS:
            ranked = (LOG_LOSS,) if shape.has_scores else ()
            pairwise = (OVR_AUC,) if shape.has_scores and shape.num_outputs <= _MAX_OVR_CLASSES else ()
            return (*ranked, *pairwise, ACCURACY, MACRO_F1)
        case Kind.REGRESSION:
            return (RMSE, MAE, R2, MEDIAN_AE)
        case Kind.OUTLIER:
            return (ROC_AUC, PR_AUC, ACCURACY, F1)
        case Kind.CLUSTERING:
            return (SILHOUETTE, LARGEST_CLUSTER)
        case Kind.SEVERAL:
            return (*_means_of(shape), EXACT_MATCH, *_metrics_by_target(shape))


def _means_of(shape: Shape) -> tuple[Metric, ...]:
    """Of several targets: what is the mean over them."""
    return (LOG_LOSS, ACCURACY, MACRO_F1) if shape.has_scores else (ACCURACY, MACRO_F1)


def _metrics_by_target(shape: Shape) -> tuple[Metric, ...]:
    pairs = zip(shape.targets, shape.by_target(), strict=True)
    return tuple(
        Metric(f"{one.name}_{target}", f"{one.title} of {target}", higher_is_better=one.higher_is_better)
        for target, part in pairs
        for one in metrics_of(part)
    )


def evaluator(shape: Shape, truth: NDArray[np.float64], answers: Answers) -> Evaluate:
    """Sorts and sums once what does not depend on the weights."""
    if shape.kind is Kind.REGRESSION:
        assert answers.values is not None
        return _regression(truth, answers.values)
    if shape.kind is Kind.SEVERAL:
        return _several(truth, answers, shape)
    assert answers.labels is not None
    if shape.kind is Kind.CLUSTERING:
        return _clusters(answers.labels, answers.scores)
    codes, labels = truth[:, 0], answers.labels
    if shape.kind is Kind.MULTICLASS:
        return _multiclass(codes.astype(np.int64), labels.astype(np.int64), answers.scores, shape)
    return _binary(codes == 1, labels == 1, answers.scores, has_probabilities=shape.kind is Kind.BINARY)


def point(evaluate: Evaluate, num_rows: int) -> NDArray[np.float64]:
    """The metrics of the rows as they are, shape (n_metrics,)."""
    values: NDArray[np.float64] = evaluate(np.ones((1, num_rows)))[0]
    return values


def log_losses(truth: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row's -ln of the probability given to its true class."""
    if scores.ndim == 1:
        right = np.where(truth == 1, scores, 1.0 - scores)
    else:
        right = np.take_along_axis(scores, truth.astype(np.int64)[:, None], axis=1)[:, 0]
    losses: NDArray[np.float64] = -np.log(np.clip(right, _EPSILON, 1.0))
    return losses


def _binary(
    truth: NDArray[np.bool_], labels: NDArray[np.bool_], scores: NDArray[np.float64] | None, *, has_probabilities: bool
) -> Evaluate:
    sums = [truth == labels, truth & labels, truth, labels]
    losses: list[NDArray[np.float64]] = []
    if scores is not None and has_probabilities:
        losses = [log_losses(truth.astype(np.float64), scores), (scores - truth) ** 2]
    per_row = np.stack([*losses, *(part.astype(np.float64) for part in sums)], axis=1)
    ranked = None if scores is None else _ranked(truth, scores)

    def evaluate(weights: Weights) -> NDArray[np.float64]:
        totals = weights @ per_row
        num_losses = len(losses)
        means = totals[:, : num_losses + 1] / weights.sum(axis=1, keepdims=True)
        both, true, labelled = totals[:, num_losses + 1 :].T
        f1 = np.divide(2 * both, true + labelled, out=np.zeros_like(both), where=true + labelled > 0)
        parts = [means, f1[:, None]]
        if ranked is not None:
            parts.insert(0, ranked(weights))
        return np.concatenate(parts, axis=1)

    return evaluate


def _ranked(truth: NDArray[np.bool_], scores: NDArray[np.float64]) -> Evaluate:
    """ROC AUC (ties count half) and average precision (as scikit-learn: a step per distinct score)."""
    order = np.argsort(scores)
    positive = truth[order].astype(np.float64)
    # Where each run of equal scores begins.
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) != 0) if len(order) else np.array([0])
    has_ties = len(starts) < len(order)

    def evaluate(weights: Weights) -> NDArray[np.float64]:
        total = weights[:, order]
        hits = total * positive
        if has_ties:
            total, hits = np.add.reduceat(total, starts, axis=1), np.add.reduceat(hits, starts, axis=1)
        total_below, hits_below = np.cumsum(total, axis=1), np.cumsum(hits, axis=1)
        num_all, num_hits = total_below[:, -1:], hits_below[:, -1:]
        misses = total - hits
        misses_below = total_below - hits_below - 0.5 * misses
        with np.errstate(invalid="ignore", divide="ignore"):
            roc = (hits * misses_below).sum(axis=1) / (num_hits * (num_all - num_hits))[:, 0]
            # Those at or above each score: all, less those below.
            above, hits_above = num_all - total_below + total, num_hits - hits_below + hits
            precision = np.divide(hits_above, above, out=np.zeros_like(above), where=above > 0)
            average = (hits * precision).sum(axis=1) / num_hits[:, 0]
        return np.stack([roc, average], axis=1)

    return evaluate


def _multiclass(
    truth: NDArray[np.int64], labels: NDArray[np.int64], scores: NDArray[np.float64] | None, shape: Shape
) -> Evaluate:
    classes = np.arange(shape.num_outputs)
    is_true = (truth[:, None] == classes).astype(np.float64)
    is_labelled = (labels[:, None] == classes).astype(np.float64)
    right = truth == labels
    losses = None if scores is None else log_losses(truth.astype(np.float64), scores)
    ranked: list[Evaluate] = []
    if scores is not None and shape.num_outputs <= _MAX_OVR_CLASSES:
        ranked = [_ranked(truth == i, np.ascontiguousarray(scores[:, i])) for i in classes]

    def evaluate(weights: Weights) -> NDArray[np.float64]:
        num_rows = weights.sum(axis=1)
        parts = [] if losses is None else [weights @ losses / num_rows]
        if ranked:
            parts.append(_mean_of_known(np.stack([one(weights)[:, 0] for one in ranked], axis=1)))
        parts.append(weights @ right / num_rows)
        true, labelled, both = weights @ is_true, weights @ is_labelled, weights @ (is_true * is_labelled)
        with np.errstate(invalid="ignore"):
            # A class that is neither true nor predicted anywhere has no F1 and is left out of the mean.
            parts.append(_mean_of_known(2 * both / (true + labelled)))
        return np.stack(parts, axis=1)

    return evaluate


def _several(truth: NDArray[np.float64], answers: Answers, shape: Shape) -> Evaluate:
    shapes, by_target = shape.by_target(), answers.by_target(shape)
    parts = [
        evaluator(one, truth[:, i : i + 1], given) for i, (one, given) in enumerate(zip(shapes, by_target, strict=True))
    ]
    # Where each mean's metric stands among those of each target.
    places = [[metrics_of(one).index(metric) for one in shapes] for metric in _means_of(shape)]
    exact = right_rows(truth, answers).astype(np.float64)

    def evaluate(weights: Weights) -> NDArray[np.float64]:
        each = [part(weights) for part in parts]
        means = [np.mean([values[:, i] for values, i in zip(each, columns, strict=True)], axis=0) for columns in places]
        return np.concatenate([np.stack([*means, weights @ exact / weights.sum(axis=1)], axis=1), *each], axis=1)

    return evaluate


def _clusters(labels: NDArray[np.float64], silhouettes: NDArray[np.float64] | None) -> Evaluate:
    assert silhouettes is not None
    is_in = (labels[:, None] == np.unique(labels)).astype(np.float64)

    def evaluate(weights: Weights) -> NDArray[np.float64]:
        num_rows = weights.sum(axis=1)
        return np.stack([weights @ silhouettes / num_rows, (weights @ is_in).max(axis=1) / num_rows], axis=1)

    return evaluate


def right_rows(truth: NDArray[np.float64], answers: Answers) -> NDArray[np.bool_]:
    """Where every label is right, shape (n_rows,)."""
    assert answers.labels is not None
    right: NDArray[np.bool_] = (answers.labels.reshape(truth.shape) == truth).all(axis=1)
    return right


def _mean_of_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    known = ~np.isnan(values)
    counts = known.sum(axis=1)
    sums = np.where(known, values, 0.0).sum(axis=1)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return means


def _regression(truth: NDArray[np.float64], values: NDArray[np.float64]) -> Evaluate:
    """Each metric is the mean over the targets."""
    errors = np.abs(truth - values)
    squared = errors**2
    # Sums of squares about a fixed centre: the raw ones would cancel where the mean is far from 0.
    centred = truth - truth.mean(axis=0)
    orders = np.argsort(errors, axis=0)
    ordered = np.take_along_axis(errors, orders, axis=0)

    def evaluate(weights: Weights) -> NDArray[np.float64]:
        num_rows = weights.sum(axis=1, keepdims=True)
        mse = weights @ squared / num_rows
        spread = weights @ centred**2 / num_rows - (weights @ centred / num_rows) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            r2 = np.where(spread > 0, 1.0 - mse / spread, np.nan)
        medians = [_weighted_median(ordered[:, i], weights[:, orders[:, i]]) for i in range(errors.shape[1])]
        columns = [np.sqrt(mse).mean(axis=1), (weights @ errors / num_rows).mean(axis=1), r2.mean(axis=1)]
        return np.stack([*columns, np.mean(medians, axis=0)], axis=1)

    return evaluate


def _weighted_median(ordered: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    below = np.cumsum(weights, axis=1)
    half = below[:, -1:] / 2
    low, high = (below < half).sum(axis=1), (below <= half).sum(axis=1)
    last = len(ordered) - 1
    medians: NDArray[np.float64] = (ordered[np.minimum(low, last)] + ordered[np.minimum(high, last)]) / 2
    return medians
