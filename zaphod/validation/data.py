"""The table a model is validated on: Parquet or CSV, read batch by batch, with the hash that names it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from zaphod.errors import ConfigError, InvalidInputError, SchemaMismatchError

_SUFFIXES = (".parquet", ".csv")
_HASH_BLOCK_BYTES = 1 << 20


class DataIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What was read. sha256: of the file; of a folder, of its files' names and hashes in order."""

    path: str
    num_files: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Source:
    """Files of one kind, in the order of their names."""

    path: str
    files: tuple[Path, ...]

    @classmethod
    def open(cls, path: Path) -> Source:
        """One `.parquet` or `.csv` file, or a folder of them. Raises: ConfigError."""
        if path.is_dir():
            found = sorted(entry for entry in path.rglob("*") if entry.suffix in _SUFFIXES and entry.is_file())
            # Tools leave files such as `_metadata` and `.crc` beside the data.
            files = tuple(entry for entry in found if not entry.name.startswith(("_", ".")))
        else:
            files = (path,) if path.is_file() else ()
        if not files:
            raise ConfigError(f"Cannot read {path}: there is no such file, and no folder with Parquet or CSV in it.")
        if any(entry.suffix not in _SUFFIXES for entry in files):
            raise ConfigError(f"Cannot read {path}: its name ends in neither .parquet nor .csv. Convert it to Parquet.")
        return cls(path=str(path), files=files)

    def column_names(self) -> list[str]:
        """Of the first file. Raises: InvalidInputError when it cannot be read."""
        return _names(self.files[0])

    def identity(self) -> DataIdentity:
        """Reads every byte once."""
        digests = [_sha256(entry) for entry in self.files]
        combined = digests[0]
        if len(digests) > 1:
            lines = "".join(f"{digest}  {entry.name}\n" for digest, entry in zip(digests, self.files, strict=True))
            combined = hashlib.sha256(lines.encode()).hexdigest()
        return DataIdentity(
            path=self.path,
            num_files=len(self.files),
            num_bytes=sum(entry.stat().st_size for entry in self.files),
            sha256=combined,
        )

    def batches(
        self, *, batch_rows: int, columns: Sequence[str], types: Mapping[str, pa.DataType], optional: Sequence[str] = ()
    ) -> Iterator[pa.Table]:
        """Tables of at most batch_rows rows with these columns, those `optional` where the file has them.

        types: what a CSV column is read as; Parquet knows its own. An empty CSV cell is a null.

        Raises: SchemaMismatchError when a column is missing; InvalidInputError when a file cannot be read.
        """
        for entry in self.files:
            names = _chosen(entry, columns=columns, optional=optional)
            try:
                if entry.suffix == ".parquet":
                    yield from _parquet_batches(entry, names=names, batch_rows=batch_rows)
                else:
                    yield from _csv_batches(entry, names=names, types=types, batch_rows=batch_rows)
            except (pa.ArrowInvalid, OSError) as error:
                # Arrow's message may quote the data: keep it in the cause.
                raise InvalidInputError(
                    f"Expected {entry.suffix[1:]} that can be read, got another - in {entry}"
                ) from error


def _names(entry: Path) -> list[str]:
    try:
        if entry.suffix == ".parquet":
            names: list[str] = pq.read_schema(entry).names
        else:
            with pacsv.open_csv(entry) as reader:
                names = reader.schema.names
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidInputError(f"Expected {entry.suffix[1:]} that can be read, got another - in {entry}") from error
    return names


def _chosen(entry: Path, *, columns: Sequence[str], optional: Sequence[str]) -> list[str]:
    present = _names(entry)
    missing = [name for name in columns if name not in present]
    if missing:
        raise SchemaMismatchError(
            f"Expected columns {', '.join(f'`{name}`' for name in missing)}, got none - in {entry}"
        )
    return [name for name in dict.fromkeys([*columns, *optional]) if name in present]


def _parquet_batches(entry: Path, *, names: list[str], batch_rows: int) -> Iterator[pa.Table]:
    # Read-ahead would hold whole column chunks.
    with pq.ParquetFile(entry, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=batch_rows, columns=names, use_threads=False):
            yield pa.Table.from_batches([batch])


def _csv_batches(
    entry: Path, *, names: list[str], types: Mapping[str, pa.DataType], batch_rows: int
) -> Iterator[pa.Table]:
    convert = pacsv.ConvertOptions(
        include_columns=names,
        column_types={name: kind for name, kind in types.items() if name in names},
        strings_can_be_null=True,
        null_values=["", "NA", "NaN", "nan", "null", "NULL", "None"],
        quoted_strings_can_be_null=False,
    )
    with pacsv.open_csv(entry, convert_options=convert) as reader:
        for block in reader:
            table = pa.Table.from_batches([block])
            for start in range(0, table.num_rows, batch_rows):
                yield table.slice(start, batch_rows)


def _sha256(entry: Path) -> str:
    digest = hashlib.sha256()
    with entry.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
