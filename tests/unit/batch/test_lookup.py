"""The newest published prediction of an entity is found by its id, and only published ones are."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from batch.lookup import app
from tests.batch import tables
from zaphod import lookup
from zaphod.errors import ConfigError, InvalidInputError, PredictionNotFoundError, StorageUnavailableError
from zaphod.lookup import PublishedPredictions
from zaphod.registry import Registry


def opened(home: Path, **words: str) -> PublishedPredictions:
    """What `tables.make_settings` has published."""
    return PublishedPredictions.open(str(home / "output"), **words)


def test_every_entity_is_found(tmp_path: Path, registry: Registry) -> None:
    """With what the predictions' files hold of it."""
    tables.write_input(tmp_path / "input")
    outcome = tables.run(tables.make_settings(tmp_path, registry, model="binary"))
    published = opened(tmp_path)

    for row in pd.read_parquet(outcome.predictions).sample(25, random_state=0).to_dict("records"):
        found = published.newest(row["id"])
        assert found.row == row
        assert (found.run_id, found.model, found.version) == (outcome.manifest.run_id, "binary", 1)


def test_the_newest_run_answers(tmp_path: Path, registry: Registry) -> None:
    """The current run first; an entity that it does not have is found in the run before."""
    paths = tables.write_input(tmp_path / "input")
    first = tables.run(tables.make_settings(tmp_path, registry, model="binary"))
    paths[0].unlink()
    published = opened(tmp_path)
    assert published.newest("1-3").run_id == first.manifest.run_id
    second = tables.run(tables.make_settings(tmp_path, registry, model="regressor"))

    assert published.newest("1-3").run_id == second.manifest.run_id
    assert published.newest("0-3").run_id == first.manifest.run_id
    assert [run.run_id for run in published.runs()] == [second.manifest.run_id, first.manifest.run_id]


def test_the_last_row_of_an_entity_counts(tmp_path: Path, registry: Registry) -> None:
    """Of rows with the same id in one run, in the order of the files."""
    rows = tables.frame(120, seed=1).assign(id="same", number=range(120))
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows)
    tables.run(tables.make_settings(tmp_path, registry, keep=["id", "number"]))

    assert opened(tmp_path).newest("same").row["number"] == 119


@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.string()])
def test_numbers_are_ids_too(tmp_path: Path, registry: Registry, kind: pa.DataType) -> None:
    """By their decimal text; null keys, other text and numbers out of range find nothing."""
    rows = pa.Table.from_pandas(tables.frame(80, seed=1), preserve_index=False)
    keys = pa.array([None, *range(-1, 78)], pa.int64()).cast(kind)
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows.set_column(0, "id", keys))
    tables.run(tables.make_settings(tmp_path, registry))
    published = opened(tmp_path)

    assert str(published.newest("-1").row["id"]) == "-1"
    assert str(published.newest("77").row["id"]) == "77"
    for strange in ("78", "1e3", "9" * 19, "9" * 30, "٣", "None", "../../etc/passwd", "%", "' OR 1=1"):
        with pytest.raises(PredictionNotFoundError):
            published.newest(strange)


@pytest.mark.parametrize("strange", ["", "x" * 513, "a\0b"])
def test_an_impossible_id_is_refused(tmp_path: Path, registry: Registry, strange: str) -> None:
    """Before anything is read, and the message does not repeat it."""
    with pytest.raises(InvalidInputError, match="1 to 512 characters") as caught:
        opened(tmp_path).newest(strange)
    assert strange not in str(caught.value) or not strange


