"""Every row is in the output or in the rejects, once; a run is published whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from batch.commit import Staging
from batch.job import RejectLimitError
from batch.predict import predict
from batch.preflight import preflight
from batch.score import score_unit
from tests import models
from tests.batch import tables
from tests.conftest import ROOT
from zaphod.columns import from_table
from zaphod.errors import BatchError, ConfigError, SchemaMismatchError
from zaphod.outputs import to_arrow
from zaphod.registry import Registry


def published(home: Path) -> list[str]:
    """The runs that readers can see."""
    return sorted(path.name for path in (home / "output" / "runs").glob("*"))


def test_predictions_are_the_models(tmp_path: Path, registry: Registry) -> None:
    """Each row has the prediction that the model gives for the whole table, beside its id and the version."""
    tables.write_input(tmp_path / "input")
    outcome = tables.run(tables.make_settings(tmp_path, registry, model="binary"))

    got = pd.read_parquet(outcome.predictions).sort_values("id", ignore_index=True)

    rows = pd.concat([tables.frame(200, seed=seed) for seed in range(3)]).sort_values("id", ignore_index=True)
    bundle = registry.load("binary", 1)
    columns = from_table(bundle.schema, pa.Table.from_pandas(rows, preserve_index=False)).columns
    expected = to_arrow(bundle.schema, bundle.load_predictor().predict(columns)).to_pandas()
    assert list(got.columns) == ["id", "label", "probability_0", "probability_1", "model_version"]
    assert (got["id"] == rows["id"]).all()
    assert (got["label"] == expected["label"]).all()
    np.testing.assert_allclose(got["probability_1"], expected["probability_1"], rtol=1e-9)
    assert (got["model_version"] == 1).all()


def test_several_targets_have_a_column_each(tmp_path: Path, several: Registry) -> None:
    """Labels and probabilities by target, champion and challenger compared row by row; no truth can be named."""
    registry = models.copy(several, tmp_path)
    models.publish_again(registry)
    tables.write_input(tmp_path / "input", num_files=1)

    outcome = tables.run(tables.make_settings(tmp_path, registry, model="several@1", challenger="several@2"))

    got = pd.read_parquet(outcome.predictions)
    rows = tables.frame(200, seed=0)
    expected = models.load_estimator(registry, "several").predict(rows.drop(columns="id"))
    assert got[["label_risk", "label_again"]].to_numpy().tolist() == expected.tolist()
    np.testing.assert_allclose(got["probability_again_no"] + got["probability_again_yes"], 1.0)
    assert (got["challenger_label_risk"] == got["label_risk"]).all()
    comparison = outcome.manifest.quality.comparison
    assert (comparison.same_label_share, comparison.largest_distance) == (1.0, 0.0)
    with pytest.raises(ConfigError, match="no single right answer"):
        preflight(tables.make_settings(tmp_path, registry, model="several", truth="kind"))


def test_rows_keep_their_order_in_a_file(tmp_path: Path, registry: Registry) -> None:
    """A unit's output has the rows in the order of its input."""
    tables.write_input(tmp_path / "input", num_files=1)
    outcome = tables.run(tables.make_settings(tmp_path, registry))

    files = sorted(Path(outcome.predictions).glob("*.parquet"))

    assert len(files) == 2
    assert pd.read_parquet(files[0])["id"].tolist() == [f"0-{i}" for i in range(100)]


def test_the_pointer_and_the_manifest_name_the_run(tmp_path: Path, registry: Registry) -> None:
    """current.json leads to the predictions; the manifest counts the rows and vouches for the files."""
    tables.write_input(tmp_path / "input")
    outcome = tables.run(tables.make_settings(tmp_path, registry))

    pointer = json.loads((tmp_path / "output/current.json").read_bytes())
    manifest = json.loads((tmp_path / "output" / pointer["manifest"]).read_bytes())

    run = tmp_path / "output" / "runs" / pointer["run_id"]
    assert str(tmp_path / "output" / pointer["predictions"]) == outcome.predictions
    assert (manifest["rows_in"], manifest["rows_out"], manifest["rows_rejected"]) == (600, 600, 0)
    assert [entry["num_rows"] for entry in manifest["inputs"]] == [200, 200, 200]
    assert {entry["path"]: entry["sha256"] for entry in manifest["files"]} | {
        name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in ("_SUCCESS", "units.jsonl")
    } == tables.content(run)
    assert not list((tmp_path / "output/.staging").iterdir())


