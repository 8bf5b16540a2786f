"""`zaphod validate` from a holdout to a verdict, and `promote`, which acts on it."""

from __future__ import annotations

import gc
import shutil
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import (
    accuracy_score,
    euclidean_distances,
    f1_score,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from tests.cli import Zaphod
from tests.models import load_estimator
from tests.unit.validation.conftest import labelled
from zaphod.errors import ConfigError, InvalidInputError, SchemaMismatchError
from zaphod.registry import Registry
from zaphod.validation.measured import Role
from zaphod.validation.results import Validation
from zaphod.validation.run import Request, validate_model
from zaphod.validation.settings import ValidationSettings
from zaphod.validation.verdict import Status

QUICK = ValidationSettings(replicates=100, latency_calls=20)


@pytest.fixture
def data(tmp_path: Path, holdout: pd.DataFrame) -> Path:
    """The holdout as Parquet, in the folder the command runs in."""
    holdout.to_parquet(tmp_path / "holdout.parquet")
    (tmp_path / "quick.yaml").write_text("replicates: 100\nlatency_calls: 20\n")
    return tmp_path / "holdout.parquet"


@pytest.fixture
def registry(tmp_path: Path, validated_registry: Registry) -> Registry:
    """A copy that a test may promote in."""
    shutil.copytree(validated_registry.uri, tmp_path / "registry")
    return Registry.open(str(tmp_path / "registry"))


def validate(registry: Registry, reference: str, data: Path, target: str, **changes: object) -> Validation:
    """One validation with little resampling."""
    request = Request(reference=reference, data=data, targets=(target,))
    return validate_model(registry, request, settings=QUICK.model_copy(update=changes)).validation


def value(validation: Validation, name: str, *, role: Role = Role.CANDIDATE) -> float | None:
    """One metric's estimate."""
    model = validation.model(role)
    assert model is not None
    return next(one.interval.value for one in model.metrics if one.metric.name == name)


def test_several_targets_are_measured_each_and_together(data: Path, registry: Registry) -> None:
    """Means over the targets, rows with every label right, each target by name; against baselines and a champion."""
    registry.publish("several", {**registry.load("several", 1).files})
    registry.set_alias("several", alias="champion", version=1, action="promote", why="test")
    request = Request(reference="several@2", data=data, targets=("multiclass", "answer"))

    validation = validate_model(registry, request, settings=QUICK).validation

    rows = labelled(2_000, seed=2)
    model, X = load_estimator(registry, "several"), rows[["amount", "balance", "count", "kind"]]
    labels, shares = model.predict(X), model.predict_proba(X)
    truths = [rows["multiclass"].to_numpy(dtype=object), rows["answer"].to_numpy(dtype=object)]
    accuracies = [float((labels[:, i] == truth).mean()) for i, truth in enumerate(truths)]
    losses = [log_loss(truth, part) for truth, part in zip(truths, shares, strict=True)]
    right = (labels[:, 0] == truths[0]) & (labels[:, 1] == truths[1])
    for name, expected in {
        "accuracy": np.mean(accuracies), "log_loss": np.mean(losses), "exact_match": right.mean(),
        "accuracy_target_0": accuracies[0], "log_loss_target_1": losses[1],
        "ovr_auc_target_1": roc_auc_score(truths[1] == "yes", shares[1][:, 1]),
        "macro_f1_target_0": f1_score(truths[0], labels[:, 0], average="macro"),
    }.items():  # fmt: skip
        assert value(validation, name) == pytest.approx(expected, rel=1e-9), name
    assert value(validation, "accuracy", role=Role.LINEAR) > value(validation, "accuracy", role=Role.DUMMY)
    against = next(one for one in validation.comparisons if one.role is Role.CHAMPION)
    assert (against.gain("log_loss").interval.value, against.tests[0].p_value) == (0.0, 1.0)
    assert (validation.slices.metric.name, validation.slices.overall) == ("accuracy", value(validation, "accuracy"))
    assert len(validation.slices.slices) > 5
    # It was fitted on fewer rows than the baselines.
    assert [check.name for check in validation.verdict.checks if check.status is Status.FAILED] == [
        "worth its complexity"
    ]


def test_several_targets_have_a_report(tmp_path: Path, data: Path, registry: Registry, zaphod: Zaphod) -> None:
    """By the command, with a null in one of the truths: such a row is left out."""
    rows = labelled(2_000, seed=2)
    rows.loc[:9, "answer"] = None
    rows.to_parquet(data)
    with (tmp_path / "quick.yaml").open("a") as settings:
        settings.write("better_than_baseline: false\n")

    done = zaphod(
        "validate", "several@1", "--data", "holdout.parquet", "--target", "multiclass", "--target", "answer",
        "--report", "r.html", "--config", "quick.yaml", "--registry", "registry", cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed on 1,990 rows" in done.stdout
    page = (tmp_path / "r.html").read_text()
    assert "all labels right" in page
    assert "accuracy of target_0" in page


def test_clusters_are_validated_without_a_truth(tmp_path: Path, data: Path, registry: Registry, zaphod: Zaphod) -> None:
    """By the command: silhouettes as scikit-learn's distances give them, slices, drift, a champion; and promoted."""
    options = ("--data", "holdout.parquet", "--config", "quick.yaml", "--registry", "registry")
    first = zaphod("validate", "clusters@1", *options, cwd=tmp_path)
    promoted = zaphod("promote", "clusters@1", "--why", "first", "--registry", "registry")
    second = zaphod("validate", "clusters@2", *options, "--report", "r.html")
    refused = zaphod("validate", "clusters@1", *options, "--target", "binary")

    assert first.returncode == 0, first.stdout + first.stderr
    assert promoted.returncode == 0, promoted.stderr
    assert (second.returncode, second.stderr) == (2, "")
    assert "silhouette against the champion" in second.stdout
    assert "Expected 0 target columns" in refused.stderr
    found = msgspec.json.decode((tmp_path / "registry/clusters/validations/2/0001.json").read_bytes(), type=Validation)
    model = load_estimator(registry, "clusters")
    rows = labelled(2_000, seed=2)[["amount", "balance", "count", "kind"]]
    labels, features = model.predict(rows), model[:-1].transform(rows)
    centroids = np.stack([features[labels == number].mean(axis=0) for number in range(3)])
    distances, is_own = euclidean_distances(features, centroids), np.arange(3) == labels[:, None]
    own, other = distances[is_own], np.where(is_own, np.inf, distances).min(axis=1)
    champion = value(found, "silhouette", role=Role.CHAMPION)
    assert champion == pytest.approx(((other - own) / np.maximum(other, own)).mean(), rel=1e-9)
    assert value(found, "largest_cluster", role=Role.CHAMPION) == pytest.approx(np.bincount(labels).max() / 2_000)
    assert value(found, "silhouette") < champion
    assert found.slices.metric.name == "silhouette"
    assert sum(size for _, size in found.pictures.clusters) == 2_000
    page = (tmp_path / "r.html").read_text()
    assert all(heading in page for heading in ("Silhouettes", "Clusters", "Slices", "Drift from training"))


def test_from_a_holdout_to_a_champion(tmp_path: Path, data: Path, registry: Registry, zaphod: Zaphod) -> None:
    """A better version passes, its report and card are stored beside it, and only then it may become champion."""
    options = ("--registry", "registry", "--config", "quick.yaml")
    refused = zaphod("promote", "binary@2", "--why", "better", "--registry", "registry", cwd=tmp_path)

    done = zaphod(
        "validate", "binary@2", "--data", "holdout.parquet", "--target", "binary", "--report", "r.html", *options
    )
    promoted = zaphod("promote", "binary@2", "--why", "better", "--registry", "registry")

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "it was never validated" in refused.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    assert "binary@2 passed on 2,000 rows" in done.stdout
    folder = tmp_path / "registry/binary/validations/2"
    assert sorted(path.name for path in folder.iterdir()) == ["0001.html", "0001.json", "0001.md"]
    assert (tmp_path / "r.html").read_bytes() == (folder / "0001.html").read_bytes()
    stored = msgspec.json.decode((folder / "0001.json").read_bytes(), type=Validation)
    assert (stored.champion.version, stored.holdout.num_rows, stored.verdict.passed) == (1, 2000, True)
    assert promoted.returncode == 0, promoted.stderr
    assert registry.state("binary").aliases == {"champion": 2}


def test_a_version_that_does_not_pass_is_not_promoted(
    tmp_path: Path, data: Path, registry: Registry, zaphod: Zaphod
) -> None:
    """Exit code 2 and the reason; `promote` repeats it; an override promotes it and stands in the journal."""
    (tmp_path / "strict.yaml").write_text(
        "metrics: [{metric: roc_auc, at_least: 0.99}]\nreplicates: 100\nlatency_calls: 20\n"
    )
    where = ("--registry", "registry")

    done = zaphod(
        "validate", "binary@2", "--data", "holdout.parquet", "--target", "binary", "--config", "strict.yaml", *where,
        cwd=tmp_path,
    )  # fmt: skip
    refused = zaphod("promote", "binary@2", "--why", "better", *where)
    challenger = zaphod("promote", "binary@2", "--why", "try", "--alias", "challenger", *where)
    forced = zaphod("promote", "binary@2", "--why", "better", "--override", "the old one is worse", *where)

    assert done.returncode == 2
    assert "did not pass" in done.stdout
    assert refused.returncode == 1
    assert "its lower bound must reach 0.99" in refused.stderr
    assert challenger.returncode == 0  # only a champion answers
    assert forced.returncode == 0, forced.stderr
    assert [(change.action, change.why) for change in registry.journal("binary")[1:]] == [
        ("promote", "try"),
        ("promote", "better (gate overridden: the old one is worse)"),
    ]


def test_a_pass_against_another_champion_is_none(
    tmp_path: Path, data: Path, registry: Registry, zaphod: Zaphod
) -> None:
    """Once another version serves, the comparison has to be made again."""
    zaphod(
        "validate", "binary@2", "--data", "holdout.parquet", "--target", "binary", "--config", "quick.yaml",
        "--registry", "registry", cwd=tmp_path,
    )  # fmt: skip
    third = registry.publish("binary", {**registry.load("binary", 2).files})
    registry.set_alias("binary", alias="champion", version=third, action="promote", why="test")

    refused = zaphod("promote", "binary@2", "--why", "better", "--registry", "registry")

    assert refused.returncode == 1
    assert "the champion is version 3 now; this version was compared with version 1" in refused.stderr


def test_metrics_are_scikit_learns(validated_registry: Registry, holdout: pd.DataFrame, tmp_path: Path) -> None:
    """Of the packaged model itself, on the rows of the holdout."""
    holdout.to_parquet(tmp_path / "h.parquet")
    X = holdout[["amount", "balance", "count", "kind"]]
    binary = validated_registry.load("binary", 2).load_reference()
    multiclass, regressor = (load_estimator(validated_registry, name) for name in ("multiclass", "regressor"))

    of_binary = validate(validated_registry, "binary@2", tmp_path / "h.parquet", "binary")
    of_multiclass = validate(validated_registry, "multiclass@1", tmp_path / "h.parquet", "multiclass")
    of_regressor = validate(validated_registry, "regressor@1", tmp_path / "h.parquet", "value")

    scores = binary._estimator.predict_proba(X)[:, 1]
    assert value(of_binary, "roc_auc") == pytest.approx(roc_auc_score(holdout["binary"], scores), rel=1e-9)
    assert value(of_binary, "log_loss") == pytest.approx(log_loss(holdout["binary"], scores), rel=1e-9)
    assert value(of_multiclass, "accuracy") == pytest.approx(
        accuracy_score(holdout["multiclass"], multiclass.predict(X)), rel=1e-9
    )
    predicted = regressor.predict(X)
    assert value(of_regressor, "mae") == pytest.approx(mean_absolute_error(holdout["value"], predicted), rel=1e-9)
    assert value(of_regressor, "r2") == pytest.approx(r2_score(holdout["value"], predicted), rel=1e-9)


def test_the_champion_meets_the_same_rows(validated_registry: Registry, holdout: pd.DataFrame, tmp_path: Path) -> None:
    """The gain is the difference of the two estimates, and its paired interval is narrower than theirs together."""
    holdout.to_parquet(tmp_path / "h.parquet")

    validation = validate(validated_registry, "binary@2", tmp_path / "h.parquet", "binary")

    comparison = validation.comparison(Role.CHAMPION)
    gain = comparison.gain("roc_auc").interval
    mine, theirs = (validation.model(role).metrics[0].interval for role in (Role.CANDIDATE, Role.CHAMPION))
    assert gain.value == pytest.approx(mine.value - theirs.value, abs=1e-9)
    assert gain.high - gain.low < (mine.high - mine.low) + (theirs.high - theirs.low)
    assert {test.name for test in comparison.tests} == {"DeLong", "McNemar"}


def test_the_same_request_gives_the_same_numbers(
    validated_registry: Registry, holdout: pd.DataFrame, tmp_path: Path
) -> None:
    """From Parquet, from a folder of parts, and from CSV, whatever the size of the batches."""
    holdout.to_parquet(tmp_path / "one.parquet")
    (tmp_path / "parts").mkdir()
    for i, part in enumerate(np.array_split(np.arange(len(holdout)), 3)):
        holdout.iloc[part].to_parquet(tmp_path / f"parts/{i}.parquet")
    holdout.to_csv(tmp_path / "one.csv", index=False)

    found = [
        validate(validated_registry, "binary@2", tmp_path / path, "binary", batch_rows=rows)
        for path, rows in (("one.parquet", 32_768), ("parts", 300), ("one.csv", 2_000))
    ]

    assert found[0].models == found[1].models == found[2].models
    assert found[0].comparisons == found[1].comparisons


def test_a_table_larger_than_one_shard_is_measured_in_bounded_memory(
    validated_registry: Registry, tmp_path: Path
) -> None:
    """Four times the rows take no more memory, and the metrics are those of all rows."""
    settings = {"shard_rows": 1000, "batch_rows": 1000, "baseline_rows": 1000}
    for num_rows in (2_000, 8_000):
        labelled(num_rows, seed=7).to_parquet(tmp_path / f"{num_rows}.parquet", row_group_size=1000)

    def measure(num_rows: int) -> tuple[Validation, float]:
        gc.collect()
        tracemalloc.start()
        arrow = pa.total_allocated_bytes()
        found = validate(validated_registry, "binary@2", tmp_path / f"{num_rows}.parquet", "binary", **settings)
        peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - arrow
        tracemalloc.stop()
        return found, peak

    _, small = measure(2_000)
    # What other threads of this process take meanwhile is counted too, and only ever adds.
    found, large = min((measure(8_000) for _ in range(3)), key=lambda measured: measured[1])

    rows = labelled(8_000, seed=7)
    estimator = validated_registry.load("binary", 2).load_reference()._estimator
    scores = estimator.predict_proba(rows[["amount", "balance", "count", "kind"]])[:, 1]
    assert found.num_shards == 8
    assert value(found, "roc_auc") == pytest.approx(roc_auc_score(rows["binary"], scores), abs=2e-3)
    assert value(found, "log_loss") == pytest.approx(log_loss(rows["binary"], scores), rel=1e-9)
    assert large < 1.5 * small


def test_rows_that_cannot_be_used_are_counted(
    validated_registry: Registry, holdout: pd.DataFrame, tmp_path: Path
) -> None:
    """Rows that break the schema and rows without a label are left out, and the first kind is held against it."""
    holdout = holdout.head(1000).astype({"binary": "Int64", "count": "Int64"})
    holdout.loc[:39, "count"] = None  # not nullable
    holdout.loc[40:49, "binary"] = None
    holdout.to_parquet(tmp_path / "h.parquet")

    validation = validate(validated_registry, "binary@2", tmp_path / "h.parquet", "binary")

    counted = validation.holdout
    assert (counted.num_rows, counted.num_rejected, counted.num_unlabelled) == (950, 40, 10)
    assert [(one.field, one.num_rows) for one in counted.rejects] == [("count", 40)]
    assert [check.name for check in validation.verdict.checks if check.status is Status.FAILED] == [
        "rows fit the schema"
    ]


def test_an_outlier_detector_is_validated_without_baselines(
    validated_registry: Registry, holdout: pd.DataFrame, tmp_path: Path
) -> None:
    """Its truth is -1 for an outlier, as scikit-learn writes it."""
    far = (holdout["amount"] - 100).abs() > 60
    holdout.assign(odd=np.where(far, -1, 1)).to_parquet(tmp_path / "h.parquet")

    validation = validate(validated_registry, "outlier@1", tmp_path / "h.parquet", "odd")

    assert value(validation, "roc_auc") > 0.7
    assert validation.model(Role.DUMMY) is None


@pytest.mark.parametrize(
    ("reference", "target", "frame", "error", "says"),
    [
        ("binary@2", "missing", {}, SchemaMismatchError, "missing"),
        ("binary@2", "binary", {"amount": "drop"}, SchemaMismatchError, "amount"),
        ("binary@2", "binary", {"binary": 7}, InvalidInputError, "2 classes"),
        ("regressor@1", "value", {"value": "high"}, SchemaMismatchError, "Expected numbers"),
        ("binary@2", "binary", {"binary": None}, SchemaMismatchError, "got null"),
    ],
)
def test_a_holdout_that_does_not_fit_is_one_clear_error(
    validated_registry: Registry,
    holdout: pd.DataFrame,
    tmp_path: Path,
    reference: str,
    target: str,
    frame: dict[str, object],
    error: type[Exception],
    says: str,
) -> None:
    """It names the column and never a value."""
    for column, what in frame.items():
        holdout = holdout.drop(columns=column) if what == "drop" else holdout.assign(**{column: what})
    holdout.to_parquet(tmp_path / "h.parquet")

    with pytest.raises(error, match=says):
        validate(validated_registry, reference, tmp_path / "h.parquet", target)


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 100])
def test_a_holdout_that_cannot_be_read_is_one_clear_error(
    validated_registry: Registry, tmp_path: Path, content: bytes | None
) -> None:
    """A file that is missing, empty or no Parquet is named."""
    if content is not None:
        (tmp_path / "h.parquet").write_bytes(content)

    with pytest.raises((ConfigError, InvalidInputError), match=r"h\.parquet"):
        validate(validated_registry, "binary@2", tmp_path / "h.parquet", "binary")
