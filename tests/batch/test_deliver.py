"""A published run arrives at a table elsewhere whole, and once, whoever dies on the way."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import adbc_driver_postgresql.dbapi
import adbc_driver_sqlite.dbapi
import deltalake
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from batch.__main__ import show_outcome
from batch.settings import BatchSettings
from tests.batch import tables
from tests.batch.postgres import postgres
from tests.conftest import ROOT, wait_for
from zaphod.errors import BatchError, ConfigError
from zaphod.registry import Registry

KINDS = ("delta", "sqlite", "postgresql")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A PostgreSQL server."""
    with postgres() as address:
        yield address


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, object]:
    """The settings of one destination, which is empty."""
    if request.param == "delta":
        return {"delta": str(tmp_path / "table")}
    if request.param == "sqlite":
        return {"sql": f"sqlite:///{tmp_path}/results.db"}
    return {"sql": request.getfixturevalue("server"), "sql_table": f"t_{uuid.uuid4().hex}"}


def content(target: dict[str, object]) -> pd.DataFrame:
    """What an independent reader finds there, by id; no rows where there is no table."""
    if "delta" in target:
        if not deltalake.DeltaTable.is_deltatable(str(target["delta"])):
            return pd.DataFrame({"id": []})
        table = pa.table(deltalake.DeltaTable(str(target["delta"])).to_pyarrow_table())
    else:
        table = query(target, f'SELECT * FROM "{target.get("sql_table", "predictions")}"')  # noqa: S608  # our own names
    return table.to_pandas().sort_values("id", ignore_index=True)


def query(target: dict[str, object], statement: str, *, commit: bool = False) -> pa.Table:
    """Through the database's own driver; an empty table where there is none, and after a change."""
    address = str(target["sql"])
    driver = adbc_driver_sqlite.dbapi if address.startswith("sqlite") else adbc_driver_postgresql.dbapi
    with driver.connect(address.removeprefix("sqlite:///")) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(statement)
        except driver.Error:
            return pa.table({"id": pa.array([], pa.string())})
        if commit:
            connection.commit()
            return pa.table({})
        return cursor.fetch_arrow_table()


def settings(home: Path, registry: Registry, target: dict[str, object], **changes: object) -> BatchSettings:
    """Rows of the binary model, told apart by their id."""
    return tables.make_settings(home, registry, **({"model": "binary", "upsert_by": ["id"]} | target | changes))


def test_a_run_arrives_once(tmp_path: Path, registry: Registry, target: dict[str, object]) -> None:
    """Every prediction is there with its run, and the same command again brings nothing."""
    tables.write_input(tmp_path / "input")
    done = tables.run(settings(tmp_path, registry, target))
    again = tables.run(settings(tmp_path, registry, target))

    got = content(target)

    expected = pd.read_parquet(done.predictions).sort_values("id", ignore_index=True)
    pd.testing.assert_frame_equal(got[list(expected.columns)], expected, check_dtype=False)
    assert set(got["run_id"]) == {done.manifest.run_id}
    assert len(done.delivered) == 1
    assert (again.unchanged, again.delivered) == (True, ())


def test_a_later_run_replaces_its_keys(tmp_path: Path, registry: Registry, target: dict[str, object]) -> None:
    """Rows of the same key take the new prediction, others are added, and what is no longer in the input stays."""
    paths = tables.write_input(tmp_path / "input")
    first = tables.run(settings(tmp_path, registry, target)).manifest.run_id
    paths[0].unlink()
    tables.write_file(tmp_path / "input" / "more.parquet", tables.frame(50, seed=7))
    second = tables.run(settings(tmp_path, registry, target)).manifest.run_id

    got = content(target)

    assert got["id"].is_unique
    assert got["run_id"].value_counts().to_dict() == {first: 200, second: 450}


def test_a_run_that_is_current_again_is_brought_again(
    tmp_path: Path, registry: Registry, target: dict[str, object]
) -> None:
    """With a key: what a later run brought is taken back, once, and what the command prints says so."""
    tables.write_input(tmp_path / "input", num_files=1)
    first = tables.run(settings(tmp_path, registry, target)).manifest.run_id
    second = tables.run(settings(tmp_path, registry, target, batch_rows=41)).manifest.run_id

    back, again = (tables.run(settings(tmp_path, registry, target)) for _ in range(2))

    assert set(content(target)["run_id"]) == {first}
    assert (back.unchanged, back.instead_of, len(back.delivered)) == (True, second, 1)
    assert (again.unchanged, again.instead_of, again.delivered) == (True, None, ())
    said = io.StringIO()
    show_outcome(Console(file=said, width=200), back)
    assert f"nothing was scored, and it is current now in place of {second}" in said.getvalue()
    assert len(tables.run(settings(tmp_path, registry, target, batch_rows=41)).delivered) == 1
    assert set(content(target)["run_id"]) == {second}


