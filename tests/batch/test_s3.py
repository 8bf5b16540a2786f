"""The job from bucket to bucket, on a local S3 server."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import deltalake
import httpx
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from batch import retention
from batch.commit import Staging
from batch.retention import find_garbage, remove
from batch.settings import BatchSettings
from tests import models, s3
from tests.batch import tables
from tests.conftest import ROOT
from zaphod.lookup import PublishedPredictions
from zaphod.registry import Registry

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An empty bucket; address and credentials are in the environment."""
    with s3.server("us-east-1") as url:
        assert httpx.put(f"{url}/tables", timeout=60).status_code == 200
        yield "tables"


def object_store() -> pafs.FileSystem:
    """By address, for only then pyarrow looks for the server's in the environment."""
    return pafs.FileSystem.from_uri("s3://tables")[0]


def settings(bucket: str, name: str, **changes: object) -> BatchSettings:
    """All in the bucket: registry, input and output."""
    registry = Registry.open(f"s3://{bucket}/registry")
    if not registry.models():
        models.publish(registry)
    here = {"input": f"s3://{bucket}/{name}/input", "output": f"s3://{bucket}/{name}/output"}
    return tables.make_settings(Path(), registry, **(here | changes))


def put_input(bucket: str, name: str) -> None:
    """Three files."""
    filesystem = object_store()
    for seed in range(3):
        table = pa.Table.from_pandas(tables.frame(200, seed=seed), preserve_index=False)
        pq.write_table(table, f"{bucket}/{name}/input/part-{seed}.parquet", filesystem=filesystem, row_group_size=50)


def names(bucket: str, name: str) -> set[str]:
    """Objects below the output, the run's folder left out of their names."""
    selector = pafs.FileSelector(f"{bucket}/{name}/output", recursive=True, allow_not_found=True)
    infos = object_store().get_file_info(selector)
    return {info.path.split("/output/")[1] for info in infos if info.type == pafs.FileType.File}


def test_from_bucket_to_bucket(bucket: str) -> None:
    """The predictions are read from the address that the job gives; `_SUCCESS` and the pointer are there."""
    put_input(bucket, "plain")
    outcome = tables.run(settings(bucket, "plain"))

    got = pq.read_table(outcome.predictions.removeprefix("s3://"), filesystem=object_store())

    assert sorted(got["id"].to_pylist()) == sorted(f"{seed}-{i}" for seed in range(3) for i in range(200))
    run = outcome.manifest.run_id
    assert {"current.json", f"runs/{run}/_SUCCESS", f"runs/{run}/manifest.json"} <= names(bucket, "plain")
    assert not [name for name in names(bucket, "plain") if name.startswith(".staging")]
    assert tables.run(settings(bucket, "plain"), open_executor=lambda: pytest.fail("finished")).unchanged


def test_the_bytes_are_those_of_a_folder(bucket: str, tmp_path: Path) -> None:
    """Where the files stand does not change them."""
    put_input(bucket, "bytes")
    tables.write_input(tmp_path / "input")
    in_bucket = tables.run(settings(bucket, "bytes"))
    in_folder = tables.run(settings(bucket, "bytes", input=str(tmp_path / "input"), output=str(tmp_path / "output")))

    assert {file.sha256 for file in in_bucket.manifest.files} == {file.sha256 for file in in_folder.manifest.files}


@pytest.mark.fault
@pytest.mark.parametrize("step", ["unit", "publishing"])
def test_a_killed_job_goes_on(bucket: str, tmp_path: Path, step: str) -> None:
    """No `_SUCCESS` and no pointer after the kill; then the run of a job that nobody disturbed."""
    put_input(bucket, f"kill-{step}")
    changed = settings(bucket, f"kill-{step}")
    flags = [f"{name}={value}" for name, value in (("input", changed.input), ("output", changed.output))]
    command = [sys.executable, "-m", "tests.batch.driver", str(tmp_path), changed.registry, step, "1", *flags]
    killed = subprocess.run(command, cwd=ROOT, env=dict(os.environ), timeout=60)
    assert killed.returncode == -signal.SIGKILL
    before = names(bucket, f"kill-{step}")
    assert [name for name in before if name.startswith(".staging")]
    assert not [name for name in before if name.endswith("_SUCCESS") or name == "current.json"]

    outcome = tables.run(changed)

    put_input(bucket, f"whole-{step}")
    whole = tables.run(settings(bucket, f"whole-{step}"))
    assert outcome.manifest.timing.resumed_units == (1 if step == "unit" else 6)
    assert [file.sha256 for file in outcome.manifest.files] == [file.sha256 for file in whole.manifest.files]


def test_rows_that_cannot_be_scored(bucket: str) -> None:
    """Rejects and limits hold in a bucket too."""
    put_input(bucket, "rejects")
    rows = tables.frame(50, seed=9)
    rows.loc[7, "amount"] = float("inf")
    table = pa.Table.from_pandas(rows, preserve_index=False)
    filesystem = object_store()
    pq.write_table(table, f"{bucket}/rejects/input/part-9.parquet", filesystem=filesystem)

    outcome = tables.run(settings(bucket, "rejects"))

    found = pq.read_table(outcome.rejects.removeprefix("s3://"), filesystem=filesystem).to_pandas()
    assert found[["file", "row", "id"]].to_dict("records") == [{"file": "part-9.parquet", "row": 7, "id": "9-7"}]


def test_a_delta_table_in_a_bucket(bucket: str) -> None:
    """A run is delivered there once; credentials and address are those of the rest."""
    put_input(bucket, "delta")
    delivering = settings(bucket, "delta", delta=f"s3://{bucket}/table", upsert_by=["id"])

    first, second = tables.run(delivering), tables.run(delivering)

    assert (len(first.delivered), second.delivered) == (1, ())
    ids = deltalake.DeltaTable(f"s3://{bucket}/table").to_pyarrow_table(columns=["id"])["id"].to_pylist()
    assert sorted(ids) == sorted(f"{seed}-{i}" for seed in range(3) for i in range(200))


def test_old_runs_and_abandoned_ones_go(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A published run goes with `_SUCCESS` first, of what was never published all; the current run stays, and so does
    what was written today, for a bucket has no locks.
    """
    put_input(bucket, "old")
    first = tables.run(settings(bucket, "old"))
    last = tables.run(settings(bucket, "old", batch_rows=39)).manifest.run_id
    output, later = f"s3://{bucket}/old/output", datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)

    def die(step: str) -> None:
        if step == "unit":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.run(settings(bucket, "old", batch_rows=38), on_step=die)

    def collect() -> list[bool]:
        return [each.is_published for each in find_garbage(output, keep=1, before=later) if remove(output, each)]

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "clean", lambda self: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            collect()
    assert f"runs/{first.manifest.run_id}/manifest.json" in names(bucket, "old")
    assert [run.run_id for run in PublishedPredictions.open(output).runs()] == [last]
    assert collect() == []
    monkeypatch.setattr(retention, "_AT_WORK", datetime.timedelta(hours=-1))

    assert collect() == [False, False]

    assert {name.split("/")[1] for name in names(bucket, "old") if "/" in name} == {last}
