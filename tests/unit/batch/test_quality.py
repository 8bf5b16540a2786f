"""The manifest says what was in the rows, how far they are from the training data, and how good the models were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, r2_score, root_mean_squared_error

from batch.quality import Quality
from tests import models
from tests.batch import tables
from zaphod.bundle import seal
from zaphod.columns import from_table
from zaphod.errors import ConfigError
from zaphod.packaging import package
from zaphod.registry import Registry
from zaphod.validation.profile import make_profile


def run(home: Path, registry: Registry, **changes: object) -> tuple[Quality, pd.DataFrame]:
    """What the manifest says, and the predictions in the order of their identifiers."""
    outcome = tables.run(tables.make_settings(home, registry, **changes))
    assert outcome.manifest.quality is not None
    return outcome.manifest.quality, pd.read_parquet(outcome.predictions).sort_values("id", ignore_index=True)


def test_columns_are_described(tmp_path: Path, registry: Registry) -> None:
    """Nulls, mean, least and largest value of each field and output, as pandas counts them."""
    tables.write_input(tmp_path / "input")
    rows = pd.concat([tables.frame(200, seed=seed) for seed in range(3)])

    quality, predictions = run(tmp_path, registry)

    described = {column.name: column for column in quality.columns}
    for name in ("amount", "balance", "count"):
        assert described[name].null_share == pytest.approx(rows[name].isna().mean())
        assert described[name].mean == pytest.approx(rows[name].mean())
        assert (described[name].minimum, described[name].maximum) == (rows[name].min(), rows[name].max())
    assert described["kind"].null_share == pytest.approx(rows["kind"].isna().mean())
    assert described["probability_low"].mean == pytest.approx(predictions["probability_low"].mean())


def test_a_column_of_nulls_has_no_mean(tmp_path: Path, registry: Registry) -> None:
    """Nothing known is said to be nothing."""
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", tables.frame(50, seed=1).assign(balance=np.nan))

    quality, _ = run(tmp_path, registry)

    balance = next(column for column in quality.columns if column.name == "balance")
    assert (balance.null_share, balance.mean, balance.minimum) == (1.0, None, None)


def test_errors_of_a_classifier(tmp_path: Path, registry: Registry) -> None:
    """Accuracy and log loss are scikit-learn's, over the rows whose truth is known; the truth is carried along."""
    rng = np.random.default_rng(0)
    rows = tables.frame(300, seed=5)
    rows["truth"] = pd.Series(rng.choice(["low", "mid", "high"], 300), dtype="str")
    rows.loc[rng.random(300) < 0.3, "truth"] = None
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows)

    quality, predictions = run(tmp_path, registry, truth="truth")

    known = predictions[predictions["truth"].notna()]
    probabilities = known[["probability_high", "probability_low", "probability_mid"]]
    assert quality.metrics is not None
    assert quality.metrics.rows == len(known) < 300
    assert quality.metrics.accuracy == pytest.approx(accuracy_score(known["truth"], known["label"]))
    assert quality.metrics.log_loss == pytest.approx(log_loss(known["truth"], probabilities))


def test_errors_of_a_regressor(tmp_path: Path, registry: Registry) -> None:
    """Root mean square, mean absolute error and R2 are scikit-learn's."""
    rows = tables.frame(300, seed=5)
    rows["real"] = np.where(np.arange(300) % 4, rows["amount"] / 20, np.nan)
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows)

    quality, predictions = run(tmp_path, registry, model="regressor", truth="real")

    known = predictions[predictions["real"].notna()]
    assert quality.metrics is not None
    assert quality.metrics.rows == 225
    assert quality.metrics.rmse == pytest.approx(root_mean_squared_error(known["real"], known["value"]))
    assert quality.metrics.mae == pytest.approx(mean_absolute_error(known["real"], known["value"]))
    assert quality.metrics.r2 == pytest.approx(r2_score(known["real"], known["value"]))