def test_a_table_from_before_runs_had_an_order_goes_on(
    tmp_path: Path, registry: Registry, target: dict[str, object]
) -> None:
    """Nobody knows which of its runs came last: the current one is brought once more."""
    tables.write_input(tmp_path / "input", num_files=1)
    first = tables.run(settings(tmp_path, registry, target)).manifest.run_id
    tables.run(settings(tmp_path, registry, target, batch_rows=41))
    if "delta" in target:
        rows = deltalake.DeltaTable(str(target["delta"])).to_pyarrow_table()
        shutil.rmtree(str(target["delta"]))
        marks = [deltalake.Transaction(app_id=f"zaphod-{run}", version=1) for run in (first, "another")]
        properties = deltalake.CommitProperties(app_transactions=marks)
        deltalake.write_deltalake(str(target["delta"]), rows, commit_properties=properties)
    else:
        query(target, "DROP TABLE zaphod_newest", commit=True)

    outcomes = [tables.run(settings(tmp_path, registry, target)) for _ in range(2)]

    assert [len(outcome.delivered) for outcome in outcomes] == [1, 0]
    assert set(content(target)["run_id"]) == {first}


def test_without_a_key_rows_are_added(tmp_path: Path, registry: Registry, target: dict[str, object]) -> None:
    """Two runs over one file give its rows twice; one run twice gives them once."""
    tables.write_input(tmp_path / "input", num_files=1)
    tables.run(settings(tmp_path, registry, target, upsert_by=[]))
    tables.run(settings(tmp_path, registry, target, upsert_by=[]))
    tables.run(settings(tmp_path, registry, target, upsert_by=[], batch_rows=41))

    assert len(content(target)) == 400


@pytest.mark.parametrize("keys", [["g-1", "g-1", "g-2"], ["g-1", None, "g-2"]])
def test_keys_that_tell_no_rows_apart_are_refused(
    tmp_path: Path, registry: Registry, target: dict[str, object], keys: list[str | None]
) -> None:
    """A key that comes twice, and one that is null: nothing arrives, and the run stays published."""
    tables.write_input(tmp_path / "input", num_files=1)
    tables.write_file(tmp_path / "input" / "x.parquet", tables.frame(3, seed=7).assign(id=keys))

    with pytest.raises(BatchError, match="upsert_by"):
        tables.run(settings(tmp_path, registry, target))

    assert len(content(target)) == 0
    assert len(list((tmp_path / "output/runs").iterdir())) == 1


def test_folders_of_the_predictions_are_columns_there(
    tmp_path: Path, registry: Registry, target: dict[str, object]
) -> None:
    """In the type they had in the input, null as null; times of nanoseconds come as microseconds."""
    rows = tables.frame(60, seed=3).assign(
        place=["01", "02", None] * 20, at=pd.Timestamp("2026-05-01T10:00:00.000000123", tz="UTC")
    )
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows)

    tables.run(settings(tmp_path, registry, target, keep=["id", "place", "at"], partition_by=["place"]))

    got = content(target)
    assert got["place"].fillna("none").value_counts().to_dict() == {"01": 20, "02": 20, "none": 20}
    assert set(pd.to_datetime(got["at"], utc=True)) == {pd.Timestamp("2026-05-01T10:00:00", tz="UTC")}