def test_what_is_not_published_is_not_found(tmp_path: Path, registry: Registry) -> None:
    """Neither a run in the making nor a sample, nor an entity whose row was rejected."""
    rows = tables.frame(200, seed=0)
    rows.loc[150, "amount"] = float("inf")
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows)
    seen: list[str] = []

    def look(step: str) -> None:
        if step in ("unit", "scored", "publishing"):
            with pytest.raises(PredictionNotFoundError):
                opened(tmp_path).newest("0-3")
            seen.append(step)

    tables.run(tables.make_settings(tmp_path, registry, sample=50))
    tables.run(tables.make_settings(tmp_path, registry), on_step=look)

    assert {"unit", "scored", "publishing"} <= set(seen)
    assert opened(tmp_path).newest("0-3").row["id"] == "0-3"
    with pytest.raises(PredictionNotFoundError):
        opened(tmp_path).newest("0-150")


def test_keys_that_cannot_be(tmp_path: Path, registry: Registry) -> None:
    """No such column, a column of fractions, and a run that keeps none: one sentence each."""
    tables.write_input(tmp_path / "input", num_files=1)
    tables.run(tables.make_settings(tmp_path, registry))
    for key, words in (("nothing", "no such column"), ("probability_low", "neither text nor an integer")):
        with pytest.raises(ConfigError, match=words):
            opened(tmp_path, key=key).newest("0-3")
    tables.run(tables.make_settings(tmp_path, registry, keep=[]))
    with pytest.raises(ConfigError, match="keeps no column"):
        opened(tmp_path).newest("0-3")


def test_folders_of_the_predictions_are_told(tmp_path: Path, registry: Registry) -> None:
    """A partitioned run is looked up like another."""
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", tables.frame(100, seed=0).assign(place=["a", None] * 50))
    tables.run(tables.make_settings(tmp_path, registry, keep=["id", "place"], partition_by=["place"]))

    assert opened(tmp_path).newest("0-4").row["place"] == "a"
    assert opened(tmp_path).newest("0-5").row["place"] is None


def test_only_row_groups_that_may_hold_it_are_read(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With keys that grow, one of many; an old run's footers are read once."""
    rows = pa.Table.from_pandas(tables.frame(400, seed=1), preserve_index=False)
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows.set_column(0, "id", pa.array(range(400))))
    tables.run(tables.make_settings(tmp_path, registry))
    published = opened(tmp_path)
    published.newest("5")
    read: list[int] = []
    original = lookup.pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        lookup.pq.ParquetFile,
        "read_row_group",
        lambda self, number, **words: read.append(number) or original(self, number, **words),
    )
    monkeypatch.setattr(lookup.pq, "read_metadata", lambda file: pytest.fail("footers are remembered"))

    assert published.newest("250").row["id"] == 250
    assert len(read) == 2


def test_files_that_are_gone_are_one_sentence(tmp_path: Path, registry: Registry) -> None:
    """A run that is removed while it is looked at: the message tells no place, and the call may be tried again."""
    tables.write_input(tmp_path / "input", num_files=1)
    outcome = tables.run(tables.make_settings(tmp_path, registry))
    published = opened(tmp_path)
    assert published.newest("0-3")
    for path in Path(outcome.predictions).iterdir():
        path.unlink()

    with pytest.raises(StorageUnavailableError, match="Ask again later") as caught:
        published.newest("0-3")
    assert str(tmp_path) not in str(caught.value)


def test_the_command(tmp_path: Path, registry: Registry) -> None:
    """`get` shows the row, `--json` gives it to programs, `runs` lists."""
    tables.write_input(tmp_path / "input")
    outcome = tables.run(tables.make_settings(tmp_path, registry, model="binary"))
    output = ["--output", str(tmp_path / "output")]

    shown = CliRunner().invoke(app, ["get", "--id", "2-7", *output])
    plain = CliRunner().invoke(app, ["get", "--id", "2-7", "--json", *output])
    listed = CliRunner().invoke(app, ["runs", *output], env={"COLUMNS": "200"})

    assert shown.exit_code == 0
    assert "2-7" in shown.stdout
    assert json.loads(plain.stdout)["row"]["id"] == "2-7"
    assert outcome.manifest.run_id in listed.stdout
