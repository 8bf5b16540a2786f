"""Writes the files of a unit: Parquet, whose bytes depend on the rows and nothing else."""

from __future__ import annotations

import contextlib

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.commit import OutputFile, Staging
from batch.files import HashingSink, write_whole

# Rows that are written at once: a reader wants row groups larger than a batch.
_ROW_GROUP_ROWS = 131_072


class PartWriter:
    """One Parquet file of a unit: opened by its first rows, in its place when the stack closes.

    The settings of the writer follow from the rows alone, so that the same rows are the same bytes.
    """

    def __init__(self, staging: Staging, path: str) -> None:
        self._staging = staging
        self._path = path
        self._sink: HashingSink | None = None
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self.num_rows = 0

    def write(self, table: pa.Table, *, stack: contextlib.ExitStack) -> None:
        if self._writer is None:
            staging = self._staging
            self._sink = stack.enter_context(write_whole(staging.data, self._path, temporary=staging.temporary))
            self._writer = stack.enter_context(_open_writer(self._sink, table))
            stack.callback(self._flush)
        self._waiting.append(table)
        self.num_rows += table.num_rows
        if sum(waiting.num_rows for waiting in self._waiting) >= _ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting and self._writer is not None:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()

    def written(self) -> OutputFile:
        """After the stack has closed."""
        assert self._sink is not None
        return OutputFile(path=self._path, sha256=self._sink.sha256, bytes=self._sink.num_bytes, rows=self.num_rows)


def _open_writer(sink: HashingSink, first: pa.Table) -> pq.ParquetWriter:
    # A dictionary of values that hardly repeat costs twice the time and is thrown away in the end.
    repeating = [
        name
        for name, column in zip(first.column_names, first.columns, strict=True)
        if not pa.types.is_nested(column.type) and pc.count_distinct(column).as_py() <= first.num_rows // 2
    ]
    return pq.ParquetWriter(
        sink,
        # pandas' notes about the input's columns would be wrong for the output.
        first.schema.remove_metadata(),
        compression="snappy",
        use_dictionary=repeating,
        version="2.6",
        write_page_checksum=True,
    )