@pytest.mark.fault
def test_a_kill_after_publishing_loses_no_delivery(
    tmp_path: Path, registry: Registry, target: dict[str, object]
) -> None:
    """Killed before the delivery and right after it: the next start brings what has not arrived, and only that."""
    tables.write_input(tmp_path / "input")
    words = [*(f"{name}={value}" for name, value in target.items()), "model=binary", "upsert_by=id"]

    def killed(step: str) -> int:
        command = [sys.executable, "-m", "tests.batch.driver", str(tmp_path), registry.uri, step, "1", *words]
        assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == -signal.SIGKILL
        return len(content(target))

    assert killed("delivering") == 0
    assert killed("delivered") == 600
    outcome = tables.run(settings(tmp_path, registry, target))

    assert (outcome.unchanged, outcome.delivered) == (True, ())
    assert content(target)["id"].is_unique

    between = tables.run(settings(tmp_path, registry, target, batch_rows=41)).manifest.run_id
    for step, newest in (("delivering", between), ("delivered", outcome.manifest.run_id)):
        assert killed(step) == 600
        assert set(content(target)["run_id"]) == {newest}
    assert tables.run(settings(tmp_path, registry, target)).delivered == ()


# Who has put rows into the table waits for whoever holds the lock, with the transaction open.
_TABLE = "CREATE TABLE amid (LIKE alike)"
_HELD_UP = """
CREATE FUNCTION held_up() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END'
"""
_TRIGGER = "CREATE TRIGGER held_up AFTER INSERT ON amid FOR EACH STATEMENT EXECUTE FUNCTION held_up()"


@pytest.mark.fault
def test_a_kill_amid_a_transaction_leaves_nothing(tmp_path: Path, registry: Registry, server: str) -> None:
    """A driver killed when PostgreSQL has all its rows, uncommitted: none of them is seen, then all are, once."""
    target: dict[str, object] = {"sql": server, "sql_table": "amid"}
    tables.write_input(tmp_path / "input", num_files=2, num_rows=30_000, row_group_rows=30_000)
    tables.run(settings(tmp_path, registry, target | {"sql_table": "alike"}, unit_rows=30_000, batch_rows=30_000))
    for statement in (_TABLE, _HELD_UP, _TRIGGER):
        query(target, statement, commit=True)
    words = [f"{name}={value}" for name, value in target.items()]
    command = [sys.executable, "-m", "tests.batch.driver", str(tmp_path), registry.uri, "any", "0", "model=binary"]
    command += [*words, "unit_rows=30000", "batch_rows=30000", "upsert_by=id"]
    rows_in = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'INSERT INTO \"amid\"%' AND state <> 'idle'"
    with adbc_driver_postgresql.dbapi.connect(server) as holder, holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(1)")
        cursor.fetchall()
        process = subprocess.Popen(command, cwd=ROOT, env=dict(os.environ))
        held_up = f"{rows_in} AND wait_event = 'advisory'"
        wait_for(lambda: process.poll() is not None or query(target, held_up).num_rows > 0, what="all rows in")
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
    wait_for(lambda: query(target, rows_in).num_rows == 0, what="the end of the transaction")
    assert len(content(target)) == 0

    outcome = tables.run(settings(tmp_path, registry, target, unit_rows=30_000, batch_rows=30_000))

    assert len(outcome.delivered) == 1
    got = content(target)
    assert (len(got), got["id"].is_unique) == (60_000, True)


def test_a_package_that_is_missing_is_found_before_the_run(
    tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence that names it, and nothing is scored."""
    tables.write_input(tmp_path / "input", num_files=1)
    monkeypatch.setitem(sys.modules, "deltalake", None)

    with pytest.raises(ConfigError, match="package deltalake is not installed"):
        tables.run(settings(tmp_path, registry, {"delta": str(tmp_path / "table")}))

    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sql": "mysql://user:secret@host/db"}, "sqlite or postgresql"),
        ({"sql": "sqlite:////nowhere/at/all.db"}, "sqlite table predictions"),
        ({"delta": "/proc/table"}, "Delta table"),
    ],
)
def test_a_destination_that_cannot_be_had_is_one_sentence(
    tmp_path: Path, registry: Registry, change: dict[str, object], words: str
) -> None:
    """It names the destination and shows no address of a database."""
    tables.write_input(tmp_path / "input", num_files=1)

    with pytest.raises((BatchError, ConfigError), match=words) as caught:
        tables.run(settings(tmp_path, registry, change))

    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_address_of_a_database_is_not_told(tmp_path: Path, registry: Registry) -> None:
    """Neither the manifest nor the settings' own text shows it."""
    tables.write_input(tmp_path / "input", num_files=1)
    changed = settings(tmp_path, registry, {"sql": f"sqlite:///{tmp_path}/secret.db"})
    outcome = tables.run(changed)

    assert "secret" not in (Path(outcome.predictions).parent / "manifest.json").read_text() + repr(changed)
