"""The report of a run says what the manifest says, and the offline validation says how good the models were."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from tests import models
from tests.batch import tables
from zaphod.registry import Registry

_VALIDATION = "report.validation.html"


@pytest.fixture(scope="module")
def two_versions(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Two versions of each model."""
    made = models.copy(registry, tmp_path_factory.mktemp("two"))
    models.publish_again(made)
    return made


def labelled(home: Path, *, unknown: int = 0) -> pd.DataFrame:
    """Input whose truth is known but for the first rows."""
    rows = pd.concat([tables.frame(300, seed=seed) for seed in range(3)], ignore_index=True)
    signal = rows["amount"] / 30 + rows["count"] / 5 + (rows["kind"] == "a") * 2.0
    noise = np.random.default_rng(0).normal(0, 1, len(rows))
    rows["truth"] = pd.array((signal + noise > 6).astype(int), dtype="Int64")
    rows.loc[: unknown - 1, "truth"] = pd.NA
    (home / "input").mkdir()
    for i in range(3):
        tables.write_file(home / "input" / f"x{i}.parquet", rows[i * 300 : (i + 1) * 300])
    return rows


def text_of(path: Path) -> str:
    """What a person reads, in one line; fails on tags that do not fit together."""

    class Reader(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.words: list[str] = []
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "br", "line", "rect", "circle", "path", "polyline", "polygon"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag in self.open:
                assert self.open.pop() == tag

        def handle_data(self, data: str) -> None:
            self.words.append(data)

    reader = Reader()
    reader.feed(path.read_text())
    return re.sub(r"\s+", " ", " ".join(reader.words))


def test_a_run_is_described(tmp_path: Path, registry: Registry) -> None:
    """Rows, rejects with their reasons, fields, files and where the time went; no value of a row that was refused."""
    rows = tables.frame(200, seed=0)
    rows.loc[[5, 6], "amount"] = np.nan
    tables.write_input(tmp_path / "input", num_files=2)
    tables.write_file(tmp_path / "input" / "<x>.parquet", rows.assign(id="<b>"))

    outcome = tables.run(
        tables.make_settings(tmp_path, registry, report=str(tmp_path / "deep/report.html"), max_rejected=2)
    )

    shown = text_of(tmp_path / "deep/report.html")
    assert outcome.reports == (tmp_path / "deep/report.html",)
    assert re.search(r"rows in 600 .* predictions 598 .* rejected 2 ", shown)
    assert "amount Expected a value, got null 2" in shown
    for words in (outcome.manifest.run_id, "<x>.parquet", "balance", "seconds of all tasks", "score"):
        assert words in shown
    assert "How good" not in shown


def test_a_finished_run_is_described_without_scoring(tmp_path: Path, registry: Registry) -> None:
    """Asking for the report afterwards needs no task."""
    tables.write_input(tmp_path / "input")
    tables.run(tables.make_settings(tmp_path, registry))

    outcome = tables.run(
        tables.make_settings(tmp_path, registry, report=str(tmp_path / "report.html")),
        open_executor=lambda: pytest.fail("nothing is left to score"),
    )

    assert outcome.unchanged
    assert outcome.manifest.run_id in text_of(tmp_path / "report.html")


@pytest.mark.parametrize("partition_by", [[], ["kind"]])
def test_challenger_against_champion(tmp_path: Path, two_versions: Registry, partition_by: list[str]) -> None:
    """The offline validation's report is about the challenger, on rows of known truth; figures are scikit-learn's."""
    rows = labelled(tmp_path, unknown=40)
    settings = tables.make_settings(
        tmp_path, two_versions, model="binary@1", challenger="binary@2", truth="truth", keep=["id", "kind"],
        partition_by=partition_by, report=str(tmp_path / "report.html"),
    )  # fmt: skip
    outcome = tables.run(settings)

    shown, validated = text_of(tmp_path / "report.html"), text_of(tmp_path / _VALIDATION)
    files = sorted(Path(outcome.predictions).rglob("*.parquet"))
    got = pd.concat([pd.read_parquet(path, partitioning=None) for path in files]).set_index("id")
    known = rows[rows["truth"].notna()].set_index("id")
    truth = known["truth"].astype(int)
    accuracy = accuracy_score(truth, got.loc[known.index, "challenger_label"])
    auc = roc_auc_score(truth, got.loc[known.index, "challenger_probability_1"])
    assert "Version 2 beside version 1, on the 900 rows that both scored" in shown
    assert _VALIDATION in shown
    assert "860 rows" in validated
    assert "binary@2" in validated
    assert "compared with champion version 1" in validated
    assert f"ROC AUC ↑ {auc:.3f}" in validated
    assert re.search(rf"accuracy ↑ {accuracy:.3f}", validated)
    assert "McNemar test against the champion" in validated
    assert "40 have no label" in validated


def test_without_a_challenger_the_model_is_measured(tmp_path: Path, registry: Registry) -> None:
    """Of a regressor too; nothing is said to be compared."""
    rows = pd.concat([tables.frame(300, seed=seed) for seed in range(2)], ignore_index=True)
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows.assign(truth=rows["amount"] / 30))

    tables.run(
        tables.make_settings(tmp_path, registry, model="regressor", truth="truth", report=str(tmp_path / "report.html"))
    )

    validated = text_of(tmp_path / _VALIDATION)
    assert "regressor@1" in validated
    assert "not compared with a champion" in validated
    assert "MAE" in validated or "mean absolute error" in validated


def test_a_truth_that_cannot_be_measured_is_said(tmp_path: Path, registry: Registry) -> None:
    """The run is published, the report says why there is no validation."""
    labelled(tmp_path)
    outcome = tables.run(
        tables.make_settings(
            tmp_path,
            registry,
            model="binary",
            truth="truth",
            columns=["probability_1"],
            report=str(tmp_path / "report.html"),
        )
    )

    assert outcome.reports == (tmp_path / "report.html",)
    assert "No offline validation: Cannot measure without the output `label`" in text_of(tmp_path / "report.html")
    assert json.loads((tmp_path / "output/current.json").read_bytes())["run_id"] == outcome.manifest.run_id
