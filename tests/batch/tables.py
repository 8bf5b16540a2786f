"""Input folders and jobs that the batch tests share."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from batch.inline import inline_executor
from batch.job import Execute, Job, Outcome
from batch.settings import BatchSettings
from tests import models
from zaphod.registry import Registry


def frame(num_rows: int, *, seed: int) -> pd.DataFrame:
    """Rows of the test models with an `id` that is unique over all seeds."""
    rows = models.table(num_rows, seed=seed)
    rows.insert(0, "id", [f"{seed}-{i}" for i in range(num_rows)])
    return rows


def write_input(folder: Path, *, num_files: int = 3, num_rows: int = 200, row_group_rows: int = 50) -> list[Path]:
    """Parquet files with several row groups each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part-{i}.parquet" for i in range(num_files)]
    for i, path in enumerate(paths):
        write_file(path, frame(num_rows, seed=i), row_group_rows=row_group_rows)
    return paths


def write_file(path: Path, rows: pd.DataFrame | pa.Table, *, row_group_rows: int = 50) -> None:
    """One Parquet file."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pandas(rows, preserve_index=False)
    pq.write_table(table, path, row_group_size=row_group_rows)


def make_settings(home: Path, registry: Registry, **changes: object) -> BatchSettings:
    """`input` and `output` below the home, units of two row groups, batches that cross row groups."""
    values: dict[str, object] = {
        "model": "multiclass",
        "registry": registry.uri,
        "input": str(home / "input"),
        "output": str(home / "output"),
        "keep": ["id"],
        "unit_rows": 100,
        "batch_rows": 40,
        "in_process_s": 0,
    }
    return BatchSettings.model_validate(values | changes)


def run(
    settings: BatchSettings,
    *,
    open_executor: Callable[[], contextlib.AbstractContextManager[Execute]] = inline_executor,
    on_step: Callable[[str], None] = lambda step: None,
    output: io.StringIO | None = None,
) -> Outcome:
    """A whole job, its output thrown away unless asked for."""
    console = Console(file=output or io.StringIO(), width=200)
    job = Job(settings, open_executor=lambda seconds: open_executor(), console=console, on_step=on_step)
    return job.run(job.check())


def content(folder: Path) -> dict[str, str]:
    """sha256 of every file below a published run, but for the manifest, which tells the time."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }
