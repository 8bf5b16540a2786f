"""Models of other libraries, through their extras."""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tests import models
from zaphod.errors import ModelLoadError, PackagingError
from zaphod.packaging import package, sample_columns
from zaphod.registry import Registry
from zaphod.sources import load_source
from zaphod.trust import dump_estimator, load_estimator


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry.open(str(tmp_path / "registry"))


def boosters() -> dict[str, object]:
    """Small ones of both libraries; imported here, for it takes a second."""
    lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
    return {
        "XGBClassifier": xgboost.XGBClassifier(n_estimators=5, n_jobs=1),
        "XGBRegressor": xgboost.XGBRegressor(n_estimators=5, n_jobs=1),
        "LGBMClassifier": lightgbm.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1),
        "LGBMRegressor": lightgbm.LGBMRegressor(n_estimators=5, n_jobs=1, verbose=-1),
    }


def fitted(model: object) -> tuple[Pipeline, pd.DataFrame]:
    """Behind a one-hot encoder, with nulls that the booster sees itself."""
    X = models.table(500, seed=3)
    encode = ColumnTransformer(
        [
            ("n", SimpleImputer(strategy="median"), ["amount", "count", "balance"]),
            (
                "k",
                make_pipeline(
                    SimpleImputer(strategy="constant", fill_value="missing"),
                    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                ),
                ["kind"],
            ),
        ]
    )
    return make_pipeline(encode, model).fit(X, (X["amount"] > 100).astype(int)), X


@pytest.mark.parametrize("name", ["XGBClassifier", "XGBRegressor", "LGBMClassifier", "LGBMRegressor"])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_boosted_pipeline_is_packaged_and_gives_its_own_answers(registry: Registry, name: str) -> None:
    """Whichever engine serves it, and the bundle says why that one."""
    pipeline, X = fitted(boosters()[name])

    made = package(pipeline, name="m", sample=X, registry=registry, nullable=models.NULLABLE)

    bundle = registry.load("m", made.version)
    predictions = bundle.load_predictor().predict(sample_columns(bundle.schema, X))
    assert made.reason
    if predictions.probabilities is not None:
        assert predictions.labels is not None
        assert predictions.labels.tolist() == pipeline.predict(X).tolist()
        np.testing.assert_allclose(predictions.probabilities, pipeline.predict_proba(X), rtol=1e-6)
    else:
        assert predictions.values is not None
        np.testing.assert_allclose(predictions.values[:, 0], pipeline.predict(X), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    pipeline, _ = fitted(boosters()["XGBClassifier"])
    data = dump_estimator(pipeline)
    for module in [name for name in sys.modules if name.partition(".")[0] == "xgboost"]:
        monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ModelLoadError, match=r"xgboost"):
        load_estimator(data)


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_mlflow_by_run_and_by_alias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs:/…` and `models:/name@alias` give the estimator that was logged."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("mlflow.sklearn")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # MLflow leaves a copy of what it loads
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    X = models.table(100, seed=1)[["amount", "count"]]
    model = LogisticRegression().fit(X, X["amount"] > 100)
    with mlflow.start_run() as run:
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name="churn",
            serialization_format="pickle",
            pip_requirements=["scikit-learn"],  # else MLflow spends seconds finding out
        )
    mlflow.MlflowClient().set_registered_model_alias("churn", "champion", "1")

    by_run = load_source(f"runs:/{run.info.run_id}/model", trust_pickle=True)
    by_alias = load_source("models:/churn@champion", trust_pickle=True)

    assert info.model_uri
    for source in (by_run, by_alias):
        assert source.estimator.predict(X).tolist() == model.predict(X).tolist()
    assert by_alias.origin == "mlflow models:/churn@champion"


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_mlflow_by_another_scikit_learn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one from a file: its predictions may differ."""
    sklearn_flavour = pytest.importorskip("mlflow.sklearn")

    def load(uri: str) -> LogisticRegression:
        warnings.warn(
            InconsistentVersionWarning(
                estimator_name=uri, current_sklearn_version="1.9.0", original_sklearn_version="1.2.0"
            ),
            stacklevel=1,
        )
        return LogisticRegression()

    monkeypatch.setattr(sklearn_flavour, "load_model", load)

    with pytest.raises(PackagingError, match=r"fitted with scikit-learn 1\.2\.0"):
        load_source("models:/churn@champion", trust_pickle=True)