def test_doing_it_again_changes_nothing(tmp_path: Path, registry: Registry) -> None:
    """A finished job is recognised before Ray is started, and not a byte changes."""
    tables.write_input(tmp_path / "input")
    settings = tables.make_settings(tmp_path, registry)
    first = tables.run(settings)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "output").rglob("*")}

    again = tables.run(settings, open_executor=lambda: pytest.fail("must not be needed"))

    assert again.unchanged
    assert again.manifest == first.manifest
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "output").rglob("*") if path in before} == before


def test_bad_rows_go_to_the_rejects(tmp_path: Path, registry: Registry) -> None:
    """Null in a required field and infinity: file, row and reason are told, the row's data is not."""
    rows = tables.frame(200, seed=7)
    rows.loc[120, "amount"] = np.nan
    rows.loc[130, "balance"] = -np.inf
    tables.write_input(tmp_path / "input", num_files=1)
    tables.write_file(tmp_path / "input" / "x.parquet", rows)

    outcome = tables.run(tables.make_settings(tmp_path, registry, max_rejected=2))

    rejects = pd.read_parquet(outcome.rejects)
    assert rejects.to_dict("records") == [
        {"file": "x.parquet", "row": 120, "field": "amount", "reason": "Expected a value, got null", "id": "7-120"},
        {
            "file": "x.parquet",
            "row": 130,
            "field": "balance",
            "reason": "Expected a finite number, got infinity",
            "id": "7-130",
        },
    ]
    predicted = pd.read_parquet(outcome.predictions)["id"]
    assert len(predicted) == 398
    assert predicted.is_unique
    assert set(predicted) & set(rejects["id"]) == set()


@pytest.mark.parametrize(("limit", "value"), [("max_rejected", 1), ("max_rejected_share", 0.009)])
def test_too_many_rejects_publish_nothing(tmp_path: Path, registry: Registry, limit: str, value: float) -> None:
    """Past a limit nothing is published; with a higher one the finished units are not done again."""
    rows = tables.frame(200, seed=7)
    rows.loc[[5, 150], "amount"] = np.nan
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows)
    done: list[str] = []

    with pytest.raises(RejectLimitError, match=limit):
        tables.run(tables.make_settings(tmp_path, registry, **{limit: value}), on_step=done.append)
    assert published(tmp_path) == []

    outcome = tables.run(
        tables.make_settings(tmp_path, registry, max_rejected_share=1.0),
        open_executor=lambda: pytest.fail("all units are finished"),
    )
    assert done.count("unit") == 2
    assert outcome.manifest.rows_rejected == 2


def test_a_unit_of_rejects_only(tmp_path: Path, registry: Registry) -> None:
    """A unit whose every row is bad leaves no empty predictions file."""
    rows = tables.frame(100, seed=7).assign(amount=np.nan)
    tables.write_input(tmp_path / "input", num_files=1)
    tables.write_file(tmp_path / "input" / "x.parquet", rows)

    outcome = tables.run(tables.make_settings(tmp_path, registry, max_rejected_share=0.5))

    assert (outcome.manifest.rows_out, outcome.manifest.rows_rejected) == (200, 100)
    assert [path.name[:1] for path in Path(outcome.rejects).iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda rows: rows.drop(columns="amount"), SchemaMismatchError, ["`amount`", "x.parquet"]),
        (lambda rows: rows.assign(amount="much"), SchemaMismatchError, ["`amount`", "string", "x.parquet"]),
        (lambda rows: rows.drop(columns="id"), SchemaMismatchError, ["`id`", "x.parquet"]),
    ],
)
def test_a_wrong_table_is_refused_before_the_run(
    tmp_path: Path, registry: Registry, change: object, error: type[Exception], words: list[str]
) -> None:
    """A missing column and a wrong type are found in the footers; the message names column and file."""
    tables.write_input(tmp_path / "input", num_files=1)
    tables.write_file(tmp_path / "input" / "x.parquet", change(tables.frame(10, seed=7)))  # type: ignore[operator]

    with pytest.raises(error) as caught:
        tables.run(tables.make_settings(tmp_path, registry))

    assert all(word in str(caught.value) for word in words)
    assert not (tmp_path / "output").exists()


def broken_footer(path: Path) -> None:
    """A file that was cut."""
    path.write_bytes(path.read_bytes()[:-100])


def broken_page(path: Path) -> None:
    """Only reading the second unit's data shows it: the footer is whole."""
    footer = pq.read_metadata(path)
    column = footer.row_group(3).column(1)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [broken_footer, broken_page])
