"""Parquet: rows and types stand in the footer, a unit is some of the row groups."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batch.plan import Unit
from batch.rows import Batch, Wanted

# Bytes a value, before compression, of a column that is a dictionary throughout: strings alone have four and more.
_REPEATING_BYTES = 2


def inspect(opened: pa.NativeFile) -> tuple[tuple[int, ...], pa.Schema]:
    """Rows of each row group, and the columns."""
    footer = pq.ParquetFile(opened)
    metadata = footer.metadata
    return tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)), footer.schema_arrow


def read(opened: pa.NativeFile, unit: Unit, wanted: Wanted, *, batch_rows: int, pre_buffer: bool) -> Iterator[Batch]:
    """The unit's rows in order, with those of the wanted columns that are there.

    pre_buffer: fetches whole row groups at once, for storage that answers slowly.
    """
    metadata = pq.read_metadata(opened)
    groups = list(range(unit.first_chunk, unit.first_chunk + unit.num_chunks))
    strings = {field.name for field in wanted.schema.string_fields} - set(wanted.kept.names)
    encoded = _repeating(metadata, groups, strings) if _are_large(metadata, groups, batch_rows) else set()
    file = pq.ParquetFile(opened, metadata=metadata, read_dictionary=list(encoded), pre_buffer=pre_buffer)
    present = [name for name in wanted.names if name in file.schema_arrow.names]
    row = unit.first_row
    for batch in file.iter_batches(batch_rows, row_groups=groups, columns=present, use_threads=False):
        yield Batch(table=pa.Table.from_batches([batch]), rows=np.arange(row, row + batch.num_rows, dtype=np.int64))
        row += batch.num_rows


def _are_large(metadata: pq.FileMetaData, groups: Sequence[int], batch_rows: int) -> bool:
    """With dictionaries a batch ends where its row group does: small ones would make small batches."""
    return all(metadata.row_group(group).num_rows >= batch_rows for group in groups[:-1])


def _repeating(metadata: pq.FileMetaData, groups: Sequence[int], names: Collection[str]) -> set[str]:
    """Of some columns of strings those that the row groups hold as numbers of a few strings, and are read fastest so.

    By their size: the format does not say how much of a column had no place in its dictionary.
    """
    present: set[str] = set()
    large: set[str] = set()
    for group in groups:
        chunks = metadata.row_group(group)
        for position in range(chunks.num_columns):
            chunk = chunks.column(position)
            present.add(chunk.path_in_schema)
            if chunk.total_uncompressed_size > _REPEATING_BYTES * chunk.num_values:
                large.add(chunk.path_in_schema)
    return (present & set(names)) - large
