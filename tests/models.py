"""Small real models that several test folders package and serve."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from zaphod import trust
from zaphod.bundle import SKOPS, seal
from zaphod.inference import infer_schema
from zaphod.packaging import package
from zaphod.registry import CHAMPION, Registry

NULLABLE = ("balance", "kind")


def table(num_rows: int, *, seed: int) -> pd.DataFrame:
    """Two numbers, one with nulls, one integer and one category with nulls."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "amount": rng.normal(100.0, 30.0, num_rows),
            "balance": np.where(rng.random(num_rows) < 0.1, np.nan, rng.normal(0.0, 1.0, num_rows)),
            "count": rng.integers(0, 20, num_rows),
            "kind": pd.Series(rng.choice(["a", "b", "c"], num_rows), dtype="str"),
        }
    )
    frame.loc[rng.random(num_rows) < 0.1, "kind"] = None
    return frame


def pipeline(model: object) -> Pipeline:
    """Impute, scale and encode, then the model."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    kinds = make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )
    columns = ColumnTransformer([("n", numbers, ["amount", "balance", "count"]), ("k", kinds, ["kind"])])
    return Pipeline([("columns", columns), ("model", model)])


def publish(registry: Registry) -> None:
    """Packages `binary`, `multiclass` and `regressor` and makes each a champion."""
    X = table(2_000, seed=1)
    signal = X["amount"] / 30 + X["count"] / 5 + (X["kind"] == "a") * 2.0
    targets = {
        "binary": (HistGradientBoostingClassifier(max_iter=20, random_state=0), (signal > signal.median()).astype(int)),
        "multiclass": (
            LogisticRegression(max_iter=500),
            pd.cut(signal, 3, labels=["low", "mid", "high"]).astype("str"),
        ),
        "regressor": (HistGradientBoostingRegressor(max_iter=20, random_state=0), signal),
    }
    for name, (model, y) in targets.items():
        packaged = package(pipeline(model).fit(X, y), name=name, sample=X, registry=registry, nullable=NULLABLE)
        registry.set_alias(name, alias=CHAMPION, version=packaged.version, action="promote", why="test model")


def publish_constants(registry: Registry) -> None:
    """Packages `constant` twice: version 1 says 1 and is champion, version 2 says 2."""
    X = table(50, seed=1)
    for constant in (1.0, 2.0):
        estimator = DummyRegressor(strategy="constant", constant=constant).fit(X, [0.0] * len(X))
        package(estimator, name="constant", sample=X, registry=registry, nullable=NULLABLE)
    registry.set_alias("constant", alias=CHAMPION, version=1, action="promote", why="test model")


def publish_several(registry: Registry) -> None:
    """Packages `several`, a classifier of the targets `risk` and `again`, and makes it a champion."""
    X = table(400, seed=1)
    signal = X["amount"] / 30 + X["count"] / 5
    risk = np.array(["low", "mid", "high"], dtype=object)[np.digitize(signal, np.quantile(signal, [0.3, 0.6]))]
    again = np.where(X["kind"].eq("a"), "yes", "no").astype(object)
    model = pipeline(RandomForestClassifier(5, max_depth=5, random_state=0)).fit(X, np.column_stack([risk, again]))
    inferred = infer_schema(model, X, nullable=NULLABLE)
    output = msgspec.structs.replace(inferred.output, targets=("risk", "again"))
    schema = msgspec.structs.replace(inferred, output=output)
    packaged = package(model, name="several", sample=X, registry=registry, schema=schema)
    registry.set_alias("several", alias=CHAMPION, version=packaged.version, action="promote", why="test model")


def publish_again(registry: Registry) -> None:
    """Every champion once more, as the next version and champion, in a bundle of another hash."""
    for name in registry.models():
        bundle = registry.load(name, registry.state(name).aliases[CHAMPION])
        files = {file: bundle.files[file] for file in bundle.manifest.files}
        version = registry.publish(name, seal(msgspec.structs.replace(bundle.manifest, description="again"), files))
        registry.set_alias(name, alias=CHAMPION, version=version, action="promote", why="test model")


def copy(registry: Registry, folder: Path) -> Registry:
    """A registry that a test may change, below a folder of its own."""
    shutil.copytree(registry.uri, folder / "registry")
    return Registry.open(str(folder / "registry"))


def load_estimator(registry: Registry, name: str) -> Pipeline:
    """The packaged estimator itself, as scikit-learn runs it."""
    return trust.load_estimator(registry.load(name, 1).files[SKOPS])