def test_a_corrupt_file_is_one_clear_error(tmp_path: Path, registry: Registry, damage: object) -> None:
    """The message names the file, and nothing is published."""
    paths = tables.write_input(tmp_path / "input")
    damage(paths[1])  # type: ignore[operator]

    with pytest.raises(BatchError, match=r"part-1\.parquet"):
        tables.run(tables.make_settings(tmp_path, registry))

    assert published(tmp_path) == []


@pytest.mark.parametrize(("damage", "rows_rejected"), [(broken_footer, 0), (broken_page, 200)])
def test_a_corrupt_file_is_rejected_whole(
    tmp_path: Path, registry: Registry, damage: object, rows_rejected: int
) -> None:
    """No row of it is in the predictions, also not of its readable part; rows that a footer counted are rejected."""
    paths = tables.write_input(tmp_path / "input")
    damage(paths[1])  # type: ignore[operator]
    limits = {"max_rejected_share": 0.5, "max_corrupt_files": 1}

    outcome = tables.run(tables.make_settings(tmp_path, registry, on_corrupt="reject", **limits))

    assert outcome.manifest.corrupt_files == ("part-1.parquet",)
    assert (outcome.manifest.rows_out, outcome.manifest.rows_rejected) == (400, rows_rejected)
    assert set(pd.read_parquet(outcome.predictions)["id"].str[0]) == {"0", "2"}
    assert set(pd.read_parquet(outcome.rejects)["file"]) == {"part-1.parquet"}


def broken_text(path: Path) -> None:
    """Lines that turn into bytes of no text; the first of them are whole."""
    rows = pd.read_parquet(path).to_json(orient="records", lines=True, double_precision=15)
    path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(rows.encode())[:-2000])
    path.unlink()


@pytest.mark.parametrize("damage", [broken_footer, broken_text])
@pytest.mark.parametrize("limit", [{}, {"max_rejected": 0, "max_rejected_share": 1.0}, {"max_corrupt_files": 1}])
def test_files_of_unknown_size_are_past_a_limit(
    tmp_path: Path, registry: Registry, damage: object, limit: dict[str, object]
) -> None:
    """Rows that nobody can count are not taken for none: nothing is published. A limit of files of their own, or none
    at all, lets them pass; the finished units are not done again.
    """
    for path in tables.write_input(tmp_path / "input")[1:]:
        damage(path)  # type: ignore[operator]

    with pytest.raises(RejectLimitError, match="max_corrupt_files"):
        tables.run(tables.make_settings(tmp_path, registry, on_corrupt="reject", **limit))
    assert published(tmp_path) == []

    enough = {"max_corrupt_files": 2} if limit else {"max_rejected_share": 1.0}
    outcome = tables.run(tables.make_settings(tmp_path, registry, on_corrupt="reject", **limit | enough))
    assert (len(outcome.manifest.corrupt_files), outcome.manifest.rows_out) == (2, 200)


@pytest.mark.parametrize("damage", [broken_footer, broken_text, broken_page])
def test_a_run_without_a_readable_file_is_not_published(tmp_path: Path, registry: Registry, damage: object) -> None:
    """Whatever the limits are."""
    for path in tables.write_input(tmp_path / "input"):
        damage(path)  # type: ignore[operator]

    with pytest.raises((BatchError, RejectLimitError), match="no file c"):
        tables.run(tables.make_settings(tmp_path, registry, on_corrupt="reject", max_rejected_share=1.0))

    assert published(tmp_path) == []


def test_a_file_that_changes_under_the_job_is_an_error(tmp_path: Path, registry: Registry) -> None:
    """What was planned is what is scored."""
    paths = tables.write_input(tmp_path / "input")

    def change(step: str) -> None:
        if step == "staging":
            tables.write_file(paths[2], tables.frame(10, seed=9))

    with pytest.raises(BatchError, match=r"part-2\.parquet: it was changed"):
        tables.run(tables.make_settings(tmp_path, registry), on_step=change)


def test_what_a_dead_process_left_is_not_published(tmp_path: Path, registry: Registry) -> None:
    """A kill may fall while manifest.json is written under a passing name: the run is the same as ever."""
    tables.write_input(tmp_path / "input")
    whole = tables.run(tables.make_settings(tmp_path, registry, output=str(tmp_path / "other")))

    def leave(step: str) -> None:
        if step == "publishing":
            (folder,) = (tmp_path / "output/.staging").glob("*/run")
            (folder / ".staged-x1").write_bytes(b"{")

    outcome = tables.run(tables.make_settings(tmp_path, registry), on_step=leave)

    assert tables.content(Path(outcome.predictions).parent) == tables.content(Path(whole.predictions).parent)


