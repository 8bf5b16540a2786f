"""Reads Parquet: the footers before a run, a unit's rows in it."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from batch.files import Location
from batch.plan import InputFile, Unit
from zaphod.errors import BatchError, ConfigError

_FOOTER_THREADS = 8
_SUFFIXES = (".parquet", ".pq")

# What Arrow raises for bytes that are not what they should be, and for a disk that fails.
_READ_ERRORS = (pa.ArrowException, OSError)


class CorruptFileError(Exception):
    """The bytes of an input file are not what its format says. Never leaves this arm."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Inspected:
    """A file and the columns it has; None where it cannot be read."""

    file: InputFile
    schema: pa.Schema | None


def list_files(source: Location) -> list[pafs.FileInfo]:
    """The input's files, by path; hidden ones and those that start with `_` are left out, as readers do.

    Raises: ConfigError when there are none.
    """
    info = source.filesystem.get_file_info(source.path)
    if info.type == pafs.FileType.File:
        return [info]
    if info.type == pafs.FileType.NotFound:
        raise ConfigError(f"Cannot read the input {source.uri}: there is no such folder or file. Give an existing one.")
    selector = pafs.FileSelector(source.path, recursive=True)
    files = [
        entry
        for entry in source.filesystem.get_file_info(selector)
        if entry.type == pafs.FileType.File
        and entry.path.endswith(_SUFFIXES)
        and not any(part.startswith((".", "_")) for part in relative(source, entry.path).split("/"))
    ]
    if not files:
        raise ConfigError(f"Cannot read the input {source.uri}: no {' or '.join(_SUFFIXES)} file is in it.")
    return sorted(files, key=lambda entry: entry.path)


def relative(source: Location, path: str) -> str:
    """The path below the input; the file's name where the input is a file."""
    return path.removeprefix(f"{source.path}/") if path != source.path else path.rsplit("/", 1)[-1]


def inspect(source: Location, files: Sequence[pafs.FileInfo]) -> list[Inspected]:
    """Reads every footer, several at a time. A file that cannot be read comes back with its problem."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=_FOOTER_THREADS) as pool:
        return list(pool.map(lambda info: _inspect(source, info), files))


def read(source: Location, unit: Unit, *, columns: Sequence[str], batch_rows: int) -> Iterator[pa.Table]:
    """The unit's rows in order, as tables of at most `batch_rows` rows with those of the columns that are there.

    Raises: CorruptFileError; BatchError when the file is not the one that was planned.
    """
    path = source.path if source.path.rsplit("/", 1)[-1] == unit.path else source.child(unit.path)
    _check_unchanged(source, unit, path)
    if unit.problem is not None:
        raise CorruptFileError(unit.problem)
    try:
        with source.filesystem.open_input_file(path) as opened:
            file = pq.ParquetFile(opened, pre_buffer=not source.is_local)
            groups = list(range(unit.first_chunk, unit.first_chunk + unit.num_chunks))
            present = [name for name in columns if name in file.schema_arrow.names]
            left = unit.num_rows
            for batch in file.iter_batches(batch_rows, row_groups=groups, columns=present, use_threads=False):
                yield pa.Table.from_batches([batch]).slice(0, left)
                left -= batch.num_rows
                if left <= 0:
                    return
    except _READ_ERRORS as error:
        raise CorruptFileError(_describe(unit.path, error)) from error


def _inspect(source: Location, info: pafs.FileInfo) -> Inspected:
    path = relative(source, info.path)
    size, mtime = info.size, info.mtime_ns
    try:
        with source.filesystem.open_input_file(info.path) as opened:
            footer = pq.ParquetFile(opened)
            rows = tuple(footer.metadata.row_group(i).num_rows for i in range(footer.metadata.num_row_groups))
            return Inspected(InputFile(path, size, mtime, rows), footer.schema_arrow)
    except _READ_ERRORS as error:
        return Inspected(InputFile(path, size, mtime, (), problem=_describe(path, error)), None)


def _check_unchanged(source: Location, unit: Unit, path: str) -> None:
    info = source.filesystem.get_file_info(path)
    if (info.size, info.mtime_ns) != (unit.size_bytes, unit.mtime_ns):
        raise BatchError(
            f"Cannot score {unit.path}: it was changed or removed while the job ran. Run the job again on files "
            "that stay."
        )


def _describe(path: str, error: Exception) -> str:
    reason = str(error).split("\n", 1)[0].rstrip(".")[:200]
    return f"Cannot read {path}: {reason}. Restore the file, or set on_corrupt: reject."
