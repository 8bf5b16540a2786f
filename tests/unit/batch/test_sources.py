"""CSV, JSON lines and partitioned folders give what Parquet gives; a bad cell costs its row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from batch import delimited, jsonlines, source
from batch.preflight import preflight
from tests.batch import tables
from zaphod.columns import from_table
from zaphod.errors import BatchError, ConfigError, SchemaMismatchError
from zaphod.location import locate
from zaphod.registry import Registry


def predictions(home: Path, registry: Registry, **changes: object) -> pd.DataFrame:
    """What a run gives, by identifier."""
    outcome = tables.run(tables.make_settings(home, registry, **changes))
    return pd.read_parquet(outcome.predictions).sort_values("id", ignore_index=True)


@pytest.fixture
def expected(tmp_path: Path, registry: Registry) -> pd.DataFrame:
    """The predictions of 300 rows in Parquet."""
    (tmp_path / "parquet").mkdir()
    tables.write_file(tmp_path / "parquet" / "a.parquet", tables.frame(300, seed=3))
    return predictions(tmp_path, registry, input=str(tmp_path / "parquet"), output=str(tmp_path / "expected"))


def write_csv(path: Path) -> None:
    """As pandas writes it."""
    tables.frame(300, seed=3).to_csv(path, index=False)


def write_csv_gz(path: Path) -> None:
    """The same, compressed."""
    tables.frame(300, seed=3).to_csv(path, index=False, compression="gzip")


def write_jsonl(path: Path) -> None:
    """Nulls as null, one object to a line."""
    path.write_bytes(json_lines(tables.frame(300, seed=3)))


def write_jsonl_gz(path: Path) -> None:
    """The same, compressed."""
    path.write_bytes(gzip.compress(json_lines(tables.frame(300, seed=3))))


def json_lines(rows: pd.DataFrame) -> bytes:
    """A column that the model does not know is in every line."""
    return rows.assign(unknown="x").to_json(orient="records", lines=True, double_precision=15).encode()


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.csv", write_csv), ("a.csv.gz", write_csv_gz), ("a.jsonl", write_jsonl), ("a.ndjson.gz", write_jsonl_gz)],
)
def test_the_format_does_not_change_the_answer(
    tmp_path: Path, registry: Registry, expected: pd.DataFrame, name: str, write: object
) -> None:
    """The same rows as text give the same labels, and the same numbers as exactly as the text holds them."""
    (tmp_path / "input").mkdir()
    write(tmp_path / "input" / name)  # type: ignore[operator]

    got = predictions(tmp_path, registry)

    assert (got["label"] == expected["label"]).all()
    assert (got["id"] == expected["id"]).all()
    np.testing.assert_allclose(got["probability_low"], expected["probability_low"], rtol=1e-9)


def rejected(home: Path, registry: Registry, **changes: object) -> list[dict[str, object]]:
    """The rejects of a run that lets all pass."""
    outcome = tables.run(tables.make_settings(home, registry, max_rejected_share=1, **changes))
    frame = pd.read_parquet(outcome.rejects).astype(object)
    assert outcome.manifest.rows_in == outcome.manifest.rows_out + outcome.manifest.rows_rejected
    return frame.where(frame.notna(), None).to_dict("records")


def test_bad_cells_of_a_csv(tmp_path: Path, registry: Registry) -> None:
    """No number, an empty cell where one is needed, a row with too few cells, a line break in quotes: rows count on."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "x.csv").write_text(
        "id,amount,balance,count,kind\n"
        'r0,1.5,,3,"a"\n'
        "r1,much,0.5,3,a\n"
        "r2,1.5\n"
        'r3,1.5,0.5,3,"a\nb"\n'
        "r4,,0.5,3,a\n"
        "r5,1.5,0.5,3.5,a\n"
        "r6,1.5,inf,3,a\n"
        "r7,1.5,0.5,7,\n"
    )

    got = rejected(tmp_path, registry, batch_rows=2, keep=["id", "count"])

    assert sorted((row["row"], row["id"], row["field"], row["reason"]) for row in got) == [
        (1, "r1", "amount", "Expected `float64`, got text that is none"),
        (2, None, None, "Expected as many cells as the header has, got more or fewer"),
        (4, "r4", "amount", "Expected a value, got null"),
        (5, "r5", "count", "Expected an integer, got a fraction"),
        (6, "r6", "balance", "Expected a finite number, got infinity"),
    ]


def test_bad_lines_of_json(tmp_path: Path, registry: Registry) -> None:
    """No JSON, a wrong type, a missing field, null where a value is needed; empty lines count but are no rows."""
    good = {"id": "r", "amount": 1.5, "balance": None, "count": 3, "kind": "a"}
    lines = [
        json.dumps(good),
        "",
        "{",
        json.dumps(good | {"amount": "much"}),
        json.dumps({name: value for name, value in good.items() if name != "count"}),
        json.dumps(good | {"amount": None}),
        json.dumps(good | {"kind": "never seen"}),
        json.dumps(good | {"count": 3.0}),
        json.dumps(good | {"count": 3.5}),
        json.dumps(good)[:-1] + ', "deep": ' + "[" * 3_000 + "]" * 3_000 + "}",
    ]
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "x.jsonl").write_text("\n".join(lines))

    got = rejected(tmp_path, registry)

    assert [(row["row"], row["field"], row["reason"]) for row in got] == [
        (2, None, "Expected a JSON object on a line, got something else"),
        (3, "amount", "Expected `float`, got `str`"),
        (4, None, "Object missing required field `count`"),
        (5, "amount", "Expected `float`, got `null`"),
        (8, "count", "Expected `int`, got `float`"),
        (9, None, "Expected a JSON object on a line, got something else"),
    ]


