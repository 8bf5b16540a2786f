"""A registry with small models whose quality is known by construction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier

from tests import models
from zaphod.packaging import package
from zaphod.registry import CHAMPION, Registry


def labelled(num_rows: int, *, seed: int) -> pd.DataFrame:
    """Rows with the truth of several tasks: `binary`, `multiclass`, `answer`, `value`."""
    X = models.table(num_rows, seed=seed)
    rng = np.random.default_rng([seed, 1])
    signal = (X["amount"] - 100) / 30 + (X["kind"] == "a") * 1.5 + rng.normal(0, 1, num_rows)
    return X.assign(
        binary=(signal > 0.5).astype("int64"),
        multiclass=np.select([signal < -0.5, signal < 1], ["low", "mid"], "high"),
        answer=np.where(signal > 0.5, "yes", "no"),
        value=signal,
    )


@pytest.fixture(scope="session")
def validated_registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """`binary`: version 1, the champion, was fitted on shuffled amounts; version 2 was not. Others have one version."""
    registry = Registry.open(str(tmp_path_factory.mktemp("registry")))
    rows = labelled(600, seed=1)
    X = rows[["amount", "balance", "count", "kind"]]
    worse = X.assign(amount=np.random.default_rng(0).permutation(X["amount"]))
    for name, model, sample, target in (
        ("binary", LogisticRegression(), worse, "binary"),
        ("binary", LogisticRegression(), X, "binary"),
        ("multiclass", LogisticRegression(max_iter=500), X, "multiclass"),
        ("regressor", Ridge(), X, "value"),
        ("several", MultiOutputClassifier(LogisticRegression(max_iter=500)), X, ["multiclass", "answer"]),
        ("clusters", KMeans(3, n_init=1, random_state=0), X, None),
        ("clusters", KMeans(3, n_init=1, max_iter=1, init="random", random_state=3), X, None),
        ("outlier", IsolationForest(n_estimators=5, random_state=0), X, None),
    ):
        fitted = models.pipeline(model).fit(sample, None if target is None else rows[target])
        package(fitted, name=name, sample=X, registry=registry, nullable=models.NULLABLE)
    registry.set_alias("binary", alias=CHAMPION, version=1, action="promote", why="test")
    return registry


@pytest.fixture(scope="session")
def holdout() -> pd.DataFrame:
    """2,000 rows that no model has seen."""
    return labelled(2_000, seed=2)
