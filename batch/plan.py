"""Which files there are and how they are cut into units: values in, a plan out."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from batch.settings import BatchSettings

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_STEM_CHARS = 60

# Part of every run's id: raise it when the same inputs and settings would give other bytes.
_LAYOUT = 4


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the input. path: below the input folder, `/` between parts.

    chunk_rows: rows of each row group; None where nobody knows before the file is read, which is one unit then.
    problem: why the file cannot be read, if so; it has no chunks then.
    """

    path: str
    size_bytes: int
    mtime_ns: int
    chunk_rows: tuple[int, ...] | None
    problem: str | None = None

    @property
    def num_rows(self) -> int | None:
        return None if self.chunk_rows is None else sum(self.chunk_rows)


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """What is scored, retried and skipped as a whole: some consecutive row groups of a file.

    first_row: position in the file of the unit's first row. num_rows: how many of its rows to score, if that is known;
    max_rows: the limit where it is not.
    """

    id: str
    path: str
    size_bytes: int
    mtime_ns: int
    first_chunk: int
    num_chunks: int
    first_row: int
    num_rows: int | None
    max_rows: int | None = None
    problem: str | None = None

    def call(self, recipe: str) -> str:
        """By which the prediction log knows the unit. With a row's position in the file it is the prediction's id.

        The same in every run that gives the same result for the file as it is: results that are carried over keep it.
        """
        return f"{self.id}.{_hash([recipe, self.path, self.size_bytes, self.mtime_ns])}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole job before it runs. recipe: a hash of all that decides a unit's result, but for its file."""

    run_id: str
    recipe: str
    files: tuple[InputFile, ...]
    units: tuple[Unit, ...]

    @property
    def num_rows(self) -> int | None:
        """None where a file does not say."""
        rows = [unit.num_rows for unit in self.units]
        return None if None in rows else sum(row for row in rows if row is not None)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)


def make_plan(
    files: Sequence[InputFile], settings: BatchSettings, *, model: str, bundle_sha256: Sequence[str], kept: bytes = b""
) -> Plan:
    """The same files, model and settings give the same plan with the same run id, on any machine.

    model: `name@version` of the champion. bundle_sha256: of all versions that score. kept: the kept columns' names and
    types, serialized.
    """
    ordered = tuple(sorted(files, key=lambda file: file.path))
    units = tuple(unit for file in ordered for unit in cut(file, unit_rows=settings.unit_rows))
    if settings.sample is not None:
        units = tuple(head(units, num_rows=settings.sample))
    # Limits, places and numbers of tasks are left out: they do not change a byte.
    decisive: list[object] = [_LAYOUT, model, bundle_sha256, kept, settings.columns, settings.partition_by]
    decisive += [settings.truth, settings.prediction_id]
    decisive += [settings.csv_delimiter, settings.csv_null_values, settings.unit_rows, settings.batch_rows]
    decisive += [settings.keep, settings.file_rows]
    recipe = _hash(decisive)
    identity: list[object] = [recipe, settings.sample, settings.on_corrupt]
    identity += [[file.path, file.size_bytes, file.mtime_ns] for file in ordered]
    return Plan(run_id=f"{model.replace('@', '-v')}-{_hash(identity)}", recipe=recipe, files=ordered, units=units)


def cut(file: InputFile, *, unit_rows: int) -> Iterator[Unit]:
    """Consecutive row groups together up to the limit; a larger row group stays whole."""
    name = _unit_name(file.path)
    if file.chunk_rows is None:
        yield Unit(
            id=f"{name}-00000",
            path=file.path,
            size_bytes=file.size_bytes,
            mtime_ns=file.mtime_ns,
            first_chunk=0,
            num_chunks=0,
            first_row=0,
            num_rows=None,
        )
        return
    sizes = file.chunk_rows

    def unit(first_chunk: int, end_chunk: int, first_row: int) -> Unit:
        return Unit(
            id=f"{name}-{first_chunk:05d}",
            path=file.path,
            size_bytes=file.size_bytes,
            mtime_ns=file.mtime_ns,
            first_chunk=first_chunk,
            num_chunks=end_chunk - first_chunk,
            first_row=first_row,
            num_rows=sum(sizes[first_chunk:end_chunk]),
            problem=file.problem,
        )

    first_chunk = first_row = rows = 0
    for chunk, chunk_rows in enumerate(sizes):
        if rows and rows + chunk_rows > unit_rows:
            yield unit(first_chunk, chunk, first_row)
            first_chunk, first_row, rows = chunk, first_row + rows, 0
        rows += chunk_rows
    if rows or file.problem is not None:
        yield unit(first_chunk, len(sizes), first_row)


def head(units: Sequence[Unit], *, num_rows: int) -> Iterator[Unit]:
    """The first units, the last of them shortened, with this many rows in all. One that may have more ends them."""
    left = num_rows
    for unit in units:
        if left <= 0:
            return
        if unit.num_rows is None:
            yield msgspec.structs.replace(unit, max_rows=left)
            return
        yield msgspec.structs.replace(unit, num_rows=min(unit.num_rows, left))
        left -= unit.num_rows


def _hash(values: list[object]) -> str:
    return hashlib.blake2b(msgspec.json.encode(values), digest_size=8).hexdigest()


def _unit_name(path: str) -> str:
    """Readable, and different for different paths: files of the same name may stand in several folders."""
    stem = _UNSAFE.sub("-", path.rsplit("/", 1)[-1].split(".", 1)[0])[:_MAX_STEM_CHARS].strip("-_")
    return f"{stem or 'part'}-{hashlib.blake2b(path.encode(), digest_size=4).hexdigest()}"