def test_results_on_another_machines_disk_are_not_published(tmp_path: Path, registry: Registry) -> None:
    """A unit's receipt without its files here is no result: the job says what a cluster's output must be."""
    tables.write_input(tmp_path / "input")

    def lose(step: str) -> None:
        if step == "scored":
            next((tmp_path / "output/.staging").glob("*/run/predictions/*")).unlink()

    with pytest.raises(BatchError, match="every machine sees"):
        tables.run(tables.make_settings(tmp_path, registry), on_step=lose)
    assert published(tmp_path) == []

    assert tables.run(tables.make_settings(tmp_path, registry)).manifest.timing.resumed_units == 5


def test_a_sample_is_published_beside(tmp_path: Path, registry: Registry) -> None:
    """A sample has its rows and its own folder, and current.json stays with the whole run."""
    tables.write_input(tmp_path / "input")
    whole = tables.run(tables.make_settings(tmp_path, registry))
    before = (tmp_path / "output/current.json").read_bytes()

    sample = tables.run(tables.make_settings(tmp_path, registry, sample=130))

    assert sample.predictions != whole.predictions
    assert len(pd.read_parquet(sample.predictions)) == 130
    assert (tmp_path / "output/current.json").read_bytes() == before


def test_the_newest_of_two_models_is_current(tmp_path: Path, registry: Registry) -> None:
    """Each run has its folder; asking for the first again makes it current again."""
    tables.write_input(tmp_path / "input")
    first = tables.run(tables.make_settings(tmp_path, registry))
    second = tables.run(tables.make_settings(tmp_path, registry, model="regressor"))
    assert len(published(tmp_path)) == 2
    assert json.loads((tmp_path / "output/current.json").read_bytes())["run_id"] == second.manifest.run_id

    tables.run(tables.make_settings(tmp_path, registry))

    assert json.loads((tmp_path / "output/current.json").read_bytes())["run_id"] == first.manifest.run_id


def test_two_drivers_do_not_work_on_one_run(tmp_path: Path, registry: Registry) -> None:
    """The second is told so."""
    tables.write_input(tmp_path / "input")
    settings = tables.make_settings(tmp_path, registry)
    refused: list[str] = []

    def start_another(step: str) -> None:
        if step == "scored":
            with pytest.raises(BatchError, match="another process") as caught:
                tables.run(settings)
            refused.append(caught.value.message)

    tables.run(settings, on_step=start_another)

    assert len(refused) == 1


def test_kept_columns_may_not_collide(tmp_path: Path, registry: Registry) -> None:
    """A kept column of the name of an output is refused."""
    tables.write_input(tmp_path / "input")

    with pytest.raises(ConfigError, match="probability_low"):
        tables.run(tables.make_settings(tmp_path, registry, keep=["probability_low"]))


def test_kept_columns_take_one_type(tmp_path: Path, registry: Registry) -> None:
    """Files that disagree on a kept column's width are cast to the first; others are refused before the run."""
    tables.write_input(tmp_path / "input", num_files=1)
    rows = pa.Table.from_pandas(tables.frame(10, seed=7), preserve_index=False)
    tables.write_file(tmp_path / "input" / "x.parquet", rows.set_column(0, "id", rows["id"].cast(pa.string())))
    assert len(pd.read_parquet(tables.run(tables.make_settings(tmp_path, registry)).predictions)) == 210

    tables.write_file(tmp_path / "input" / "x.parquet", rows.set_column(0, "id", pa.array([[1]] * 10)))
    with pytest.raises(SchemaMismatchError, match=r"x\.parquet"):
        tables.run(tables.make_settings(tmp_path, registry))


