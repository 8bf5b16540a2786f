"""The input's files: which there are, what is in them, and their rows, whatever the format."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from batch import delimited, jsonlines, parquet
from batch.plan import InputFile, Unit
from batch.rows import Batch, CorruptFileError, Wanted
from zaphod.errors import BatchError, ConfigError, SchemaMismatchError
from zaphod.location import Location, partitions_of

_THREADS = 8

_FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}

# What Arrow raises for bytes that are not what they should be, and for a disk that fails.
_READ_ERRORS = (pa.ArrowException, OSError, UnicodeDecodeError)


@dataclass(frozen=True, slots=True)
class Inspected:
    """A file and the columns it has; None where it cannot be read."""

    file: InputFile
    schema: pa.Schema | None


def format_of(path: str) -> str | None:
    """By the name's ending: parquet, csv or jsonl, the last two also as `.gz`."""
    plain = path.removesuffix(".gz")
    found = next((kind for suffix, kind in _FORMATS.items() if plain.endswith(suffix)), None)
    return None if found == "parquet" and plain != path else found


def list_files(source: Location) -> tuple[Location, list[pafs.FileInfo]]:
    """The input's folder and its files, by path; hidden ones and those that start with `_` are left out, as readers do.

    Raises: ConfigError when there are none.
    """
    endings = ", ".join(_FORMATS)
    info = source.filesystem.get_file_info(source.path)
    if info.type == pafs.FileType.NotFound:
        raise ConfigError(f"Cannot read the input {source.uri}: there is no such folder or file. Give an existing one.")
    if info.type == pafs.FileType.File:
        if format_of(info.path) is None:
            raise ConfigError(f"Cannot read the input {source.uri}: its name ends in none of {endings}. Rename it.")
        folder = dataclasses.replace(source, uri=_parent(source.uri), path=_parent(source.path))
        return folder, [info]
    files = [
        entry
        for entry in source.filesystem.get_file_info(pafs.FileSelector(source.path, recursive=True))
        if entry.type == pafs.FileType.File
        and format_of(entry.path) is not None
        and not any(part.startswith((".", "_")) for part in relative(source, entry.path).split("/"))
    ]
    if not files:
        raise ConfigError(f"Cannot read the input {source.uri}: no file in it ends in {endings}. Name another folder.")
    return source, sorted(files, key=lambda entry: entry.path)


def relative(source: Location, path: str) -> str:
    """The path below the input."""
    return path.removeprefix(f"{source.path}/")


def inspect(
    source: Location, files: Sequence[pafs.FileInfo], wanted: Wanted, *, keep: Sequence[str]
) -> list[Inspected]:
    """Reads every footer or header, several at a time. A file that cannot be read comes back with its problem."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=_THREADS) as pool:
        return list(pool.map(lambda info: _inspect(source, info, wanted, keep=keep), files))


def read(source: Location, unit: Unit, wanted: Wanted, *, batch_rows: int) -> Iterator[Batch]:
    """The unit's rows in order, at most `batch_rows` at once, with those of the wanted columns that are there.

    Raises: CorruptFileError; BatchError when the file is not the one that was planned.
    """
    path = source.child(unit.path)
    _check_unchanged(source, unit, path)
    if unit.problem is not None:
        raise CorruptFileError(unit.problem)
    partitions = {name: value for name, value in partitions_of(unit.path).items() if name in wanted.names}
    left = unit.num_rows if unit.num_rows is not None else unit.max_rows
    try:
        for batch in _read(source, unit, path, wanted, batch_rows=batch_rows):
            whole = _add_partitions(batch, partitions, wanted, unit.path) if partitions else batch
            if left is None or whole.num_rows < left:
                yield whole
                left = left if left is None else left - whole.num_rows
                continue
            yield _head(whole, left)
            return
    except MemoryError as error:
        # Arrow's own is among what it raises for broken bytes, and the file is as good as it was.
        raise BatchError(not_enough_memory(unit)) from error
    except _READ_ERRORS as error:
        raise CorruptFileError(_describe(unit.path, error)) from error


def not_enough_memory(unit: Unit) -> str:
    """What to say of a unit that was refused memory."""
    return f"Cannot score {unit.path}: not enough memory. Lower batch_rows or max_tasks, or give the job more."


def open_text(source: Location, path: str) -> pa.NativeFile:
    """A file of lines, uncompressed. path: as in the plan."""
    return _open_text(source, source.child(path))


def _read(source: Location, unit: Unit, path: str, wanted: Wanted, *, batch_rows: int) -> Iterator[Batch]:
    match format_of(unit.path):
        case "csv":
            yield from delimited.read(functools.partial(_open_text, source, path), wanted, batch_rows=batch_rows)
        case "jsonl":
            yield from jsonlines.read(functools.partial(_open_text, source, path), wanted, batch_rows=batch_rows)
        case _:
            with source.filesystem.open_input_file(path) as opened:
                yield from parquet.read(opened, unit, wanted, batch_rows=batch_rows, pre_buffer=not source.is_local)


def _parent(path: str) -> str:
    return path.rsplit("/", 1)[0]


def _open_text(source: Location, path: str) -> pa.NativeFile:
    return source.filesystem.open_input_stream(path, compression="gzip" if path.endswith(".gz") else None)


def _inspect(source: Location, info: pafs.FileInfo, wanted: Wanted, *, keep: Sequence[str]) -> Inspected:
    path = relative(source, info.path)
    open_file: Callable[[], pa.NativeFile] = functools.partial(_open_text, source, info.path)
    chunks: tuple[int, ...] | None = None
    try:
        match format_of(path):
            case "csv":
                schema = delimited.inspect(open_file, wanted)
            case "jsonl":
                schema = jsonlines.inspect(open_file, wanted, keep=keep)
            case _:
                with source.filesystem.open_input_file(info.path) as opened:
                    chunks, schema = parquet.inspect(opened)
    except _READ_ERRORS as error:
        return Inspected(InputFile(path, info.size, info.mtime_ns, (), problem=_describe(path, error)), None)
    for name in partitions_of(path):
        if name in wanted.names and name not in schema.names:
            schema = schema.append(pa.field(name, wanted.type_of(name)))
    return Inspected(InputFile(path, info.size, info.mtime_ns, chunks), schema)


def _add_partitions(batch: Batch, partitions: Mapping[str, str | None], wanted: Wanted, path: str) -> Batch:
    """Raises: SchemaMismatchError when a folder's name does not hold what the model's field needs."""
    table = batch.table
    for name, value in partitions.items():
        if name in table.column_names:
            continue
        kind = wanted.type_of(name)
        try:
            typed = pa.scalar(value, pa.string()).cast(kind)
        except pa.ArrowInvalid as error:
            raise SchemaMismatchError(f"Expected `{kind}` in the folder's name, got text - at {path}") from error
        table = table.append_column(name, pa.repeat(typed, table.num_rows))
    return Batch(table=table, rows=batch.rows, bad=batch.bad, lost=batch.lost)


def _head(batch: Batch, num_rows: int) -> Batch:
    table = batch.table.slice(0, num_rows)
    return Batch(
        table=table,
        rows=batch.rows[:num_rows],
        bad={row: reject for row, reject in batch.bad.items() if row < num_rows},
        lost=batch.lost[: num_rows - table.num_rows],
    )


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
