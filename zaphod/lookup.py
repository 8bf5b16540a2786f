"""Finds the newest published prediction of an entity in the runs of the batch arm.

Nothing is indexed: row groups whose least and largest key leave the entity out are skipped, of the others the column of
keys is read. Keys that grow from file to file are found at once; keys in no order cost a look at all of them.
"""

from __future__ import annotations

import datetime
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zaphod.errors import ConfigError, InvalidInputError, PredictionNotFoundError, StorageUnavailableError
from zaphod.location import Location, locate, partitions_of
from zaphod.storage import Storage, open_storage

MAX_ID_CHARS = 512
MAX_RUNS = 20

_PREDICTIONS = "predictions/"
_INT64 = range(-(2**63), 2**63)


class PublishedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run as its manifest tells. keys: its kept columns. published: ISO 8601, UTC."""

    run_id: str
    model: str
    version: int
    rows: int
    published: str
    keys: tuple[str, ...]
    files: tuple[str, ...]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A prediction. row: kept columns and outputs by name; times as ISO 8601."""

    run_id: str
    model: str
    version: int
    published: str
    row: dict[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class _Group:
    """A row group and its least and largest key, None where the file does not say."""

    path: str
    number: int
    lowest: str | int | None
    highest: str | int | None


class PublishedPredictions:
    """The runs below one output folder. Safe to share between threads; what it remembers is about immutable runs."""

    def __init__(self, location: Location, storage: Storage, *, key: str | None) -> None:
        self._location = location
        self._storage = storage
        self._key = key
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, PublishedRun | None] = OrderedDict()
        self._groups: OrderedDict[str, tuple[_Group, ...]] = OrderedDict()

    @classmethod
    def open(cls, uri: str, *, key: str | None = None) -> Self:
        """Touches nothing. key: the column that names entities; without one, the first kept column of the run.

        Raises: ConfigError when the address is not understood.
        """
        location = locate(uri)
        return cls(location, open_storage(location.uri), key=key)

    def runs(self) -> list[PublishedRun]:
        """Whole runs, the current one first, then the newest. Samples are none."""
        known = [run for name in self._storage.names("runs") if (run := self._run(name)) is not None]
        current = self._current()
        return sorted(known, key=lambda run: (run.run_id == current, run.published), reverse=True)

    def newest(self, entity: str, *, covers: Callable[[str], bool] | None = None) -> Found:
        """Of the current run, else of the newest of `MAX_RUNS` that has the entity; its last row there.

        covers: whether a model's runs may be seen; all of them without it.

        Raises: PredictionNotFoundError; InvalidInputError for an id that can be none; ConfigError without a key;
            StorageUnavailableError.
        """
        if not 0 < len(entity) <= MAX_ID_CHARS or "\0" in entity:
            raise InvalidInputError(f"Expected an id of 1 to {MAX_ID_CHARS} characters, got another - at `id`")
        seen = [run for run in self.runs() if covers is None or covers(run.model)]
        for run in seen[:MAX_RUNS]:
            try:
                row = self._find(run, entity)
            except (OSError, pa.ArrowException) as error:
                # A run that somebody has just removed, or storage that fails. Arrow's message may name places.
                raise StorageUnavailableError(
                    f"Cannot read the predictions of {run.run_id} at the moment. Ask again later."
                ) from error
            if row is not None:
                return Found(
                    run_id=run.run_id, model=run.model, version=run.version, published=run.published, row=_plain(row)
                )
        raise PredictionNotFoundError("Cannot find a prediction of this id: no published run has one. Check the id.")

    def _current(self) -> str | None:
        try:
            return msgspec.json.decode(self._storage.read("current.json"), type=_Pointer).run_id
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    def _run(self, name: str) -> PublishedRun | None:
        """None for what is no run, not published yet, or a sample."""
        with self._lock:
            if name in self._runs:
                return self._runs[name]
        if not self._storage.exists(f"runs/{name}/_SUCCESS"):
            return None
        try:
            manifest = msgspec.json.decode(self._storage.read(f"runs/{name}/manifest.json"), type=_Manifest)
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        run = None
        if manifest.settings.sample is None:
            run = PublishedRun(
                run_id=manifest.run_id,
                model=manifest.model.name,
                version=manifest.model.version,
                rows=manifest.rows_out,
                published=manifest.timing.finished,
                keys=manifest.settings.keep,
                files=tuple(file.path for file in manifest.files if file.path.startswith(_PREDICTIONS)),
            )
        with self._lock:
            self._runs[name] = run
        return run

    def _find(self, run: PublishedRun, entity: str) -> pa.Table | None:
        key = self._key or (run.keys[0] if run.keys else None)
        if key is None:
            raise ConfigError(f"Cannot look up in {run.run_id}: it keeps no column. Name one in `keep`.")
        for group in reversed(self._groups_of(run, key)):
            value = entity if isinstance(group.lowest, str | None) else _integer(entity)
            if value is None or not _may_hold(group, value):
                continue
            row = self._read(run, group, key, entity)
            if row is not None:
                return row
        return None

    def _groups_of(self, run: PublishedRun, key: str) -> tuple[_Group, ...]:
        with self._lock:
            if run.run_id in self._groups:
                self._groups.move_to_end(run.run_id)
                return self._groups[run.run_id]
        groups = tuple(group for path in run.files for group in self._inspect(run, path, key))
        with self._lock:
            self._groups[run.run_id] = groups
            while len(self._groups) > MAX_RUNS:
                self._groups.popitem(last=False)
        return groups

    def _inspect(self, run: PublishedRun, path: str, key: str) -> Iterator[_Group]:
        with self._location.filesystem.open_input_file(self._location.child(f"runs/{run.run_id}/{path}")) as opened:
            footer = pq.read_metadata(opened)
        names = footer.schema.to_arrow_schema().names
        if key not in names:
            raise ConfigError(f"Cannot look up by `{key}` in {run.run_id}: the predictions have no such column.")
        place = next(i for i in range(footer.num_columns) if footer.schema.column(i).path == key)
        for number in range(footer.num_row_groups):
            statistics = footer.row_group(number).column(place).statistics
            known = statistics is not None and statistics.has_min_max
            lowest, highest = (statistics.min, statistics.max) if known else (None, None)
            if not isinstance(lowest, str | int | None):
                raise ConfigError(f"Cannot look up by `{key}` in {run.run_id}: it is neither text nor an integer.")
            yield _Group(path=path, number=number, lowest=lowest, highest=highest)

    def _read(self, run: PublishedRun, group: _Group, key: str, entity: str) -> pa.Table | None:
        """The last row of the entity in the row group."""
        path = self._location.child(f"runs/{run.run_id}/{group.path}")
        with self._location.filesystem.open_input_file(path) as opened:
            file = pq.ParquetFile(opened)
            column = file.read_row_group(group.number, columns=[key], use_threads=False).column(0)
            wanted = _scalar(entity, column.type)
            if wanted is None:
                return None
            places = pc.indices_nonzero(pc.equal(column, wanted))
            if not len(places):
                return None
            row = file.read_row_group(group.number, use_threads=False).slice(places[-1].as_py(), 1)
        for name, text in partitions_of(group.path).items():
            row = row.append_column(name, pa.array([text], pa.string()))
        return row