def test_lines_in_many_chunks(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever they are cut; one longer than any row is the file's fault."""
    monkeypatch.setattr(jsonlines, "_CHUNK_BYTES", 7)
    monkeypatch.setattr(jsonlines, "_MAX_LINE_BYTES", 200)
    (tmp_path / "input").mkdir()
    lines = ["{" if i % 7 == 3 else json.dumps({"amount": i, "count": 1, "kind": "a"}) for i in range(50)]
    path = tmp_path / "input" / "x.jsonl"
    path.write_text("\n".join(lines))

    assert [row["row"] for row in rejected(tmp_path, registry)] == list(range(3, 50, 7))

    path.write_text("\n".join([*lines, "x" * 300]))
    with pytest.raises(BatchError, match="a line is longer than 200 bytes"):
        rejected(tmp_path, registry)


def test_whole_numbers_of_any_size_are_kept_or_refused(tmp_path: Path, registry: Registry) -> None:
    """One that Arrow has no type for ends the job with its column's name."""
    (tmp_path / "input").mkdir()
    lines = [json.dumps({"amount": 1.0, "count": 1, "kind": "a", "id": i}) for i in (1, 10**30)]
    (tmp_path / "input" / "x.jsonl").write_text("\n".join(lines))

    with pytest.raises(SchemaMismatchError, match="at column `id`"):
        rejected(tmp_path, registry)


def test_a_csv_in_many_blocks(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are right across blocks, whatever was dropped before."""
    monkeypatch.setattr(delimited, "_BLOCK_BYTES", 200)
    (tmp_path / "input").mkdir()
    lines = [f"r{i}" if i % 7 == 3 else f"r{i},{'no' if i % 5 == 1 else '1'},,1,a" for i in range(100)]
    (tmp_path / "input" / "x.csv").write_text("id,amount,balance,count,kind\n" + "\n".join([*lines, "r100"]) + "\n")

    got = rejected(tmp_path, registry)

    lost = {row["row"] for row in got if row["field"] is None}
    assert lost == {*range(3, 100, 7), 100}
    assert {(row["row"], row["id"]) for row in got if row["field"]} == {
        (i, f"r{i}") for i in range(1, 100, 5) if i not in lost
    }


def test_other_delimiters_and_nulls(tmp_path: Path, registry: Registry) -> None:
    """A quoted null value is text."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "x.csv").write_text('id;amount;balance;count;kind\nr0;1;NA;1;"NA"\nr1;NA;1;1;NA\n')

    got = rejected(tmp_path, registry, csv_delimiter=";", csv_null_values=["NA"])

    assert [(row["row"], row["field"]) for row in got] == [(1, "amount")]


def test_a_csv_without_a_column_is_refused(tmp_path: Path, registry: Registry) -> None:
    """The header tells before the run; an empty file is corrupt."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "x.csv").write_text("id,amount\nr0,1\n")
    with pytest.raises(SchemaMismatchError, match=r"`count`.*x\.csv"):
        tables.run(tables.make_settings(tmp_path, registry))

    (tmp_path / "input" / "x.csv").write_text("")
    with pytest.raises(BatchError, match=r"x\.csv: Empty CSV file"):
        tables.run(tables.make_settings(tmp_path, registry))


def test_folders_are_columns(tmp_path: Path, registry: Registry) -> None:
    """`name=value` folders give fields of the model and kept columns; the null of Hive is null."""
    rows = tables.frame(90, seed=3).drop(columns=["kind", "count"])
    for kind, count in (("a", 1), ("c%20d", 2), ("__HIVE_DEFAULT_PARTITION__", 3)):
        folder = tmp_path / "input" / f"day=2026-01-0{count}" / f"kind={kind}" / f"count={count}"
        folder.mkdir(parents=True)
        tables.write_file(folder / "part.parquet", rows.iloc[:30])
        rows = rows.iloc[30:]
    flat = tables.frame(90, seed=3).assign(
        day=np.repeat(["2026-01-01", "2026-01-02", "2026-01-03"], 30),
        kind=pd.Series(np.repeat(["a", "c d", None], 30), dtype="str"),
        count=np.repeat([1, 2, 3], 30),
    )
    (tmp_path / "flat").mkdir()
    tables.write_file(tmp_path / "flat" / "x.parquet", pa.Table.from_pandas(flat, preserve_index=False))

    got = predictions(tmp_path, registry, keep=["id", "day"])
    expected = predictions(
        tmp_path, registry, keep=["id", "day"], input=str(tmp_path / "flat"), output=str(tmp_path / "expected")
    )

    assert set(got["day"]) == {"2026-01-01", "2026-01-02", "2026-01-03"}
    pd.testing.assert_frame_equal(got, expected, check_dtype=False)


def test_a_folder_that_is_no_number_is_refused(tmp_path: Path, registry: Registry) -> None:
    """The field's type holds for folders too."""
    folder = tmp_path / "input" / "count=many"
    folder.mkdir(parents=True)
    tables.write_file(folder / "part.parquet", tables.frame(10, seed=3).drop(columns="count"))

    with pytest.raises(SchemaMismatchError, match="count=many"):
        tables.run(tables.make_settings(tmp_path, registry))


def test_one_file_is_an_input(tmp_path: Path, registry: Registry) -> None:
    """A single file is scored; one of an unknown kind is refused."""
    write_csv(tmp_path / "one.csv")
    assert len(predictions(tmp_path, registry, input=str(tmp_path / "one.csv"))) == 300

    (tmp_path / "one.txt").touch()
    with pytest.raises(ConfigError, match=r"\.parquet, \.pq, \.csv"):
        tables.run(tables.make_settings(tmp_path, registry, input=str(tmp_path / "one.txt")))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_sample_of_text(tmp_path: Path, registry: Registry, name: str) -> None:
    """A file that does not say how many rows it has gives as many as asked for."""
    (tmp_path / "input").mkdir()
    (write_csv if name == "a.csv" else write_jsonl)(tmp_path / "input" / name)

    assert len(predictions(tmp_path, registry, sample=77)) == 77


def read_parquet(path: Path, registry: Registry, *, keep: tuple[str, ...] = (), batch_rows: int) -> pa.Table:
    """A file as its unit's batches, put together."""
    settings = tables.make_settings(
        path.parent, registry, input=str(path.parent), keep=["id", *keep], batch_rows=batch_rows, unit_rows=10_000
    )
    ready = preflight(settings)
    (unit,) = ready.plan.units
    batches = source.read(locate(ready.work.input), unit, ready.work.wanted(ready.ask), batch_rows=batch_rows)
    return pa.concat_tables([batch.table for batch in batches])


def test_strings_that_repeat_stay_numbers_of_a_dictionary(tmp_path: Path, registry: Registry) -> None:
    """Where that makes no small batches, and for what is not carried along; the values are the same either way."""
    rows = tables.frame(2_000, seed=3)
    (tmp_path / "large").mkdir()
    tables.write_file(tmp_path / "large" / "a.parquet", rows, row_group_rows=1_000)
    (tmp_path / "small").mkdir()
    tables.write_file(tmp_path / "small" / "a.parquet", rows, row_group_rows=50)

    encoded = read_parquet(tmp_path / "large/a.parquet", registry, batch_rows=300)
    carried = read_parquet(tmp_path / "large/a.parquet", registry, keep=("kind",), batch_rows=300)
    small = read_parquet(tmp_path / "small/a.parquet", registry, batch_rows=300)

    kind = encoded.column("kind")
    assert pa.types.is_dictionary(kind.type)
    for plain in (encoded.column("id"), carried.column("kind"), small.column("kind")):
        assert not pa.types.is_dictionary(plain.type)
    expected = pa.Table.from_pandas(rows[["kind"]]).column("kind").to_pylist()
    assert kind.to_pylist() == small.column("kind").to_pylist() == expected


def test_strings_that_hardly_repeat_come_as_they_are(tmp_path: Path, registry: Registry) -> None:
    """A dictionary of nearly as many strings as rows would cost more than it saves."""
    rows = tables.frame(2_000, seed=3)
    tables.write_file(tmp_path / "a.parquet", rows.assign(kind=rows["id"]), row_group_rows=1_000)

    kind = read_parquet(tmp_path / "a.parquet", registry, batch_rows=300).column("kind")

    assert not pa.types.is_dictionary(kind.type)
    assert kind.to_pylist() == rows["id"].tolist()


@pytest.mark.parametrize("model", ["multiclass", "binary", "regressor"])
@pytest.mark.parametrize("engine", ["onnx", "sklearn"])
def test_a_dictionary_is_scored_as_its_strings(registry: Registry, model: str, engine: str) -> None:
    """Nulls and strings that the model has never met too."""
    bundle = registry.load(model, 1)
    predictor = bundle.load_predictor() if engine == "onnx" else bundle.load_reference()
    rows = tables.frame(500, seed=5)
    rows.loc[:9, "kind"] = "never met"
    table = pa.Table.from_pandas(rows, preserve_index=False)
    place = table.schema.get_field_index("kind")
    plain = table.set_column(place, "kind", table.column("kind").cast(pa.string()))
    encoded = table.set_column(place, "kind", plain.column("kind").combine_chunks().dictionary_encode())

    given = [predictor.predict(from_table(bundle.schema, each).columns) for each in (plain, encoded)]

    assert predictor.engine == engine
    for name in ("labels", "probabilities", "values"):
        np.testing.assert_array_equal(getattr(given[0], name), getattr(given[1], name))