def test_a_truth_that_is_not_there_is_refused(tmp_path: Path, registry: Registry) -> None:
    """As a kept column would be."""
    tables.write_input(tmp_path / "input")

    with pytest.raises(Exception, match="`truth` to keep, got none"):
        run(tmp_path, registry, truth="truth")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Four versions of one question: 1, 2 fitted otherwise, 3 with a stricter schema, 4 with another answer."""
    registry = Registry.open(str(tmp_path_factory.mktemp("two")))
    X = models.table(300, seed=1)
    y = np.where(X["amount"] > 100, "yes", "no")
    for C in (1.0, 0.001):
        fitted = models.pipeline(LogisticRegression(C=C, max_iter=500)).fit(X, y)
        package(fitted, name="m", sample=X, registry=registry, nullable=models.NULLABLE)
    complete = X.dropna()
    fitted = models.pipeline(LogisticRegression(max_iter=500)).fit(complete, y[complete.index])
    package(fitted, name="m", sample=complete, registry=registry)
    fitted = models.pipeline(LogisticRegression(max_iter=500)).fit(X, np.where(y == "yes", "yes", "perhaps"))
    package(fitted, name="m", sample=X, registry=registry, nullable=models.NULLABLE)
    return registry


def test_challenger_beside_champion(tmp_path: Path, two: Registry) -> None:
    """Both score each row in one pass; the comparison is that of the two columns, errors of both among it."""
    rows = tables.frame(300, seed=5)
    rows["truth"] = np.where(rows["amount"] > 100, "yes", "no")
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows)
    alone, _ = run(tmp_path, two, model="m@1", truth="truth", output=str(tmp_path / "alone"))

    quality, got = run(tmp_path, two, model="m@1", challenger="m@2", truth="truth")

    distance = (got["probability_yes"] - got["challenger_probability_yes"]).abs()
    compared = quality.comparison
    assert compared is not None
    assert (set(got["model_version"]), set(got["challenger_version"])) == ({1}, {2})
    assert compared.rows == 300
    assert 0 < compared.same_label_share == pytest.approx((got["label"] == got["challenger_label"]).mean())
    assert compared.mean_distance == pytest.approx(distance.mean())
    assert compared.largest_distance == pytest.approx(distance.max())
    assert compared.champion == alone.metrics
    assert compared.challenger is not None
    assert compared.challenger.accuracy == pytest.approx((got["challenger_label"] == got["truth"]).mean())


def test_the_challenger_alone_gives_the_same(tmp_path: Path, two: Registry) -> None:
    """Its columns are what it would write as a champion."""
    tables.write_input(tmp_path / "input")
    _, beside = run(tmp_path, two, model="m@1", challenger="m@2")

    _, alone = run(tmp_path, two, model="m@2", output=str(tmp_path / "alone"))

    for name in ("label", "probability_yes", "probability_no"):
        pd.testing.assert_series_equal(beside[f"challenger_{name}"], alone[name], check_names=False)


def test_rows_that_only_the_challenger_refuses(tmp_path: Path, two: Registry) -> None:
    """They are scored by the champion, and the challenger's columns are null; they do not count in the comparison."""
    tables.write_input(tmp_path / "input")
    rows = pd.concat([tables.frame(200, seed=seed) for seed in range(3)]).sort_values("id", ignore_index=True)
    complete = rows[["balance", "kind"]].notna().all(axis=1)

    quality, got = run(tmp_path, two, model="m@1", challenger="m@3", batch_rows=3)

    assert len(got) == 600
    assert (got["challenger_label"].notna() == complete).all()
    assert quality.comparison is not None
    assert quality.comparison.rows == complete.sum() < 600


def test_a_challenger_to_another_question_is_refused(tmp_path: Path, two: Registry) -> None:
    """Other classes cannot be compared."""
    tables.write_input(tmp_path / "input")

    with pytest.raises(ConfigError, match=r"\['perhaps', 'yes'\]"):
        run(tmp_path, two, model="m@1", challenger="m@4")


def test_another_challenger_is_another_run(tmp_path: Path, two: Registry) -> None:
    """What was scored for one is not taken for the other."""
    tables.write_input(tmp_path / "input")
    ids = {
        tables.run(tables.make_settings(tmp_path, two, model="m@1", challenger=challenger)).manifest.run_id
        for challenger in (None, "m@2", "m@3")
    }

    assert len(ids) == 3


def test_drift_from_the_training_data(tmp_path: Path, registry: Registry) -> None:
    """Rows like those of the training are near 0; a column that moved is far, and the others stay."""
    bundle = registry.load("multiclass", 1)
    training = pa.Table.from_pandas(models.table(2_000, seed=1), preserve_index=False)
    columns = from_table(bundle.schema, training).columns
    profile = make_profile(bundle.schema, columns, bundle.load_predictor().predict(columns))
    profiled = Registry.open(str(tmp_path / "registry"))
    files = {name: data for name, data in bundle.files.items() if name != "bundle.json"}
    profiled.publish("multiclass", seal(bundle.manifest, {**files, "profile.json": profile}))
    (tmp_path / "input").mkdir()
    rows = tables.frame(2_000, seed=5)
    tables.write_file(tmp_path / "input" / "x.parquet", rows, row_group_rows=2_000)
    near, _ = run(tmp_path, profiled, model="multiclass@1")
    tables.write_file(tmp_path / "input" / "x.parquet", rows.assign(amount=rows["amount"] + 60), row_group_rows=2_000)

    far, _ = run(tmp_path, profiled, model="multiclass@1")

    assert {drift.name for drift in near.drift} == {"amount", "balance", "count", "kind", "label"}
    assert all(drift.psi < 0.05 for drift in near.drift)
    moved = {drift.name: drift.psi for drift in far.drift}
    assert moved["amount"] > 1
    assert moved["balance"] < 0.05
