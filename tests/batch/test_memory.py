"""A table larger than the memory a job may have is scored all the same."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batch.rows import Batch
from tests.batch import tables
from tests.conftest import ROOT
from zaphod.errors import BatchError
from zaphod.registry import Registry

pytestmark = pytest.mark.fault

# Of private memory: what the libraries need, and some batches. Below it the job dies of MemoryError.
_LIMIT_BYTES = 768 * 1024 * 1024
_NOTE_CHARS = 1_000
_ROW_GROUPS, _ROW_GROUP_ROWS = 25, 50_000


def write_wide(path: Path) -> int:
    """A row group written again and again, and how many bytes all of them are in memory."""
    rows = tables.frame(_ROW_GROUP_ROWS, seed=1)
    rows["note"] = [f"{i:0{_NOTE_CHARS}d}" for i in range(_ROW_GROUP_ROWS)]
    table = pa.Table.from_pandas(rows, preserve_index=False)
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, table.schema) as writer:
        for _ in range(_ROW_GROUPS):
            writer.write_table(table, row_group_size=_ROW_GROUP_ROWS)
    return int(table.nbytes) * _ROW_GROUPS


def test_a_table_larger_than_memory(tmp_path: Path, registry: Registry) -> None:
    """The kernel refuses the process more private memory than half of the table would need; all of it is one unit."""
    size = write_wide(tmp_path / "input/x.parquet")
    assert size > 1.5 * _LIMIT_BYTES
    command = [sys.executable, "-m", "tests.batch.driver", str(tmp_path), registry.uri, "none", "1"]
    command += ["model=binary", "keep=id,note", f"unit_rows={_ROW_GROUPS * _ROW_GROUP_ROWS}", "batch_rows=8192"]

    done = subprocess.run(
        command,
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (_LIMIT_BYTES, _LIMIT_BYTES)),
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=110,
    )

    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "output/runs").iterdir()
    files = sorted((run / "predictions").iterdir())
    assert sum(pq.read_metadata(path).num_rows for path in files) == _ROW_GROUPS * _ROW_GROUP_ROWS
    assert pq.ParquetFile(files[-1]).read_row_group(0, columns=["note"])["note"][0].as_py().endswith("0")


def test_too_little_memory_is_no_corrupt_file(tmp_path: Path, registry: Registry) -> None:
    """One sentence that says what to change; the file is not rejected for it, even if corrupt files are."""
    tables.write_input(tmp_path / "input", num_files=1)

    class Starved(pa.ArrowMemoryError):
        """What Arrow raises when the kernel gives it nothing."""

    settings = tables.make_settings(tmp_path, registry, on_corrupt="reject", max_rejected_share=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batch.parquet.read", lambda *_, **__: starve(Starved))
        with pytest.raises(BatchError, match=r"part-0\.parquet: not enough memory"):
            tables.run(settings)

    assert not (tmp_path / "output/runs").exists()


def starve(error: type[Exception]) -> Iterator[Batch]:
    """A reader that is refused memory at its first batch."""
    raise error("realloc of size 9920000 failed")
    yield