def with_ids(rows: pd.DataFrame, ids: pa.Array) -> pa.Table:
    """The rows with other ids."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    return table.set_column(0, "id", ids)


@pytest.mark.parametrize(
    ("ids", "kinds"),
    [
        ((pa.array(range(10)), pa.array([f"secret-{i}" for i in range(10)])), ("int64", "string")),
        ((pa.array([f"secret-{i}" for i in range(10)]), pa.array(range(10))), ("string", "int64")),
        ((pa.array([[1]] * 10), pa.array(range(10))), ("list<element: int64>", "int64")),
    ],
)
def test_kept_columns_of_two_types_are_refused_before_the_run(
    tmp_path: Path, registry: Registry, ids: tuple[pa.Array, pa.Array], kinds: tuple[str, str]
) -> None:
    """The message names the column and both files, and quotes no cell."""
    (tmp_path / "input").mkdir()
    for i in range(2):
        tables.write_file(tmp_path / f"input/part-{i}.parquet", with_ids(tables.frame(10, seed=i), ids[i]))

    with pytest.raises(SchemaMismatchError) as caught:
        preflight(tables.make_settings(tmp_path, registry))

    message = str(caught.value)
    for i in range(2):
        assert f"`{kinds[i]}` in part-{i}.parquet" in message
    assert "`id`" in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("first", "second", "joint"),
    [
        (pa.array(range(10), pa.int32()), pa.array(range(2**40, 2**40 + 10)), "int64"),
        (pa.array(range(10)), pa.array([*map(float, range(9)), None]), "int64"),
        (pa.array([None] * 10), pa.array(range(10)), "int64"),
        (pa.array(["a"] * 10).dictionary_encode(), pa.array(["b"] * 10), "string"),
        (pa.array([0] * 10, pa.timestamp("us")), pa.array([1] * 10, pa.timestamp("ns")), "timestamp[ns]"),
    ],
)
def test_kept_columns_are_of_the_wider_type(
    tmp_path: Path, registry: Registry, first: pa.Array, second: pa.Array, joint: str
) -> None:
    """Whichever file comes first; whole numbers stay whole."""
    (tmp_path / "input").mkdir()
    for i, ids in enumerate((first, second)):
        tables.write_file(tmp_path / f"input/part-{i}.parquet", with_ids(tables.frame(10, seed=i), ids))

    outcome = tables.run(tables.make_settings(tmp_path, registry))

    got = {str(pq.read_schema(path).field("id").type) for path in Path(outcome.predictions).iterdir()}
    assert got == {joint}
    assert outcome.manifest.rows_out == 20


def test_a_value_that_is_not_of_the_kept_type_is_told_without_it(tmp_path: Path, registry: Registry) -> None:
    """Whole numbers in one file and fractions in another: only reading tells. Column and file are named."""
    (tmp_path / "input").mkdir()
    for i, ids in enumerate((pa.array(range(10)), pa.array([0.5] * 10))):
        tables.write_file(tmp_path / f"input/part-{i}.parquet", with_ids(tables.frame(10, seed=i), ids))

    with pytest.raises(BatchError, match=r"`int64`.*`double`.*`id` \(in part-1\.parquet\)") as caught:
        tables.run(tables.make_settings(tmp_path, registry))

    assert "0.5" not in str(caught.value)


def test_kept_columns_of_lines_follow_the_others(tmp_path: Path, registry: Registry) -> None:
    """Files of lines that differ give text; cells of CSV become what Parquet has; lines of another type are refused."""
    (tmp_path / "input").mkdir()
    rows = [tables.frame(5, seed=i).assign(id=range(5)) for i in range(4)]
    rows[0].to_json(tmp_path / "input/a.jsonl", orient="records", lines=True)
    rows[1].assign(id=list("vwxyz")).to_json(tmp_path / "input/b.jsonl", orient="records", lines=True)
    text = pd.read_parquet(tables.run(tables.make_settings(tmp_path, registry)).predictions)["id"]
    assert sorted(text) == ["0", "1", "2", "3", "4", *"vwxyz"]

    rows[2].to_csv(tmp_path / "input/c.csv", index=False)
    tables.write_file(tmp_path / "input/d.parquet", rows[3])
    with pytest.raises(SchemaMismatchError, match=r"`int64` in d\.parquet and `string` in b\.jsonl - at `id`"):
        preflight(tables.make_settings(tmp_path, registry))

    (tmp_path / "input/b.jsonl").unlink()
    numbers = pd.read_parquet(tables.run(tables.make_settings(tmp_path, registry)).predictions)["id"]
    assert sorted(numbers) == sorted([*range(5)] * 3)


def test_a_missing_input_is_one_sentence(tmp_path: Path, registry: Registry) -> None:
    """A folder that is not there, and one without Parquet files."""
    with pytest.raises(ConfigError, match="no such folder"):
        tables.run(tables.make_settings(tmp_path, registry))
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "_SUCCESS").touch()
    with pytest.raises(ConfigError, match=r"\.parquet"):
        tables.run(tables.make_settings(tmp_path, registry))


def test_units_that_were_done_are_said(tmp_path: Path, registry: Registry) -> None:
    """A job that goes on says how much was finished."""
    tables.write_input(tmp_path / "input")
    settings = tables.make_settings(tmp_path, registry)

    def stop(step: str) -> None:
        if step == "unit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.run(settings, on_step=stop)
    output = io.StringIO()
    outcome = tables.run(settings, output=output)

    assert "going on: 1 of 6 units" in output.getvalue()
    assert outcome.manifest.timing.resumed_units == 1


def test_a_receipt_without_its_file_does_not_count(tmp_path: Path, registry: Registry) -> None:
    """A unit whose output was lost or cut is done again, and one whose receipt is empty, as a power cut leaves it."""
    tables.write_input(tmp_path / "input")
    settings = tables.make_settings(tmp_path, registry)
    expected = tables.content(
        Path(tables.run(tables.make_settings(tmp_path, registry, output=str(tmp_path / "o"))).predictions).parent
    )

    def damage(step: str) -> None:
        if step == "scored":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.run(settings, on_step=damage)
    (staged,) = (tmp_path / "output/.staging").glob("*/run/predictions")
    first, second, *_ = sorted(staged.iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    last = sorted((staged.parents[1] / "receipts").iterdir())[-1]
    last.write_bytes(b"")
    outcome = tables.run(settings)

    assert outcome.manifest.timing.resumed_units == 3
    assert tables.content(Path(outcome.predictions).parent) == expected


def test_a_unit_that_kills_its_process_ends_the_job(tmp_path: Path, registry: Registry) -> None:
    """After the retries the job says which file it was, instead of trying for ever."""
    tables.write_input(tmp_path / "input", num_files=1)
    settings = tables.make_settings(tmp_path, registry, retries=1)

    ready = preflight(settings)
    staging = Staging.open(settings.output, ready.plan.run_id)
    for _ in range(2):
        staging.note_attempt(ready.plan.units[0].id)

    receipt = score_unit(ready.plan.units[0], ready.work)

    assert receipt.error is not None
    assert "part-0.parquet: the process died 2 times" in receipt.error


def test_a_small_job_is_done_without_ray(tmp_path: Path, registry: Registry) -> None:
    """Less work than Ray takes to start is done where the command runs: no Ray is needed, or found."""
    tables.write_input(tmp_path / "input")
    settings = tables.make_settings(tmp_path, registry, in_process_s=60)
    (tmp_path / "batch.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    command = [sys.executable, "-m", "batch", "--config", "batch.yaml"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "127.0.0.2:1"}

    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr
    assert "rows in 600  out 600" in done.stdout


def test_a_dry_run_writes_nothing(tmp_path: Path, registry: Registry) -> None:
    """The checks are done and told; neither output nor Ray is touched."""
    tables.write_input(tmp_path / "input")
    settings = tables.make_settings(tmp_path, registry)
    (tmp_path / "batch.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_unset=True)))
    command = [sys.executable, "-m", "batch", "--config", "batch.yaml", "--dry-run", "--sample", "50"]

    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert "50 rows in 3 files" in done.stdout
    assert "a sample scored at" in done.stdout
    assert not (tmp_path / "output").exists()


def test_what_is_loaded_at_the_first_use_is_not_every_rows(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first prediction that takes long does not make the job a long one, which Ray Data would carry."""
    tables.write_input(tmp_path / "input")
    loading_s, now_s = [0.4], [0.0]

    def slow_at_first(*arguments: object, **named: object) -> object:
        now_s[0] += loading_s.pop() if loading_s else 0.001
        return predict(*arguments, **named)  # type: ignore[arg-type]  # as they came

    monkeypatch.setattr("batch.preflight.predict", slow_at_first)
    monkeypatch.setattr("batch.preflight.time", types.SimpleNamespace(perf_counter=lambda: now_s[0]))

    estimate = preflight(tables.make_settings(tmp_path, registry)).estimate

    assert not loading_s
    assert estimate is not None
    assert estimate.seconds(num_rows=100, num_tasks=1) == pytest.approx(0.001)


def test_a_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    """A flag that is not understood names itself; the exit code is 1."""
    (tmp_path / "batch.yaml").write_text("{model: m, input: i, output: o}")
    command = [sys.executable, "-m", "batch", "--config", "batch.yaml", "--max-rejected-share", "2"]

    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert "`max_rejected_share`" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
