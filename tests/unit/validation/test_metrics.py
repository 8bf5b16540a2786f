"""Metrics are scikit-learn's, and a weight is a repetition."""

from __future__ import annotations

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from sklearn import metrics as reference

from zaphod.validation.metrics import evaluator, metrics_of, point
from zaphod.validation.rows import Answers, Kind, Shape

BINARY = Shape(kind=Kind.BINARY, has_scores=True, num_outputs=2)
MULTICLASS = Shape(kind=Kind.MULTICLASS, has_scores=True, num_outputs=4)
REGRESSION = Shape(kind=Kind.REGRESSION, has_scores=False, num_outputs=2)


def binary(num_rows: int, *, seed: int, digits: int = 12) -> tuple[np.ndarray, Answers]:
    """Truth and answers; few digits make ties."""
    rng = np.random.default_rng(seed)
    truth = (rng.random(num_rows) < 0.3).astype(float)
    scores = np.clip(0.3 + 0.3 * (truth - 0.3) + rng.normal(0, 0.2, num_rows), 0, 1).round(digits)
    return truth[:, None], Answers(labels=(scores > 0.5).astype(float), scores=scores)


def values(shape: Shape, truth: np.ndarray, answers: Answers) -> dict[str, float]:
    """Every metric by name."""
    names = [metric.name for metric in metrics_of(shape)]
    return dict(zip(names, point(evaluator(shape, truth, answers), len(truth)).tolist(), strict=True))


@pytest.mark.parametrize("digits", [12, 1], ids=["distinct", "tied"])
def test_binary_metrics_are_scikit_learns(digits: int) -> None:
    """With distinct scores and with ties."""
    truth, answers = binary(700, seed=0, digits=digits)
    y, p, label = truth[:, 0], answers.scores, answers.labels

    assert values(BINARY, truth, answers) == pytest.approx(
        {
            "roc_auc": reference.roc_auc_score(y, p),
            "pr_auc": reference.average_precision_score(y, p),
            "log_loss": reference.log_loss(y, p),
            "brier": reference.brier_score_loss(y, p),
            "accuracy": reference.accuracy_score(y, label),
            "f1": reference.f1_score(y, label),
        },
        rel=1e-12,
    )


def test_multiclass_metrics_are_scikit_learns() -> None:
    """Log loss, one-vs-rest AUC, accuracy and macro F1 of four classes."""
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 4, 500)
    logits = rng.normal(0, 1, (500, 4)) + 1.2 * (truth[:, None] == np.arange(4))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    label = scores.argmax(axis=1)

    found = values(MULTICLASS, truth[:, None].astype(float), Answers(labels=label.astype(float), scores=scores))

    assert found == pytest.approx(
        {
            "log_loss": reference.log_loss(truth, scores),
            "ovr_auc": reference.roc_auc_score(truth, scores, multi_class="ovr"),
            "accuracy": reference.accuracy_score(truth, label),
            "macro_f1": reference.f1_score(truth, label, average="macro"),
        },
        rel=1e-12,
    )


@pytest.mark.parametrize("num_rows", [400, 401], ids=["even", "odd"])
def test_regression_metrics_are_scikit_learns(num_rows: int) -> None:
    """Each is the mean over two targets; the median of an even number of errors is between two."""
    rng = np.random.default_rng(2)
    truth = rng.normal(1e6, 3, (num_rows, 2))
    predicted = truth + rng.normal(0, [1, 2], (num_rows, 2))

    assert values(REGRESSION, truth, Answers(values=predicted)) == pytest.approx(
        {
            "rmse": reference.root_mean_squared_error(truth, predicted),
            "mae": reference.mean_absolute_error(truth, predicted),
            "r2": reference.r2_score(truth, predicted),
            "median_ae": reference.median_absolute_error(truth, predicted),
        },
        rel=1e-9,
    )


@hypothesis.given(weights=st.lists(st.integers(0, 4), min_size=60, max_size=60), seed=st.integers(0, 50))
@hypothesis.settings(max_examples=30, deadline=None)
def test_a_weight_is_a_repetition(weights: list[int], seed: int) -> None:
    """Weighing rows gives what repeating them gives, NaN for a missing class included."""
    truth, answers = binary(60, seed=seed, digits=2)
    repeated = np.repeat(np.arange(60), weights)
    hypothesis.assume(len(repeated) > 0)
    again = Answers(labels=answers.labels[repeated], scores=answers.scores[repeated])

    weighed = evaluator(BINARY, truth, answers)(np.array([weights], dtype=float))[0]

    expected = point(evaluator(BINARY, truth[repeated], again), len(repeated))
    np.testing.assert_allclose(weighed, expected, rtol=1e-9, atol=1e-12)


def test_a_missing_class_is_unknown_not_zero() -> None:
    """Without a positive row there is no AUC; the means stay."""
    _, answers = binary(50, seed=3)
    found = values(BINARY, np.zeros((50, 1)), answers)

    assert np.isnan(found["roc_auc"])
    assert np.isnan(found["pr_auc"])
    assert found["accuracy"] == np.mean(answers.labels == 0)
