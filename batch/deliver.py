"""Brings a published run to where its readers look: a Delta table, a SQL database. Each run arrives once; with a key,
once more when it is current again and another has come since.

The run is on disk and whole before this begins: a delivery that dies is done again by the next start of the same job.
That a run has arrived is written in the destination itself, in the transaction that brings its rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from batch.commit import OutputFile
from batch.settings import BatchSettings
from zaphod.errors import BatchError, ConfigError
from zaphod.location import Location, partitions_of

RUN_ID = "run_id"
_BATCH_ROWS = 65_536
_PREDICTIONS = "predictions/"


@dataclass(frozen=True, slots=True)
class Load:
    """A published run's predictions, and what identifies a row (empty: nothing does, rows are added).

    schema: the kept columns, the outputs, and `run_id`. files: of the predictions, below `folder`.
    """

    run_id: str
    keys: tuple[str, ...]
    schema: pa.Schema
    folder: Location
    files: tuple[str, ...]

    def reader(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """Reads the files as it goes, in their order; memory does not grow with rows."""
        wanted = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        return pa.RecordBatchReader.from_batches(wanted, self._batches(wanted))

    def _batches(self, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
        for path in self.files:
            constant = {**partitions_of(path), RUN_ID: self.run_id}
            with self.folder.filesystem.open_input_file(self.folder.child(path)) as opened:
                names = [name for name in wanted.names if name not in constant]
                for batch in pq.ParquetFile(opened).iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
                    yield pa.record_batch([_column(batch, field, constant) for field in wanted], schema=wanted)


class Destination(Protocol):
    """Where runs go."""

    name: str

    def deliver(self, load: Load) -> bool:
        """All of it or nothing; False when the run has arrived before and, if rows have a key, no other has since.

        Raises: BatchError, ConfigError.
        """
        ...


def destinations(settings: BatchSettings) -> list[Destination]:
    """Those that the settings name. Raises: ConfigError when what one needs is not installed."""
    found: list[Destination] = []
    if settings.delta is not None:
        from batch.delta import DeltaDestination

        found.append(DeltaDestination.open(settings.delta))
    if settings.sql is not None:
        from batch.sql import SqlDestination

        found.append(SqlDestination.open(settings.sql.get_secret_value(), table=settings.sql_table))
    return found


def load_of(
    folder: Location, *, run_id: str, files: Sequence[OutputFile], kept: pa.Schema, keys: tuple[str, ...]
) -> Load | None:
    """Of a published run; None when no row of it was scored.

    folder: the run's. kept: columns that were carried along, for the types of those that became folders. Nanoseconds
    become microseconds: neither Delta nor databases know them.
    """
    paths = tuple(file.path for file in files if file.path.startswith(_PREDICTIONS))
    if not paths:
        return None
    with folder.filesystem.open_input_file(folder.child(paths[0])) as opened:
        written = pq.read_schema(opened)
    fields = [kept.field(name) for name in partitions_of(paths[0])] + list(written)
    return Load(
        run_id=run_id,
        keys=keys,
        schema=pa.schema([*map(_plain, fields), pa.field(RUN_ID, pa.string())]),
        folder=folder,
        files=paths,
    )


def check_keys(load: Load) -> None:
    """Raises: BatchError when a key is null or comes twice: which of the rows is to stay, nobody has said."""
    if not load.keys:
        return
    import duckdb

    names = ", ".join(quoted(key) for key in load.keys)
    some_null = " OR ".join(f"{quoted(key)} IS NULL" for key in load.keys)
    # It puts on disk what does not fit into memory.
    with duckdb.connect() as connection:
        connection.register("keys", load.reader(load.keys))
        wrong = connection.execute(
            f"SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM keys GROUP BY {names} "  # noqa: S608  # quoted
            f"HAVING count(*) > 1 OR {some_null})",
        ).fetchone()
    if wrong is not None and wrong[0]:
        raise BatchError(
            f"Cannot deliver {load.run_id}: {int(wrong[0]):,} rows have no {', '.join(load.keys)} of their own. The "
            "run itself is published. Name columns in upsert_by that tell rows apart."
        )


def missing_package(package: str, *, needed_for: str) -> ConfigError:
    """In the words of a person who can do something about it."""
    return ConfigError(f"Cannot deliver to {needed_for}: the package {package} is not installed. Install it with pip.")


def undelivered(load: Load, name: str, error: Exception) -> BatchError:
    """A destination that failed. Its first line only: further ones may quote rows."""
    reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return BatchError(
        f"Cannot deliver {load.run_id} to {name}: {reason}. The run itself is published; the same command delivers it."
    )


def quoted(name: str) -> str:
    """An identifier as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _column(batch: pa.RecordBatch, field: pa.Field, constant: dict[str, str | None]) -> pa.Array:
    if field.name in constant:
        return pa.repeat(pa.scalar(constant[field.name], pa.string()).cast(field.type), batch.num_rows)
    return batch.column(field.name).cast(field.type, safe=False)


def _plain(field: pa.Field) -> pa.Field:
    """In a type that every destination knows."""
    if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
        return pa.field(field.name, pa.timestamp("us", field.type.tz))
    if pa.types.is_large_string(field.type) or pa.types.is_string_view(field.type):
        return pa.field(field.name, pa.string())
    if pa.types.is_dictionary(field.type):
        return pa.field(field.name, field.type.value_type)
    return pa.field(field.name, field.type)
