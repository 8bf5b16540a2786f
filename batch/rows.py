"""Rows on their way from a file to the model, and what is wanted of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.columns import Decoded, Reject, arrow_type, from_table
from zaphod.schema import Schema


class CorruptFileError(Exception):
    """The bytes of an input file are not what its format says. Never leaves this arm."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to read, and how CSV files are written. kept: columns to carry along, with the types they get."""

    schema: Schema
    kept: pa.Schema
    csv_delimiter: str
    csv_null_values: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Every column, each once: the model's, then the kept ones."""
        return tuple(dict.fromkeys([*self.schema.names, *self.kept.names]))

    def type_of(self, name: str) -> pa.DataType:
        """What a column from a file without types becomes; a column of the model's as its field says."""
        fields = {each.name: each for each in self.schema.fields}
        return arrow_type(fields[name]) if name in fields else self.kept.field(name).type


@dataclass(frozen=True, slots=True)
class Batch:
    """Some consecutive rows of a file.

    rows: int64, shape (table.num_rows,): positions in the file, from 0. bad: rows of the table, by their index in it,
    whose cells could not be read; they hold nulls. lost: rows that are not in the table, by their position in the file.
    """

    table: pa.Table
    rows: NDArray[np.int64]
    bad: Mapping[int, Reject] = field(default_factory=dict)
    lost: tuple[Reject, ...] = ()

    @property
    def num_rows(self) -> int:
        return int(self.table.num_rows) + len(self.lost)


def check(schema: Schema, batch: Batch) -> Decoded:
    """As `from_table`, and without the rows that could not be read. Raises: SchemaMismatchError."""
    decoded = from_table(schema, batch.table)
    if not batch.bad:
        return decoded
    fit = ~np.isin(decoded.kept, list(batch.bad))
    rejects = {reject.row: reject for reject in decoded.rejects} | dict(batch.bad)
    return Decoded(
        columns=decoded.columns.take(np.flatnonzero(fit)),
        kept=decoded.kept[fit],
        rejects=tuple(rejects[row] for row in sorted(rejects)),
    )