class _Model(msgspec.Struct):
    name: str
    version: int


class _Settings(msgspec.Struct):
    keep: tuple[str, ...] = ()
    sample: int | None = None


class _File(msgspec.Struct):
    path: str


class _Timing(msgspec.Struct):
    finished: str


class _Manifest(msgspec.Struct):
    """What is read of manifest.json."""

    run_id: str
    model: _Model
    settings: _Settings
    rows_out: int
    files: tuple[_File, ...]
    timing: _Timing


class _Pointer(msgspec.Struct):
    """What is read of current.json."""

    run_id: str


def _may_hold(group: _Group, value: str | int) -> bool:
    if group.lowest is None or group.highest is None:
        return True
    return group.lowest <= value <= group.highest  # type: ignore[operator]  # both are of the column's type


def _integer(text: str) -> int | None:
    """A plain decimal number that fits 64 bits."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        return None
    return int(text) if int(text) in _INT64 else None


def _scalar(text: str, kind: pa.DataType) -> pa.Scalar | None:
    """The id in the column's type; None when it can be none of its values."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.scalar(text, kind)
    number = _integer(text)
    try:
        return None if number is None else pa.scalar(number, kind)
    except (pa.ArrowInvalid, OverflowError):
        return None


def _plain(row: pa.Table) -> dict[str, str | int | float | bool | None]:
    values: dict[str, str | int | float | bool | None] = {}
    for name, column in zip(row.column_names, row.columns, strict=True):
        value = column[0].as_py() if not pa.types.is_timestamp(column.type) else _time(column[0])
        values[name] = value if isinstance(value, str | int | float | bool | None) else str(value)
    return values


def _time(value: pa.TimestampScalar) -> str | None:
    """To the microsecond: Python's times have no more."""
    if not value.is_valid:
        return None
    found = value.cast(pa.timestamp("us", value.type.tz), safe=False).as_py()
    assert isinstance(found, datetime.datetime)
    return found.isoformat()
