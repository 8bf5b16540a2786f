"""Trains and packages the demo models that the registry does not have yet.

python -m examples.train --registry var/registry
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from examples import transactions
from zaphod.packaging import Packaged, package
from zaphod.promotion import promote
from zaphod.registry import CHAMPION, Registry


def fraud_pipeline() -> Pipeline:
    """Gradient boosting over 8 numbers and 4 categories, unfitted."""
    features = ColumnTransformer(
        [
            ("numbers", SimpleImputer(strategy="median"), list(transactions.NUMBERS)),
            (
                "categories",
                make_pipeline(
                    SimpleImputer(strategy="constant", fill_value="missing"),
                    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                ),
                list(transactions.CATEGORIES),
            ),
        ]
    )
    return Pipeline([("features", features), ("model", HistGradientBoostingClassifier(max_iter=100, random_state=0))])


def train_fraud(registry: Registry) -> Packaged:
    """Binary classifier on the first part of the generated transactions."""
    frame = transactions.generate(20_000, seed=1, end=0.5)
    X, y = frame[list(transactions.FEATURES)], frame[transactions.TARGET]
    model = fraud_pipeline().fit(X, y)
    return package(
        model,
        name="fraud",
        sample=X,
        registry=registry,
        description="Card fraud, generated demo data.",
        nullable=("distance_km", "balance", "seconds_since_last", "device"),
    )


def train_breast_cancer(registry: Registry) -> Packaged:
    """Binary classifier on scikit-learn's bundled table, 30 numbers."""
    data = load_breast_cancer(as_frame=True)
    X: pd.DataFrame = data.data.rename(columns=lambda name: name.replace(" ", "_"))
    labels = data.target.map({0: "malignant", 1: "benign"})
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, labels)
    return package(
        model, name="breast_cancer", sample=X, registry=registry, description="Wisconsin breast cancer, 569 rows."
    )


MODELS: dict[str, Callable[[Registry], Packaged]] = {"fraud": train_fraud, "breast_cancer": train_breast_cancer}


def main(registry: Annotated[Path, typer.Option(help="the registry's folder")] = Path("var/registry")) -> None:
    """Trains, packages and promotes each demo model that is missing."""
    console = Console()
    target = Registry.open(str(registry))
    for name, train in MODELS.items():
        if CHAMPION in target.state(name).aliases:
            continue
        with console.status(f"training and packaging {name}"):
            packaged = train(target)
            promote(target, name, version=packaged.version, why="demo model", override="it serves a demo")
        console.print(f"packaged {name}@{packaged.version}: engine {packaged.engine} ({packaged.reason})")


if __name__ == "__main__":
    typer.run(main)
