"""Writes the files of a unit: Parquet, whose bytes depend on the rows and nothing else."""

from __future__ import annotations

import contextlib
import functools
import urllib.parse
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch.commit import OutputFile, Staging
from batch.files import HashingSink, write_whole
from zaphod.location import HIVE_NULL

# What is written at once, whichever comes first: a reader wants row groups larger than a batch, and wide rows must not
# gather in memory.
_ROW_GROUP_ROWS = 131_072
_ROW_GROUP_BYTES = 64 * 1024 * 1024
_BUFFER_BYTES = 1024 * 1024


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
            # Parquet writes its pages in small pieces, and each would come back into Python to be hashed.
            buffered = stack.enter_context(pa.output_stream(self._sink, buffer_size=_BUFFER_BYTES))
            self._writer = stack.enter_context(_open_writer(buffered, table))
            stack.callback(self._flush)
        self._waiting.append(table)
        self.num_rows += table.num_rows
        rows = sum(waiting.num_rows for waiting in self._waiting)
        if rows >= _ROW_GROUP_ROWS or sum(waiting.nbytes for waiting in self._waiting) >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._waiting and self._writer is not None:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()

    def written(self) -> OutputFile:
        """After the stack has closed."""
        assert self._sink is not None
        return OutputFile(path=self._path, sha256=self._sink.sha256, bytes=self._sink.num_bytes, rows=self.num_rows)


class _FolderWriter:
    """A unit's files in one folder: one, or as many as `file_rows` makes of its rows."""

    def __init__(self, staging: Staging, path: str, *, file_rows: int | None) -> None:
        self._staging = staging
        self._path = path
        self._file_rows = file_rows
        self._parts: list[PartWriter] = []
        self._open = contextlib.ExitStack()

    @property
    def num_rows(self) -> int:
        return sum(part.num_rows for part in self._parts)

    def write(self, table: pa.Table, *, stack: contextlib.ExitStack) -> None:
        while table.num_rows:
            room = self._room(table)
            if room == 0:
                # One that is full need not stay in memory. Without a receipt it is no part of the run.
                self._open.close()
                self._open = stack.enter_context(contextlib.ExitStack())
                self._parts.append(PartWriter(self._staging, self._name()))
                room = self._room(table)
            self._parts[-1].write(table.slice(0, room), stack=self._open)
            table = table.slice(room)

    def written(self) -> list[OutputFile]:
        return [part.written() for part in self._parts]

    def _room(self, table: pa.Table) -> int:
        """How many of the rows the last file still takes."""
        if not self._parts:
            return 0
        left = table.num_rows if self._file_rows is None else self._file_rows - self._parts[-1].num_rows
        return min(left, int(table.num_rows))

    def _name(self) -> str:
        return f"{self._path}.parquet" if self._file_rows is None else f"{self._path}-{len(self._parts):04d}.parquet"


class PartitionedWriter:
    """The files of a unit: in a folder for each combination of values of some columns, or all in one.

    name: of a file, without its ending. file_rows: rows in a file at most. As many writers are open at once as the unit
    has combinations.
    """

    def __init__(
        self, staging: Staging, folder: str, name: str, *, partition_by: Sequence[str], file_rows: int | None
    ) -> None:
        self._staging = staging
        self._folder = folder
        self._name = name
        self._partition_by = list(partition_by)
        self._file_rows = file_rows
        self._writers: dict[str, _FolderWriter] = {}

    @property
    def num_rows(self) -> int:
        return sum(writer.num_rows for writer in self._writers.values())

    def write(self, table: pa.Table, *, stack: contextlib.ExitStack) -> None:
        if not self._partition_by:
            self._writer(self._folder).write(table, stack=stack)
            return
        rest = table.drop_columns(self._partition_by)
        keys = table.select(self._partition_by)
        for values in keys.group_by(self._partition_by).aggregate([]).to_pylist():
            # `==` is never true of nulls.
            masks = [
                pc.is_null(keys[name]) if value is None else pc.fill_null(pc.equal(keys[name], value), fill_value=False)
                for name, value in values.items()
            ]
            folders = [f"{name}={_folder_of(value)}" for name, value in values.items()]
            part = rest.filter(functools.reduce(pc.and_, masks))
            self._writer("/".join([self._folder, *folders])).write(part, stack=stack)

    def written(self) -> tuple[OutputFile, ...]:
        """After the stack has closed."""
        return tuple(file for folder in sorted(self._writers) for file in self._writers[folder].written())

    def _writer(self, folder: str) -> _FolderWriter:
        if folder not in self._writers:
            path = f"{folder}/{self._name}"
            self._writers[folder] = _FolderWriter(self._staging, path, file_rows=self._file_rows)
        return self._writers[folder]


def _folder_of(value: object) -> str:
    return HIVE_NULL if value is None else urllib.parse.quote(str(value), safe="")


def _open_writer(sink: pa.NativeFile, first: pa.Table) -> pq.ParquetWriter:
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
    )
