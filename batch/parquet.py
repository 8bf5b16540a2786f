"""Parquet: rows and types stand in the footer, a unit is some of the row groups."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch.plan import Unit
from batch.rows import Batch, Wanted


def inspect(opened: pa.NativeFile) -> tuple[tuple[int, ...], pa.Schema]:
    """Rows of each row group, and the columns."""
    footer = pq.ParquetFile(opened)
    metadata = footer.metadata
    return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)), footer.schema_arrow


def read(opened: pa.NativeFile, unit: Unit, wanted: Wanted, *, batch_rows: int, pre_buffer: bool) -> Iterator[Batch]:
    """The unit's rows in order, with those of the wanted columns that are there.

    pre_buffer: fetches whole row groups at once, for storage that answers slowly.
    """
    file = pq.ParquetFile(opened, pre_buffer=pre_buffer)
    groups = list(range(unit.first_chunk, unit.first_chunk + unit.num_chunks))
    present = [name for name in wanted.names if name in file.schema_arrow.names]
    row = unit.first_row
    for batch in file.iter_batches(batch_rows, row_groups=groups, columns=present, use_threads=False):
        yield Batch(table=pa.Table.from_batches([batch]), rows=np.arange(row, row + batch.num_rows, dtype=np.int64))
        row += batch.num_rows
