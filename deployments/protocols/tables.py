"""Rows that come as a table: they are all scored, or the request is refused with the first reason."""

from __future__ import annotations

import pyarrow as pa

from zaphod.columns import Columns, from_table
from zaphod.errors import InvalidInputError, LimitExceededError
from zaphod.schema import Schema


def check_num_rows(num_rows: int, *, max_rows: int) -> None:
    """Raises: InvalidInputError, LimitExceededError."""
    if num_rows < 1:
        raise InvalidInputError("Expected at least one row, got none")
    if num_rows > max_rows:
        raise LimitExceededError(f"Expected at most {max_rows} rows (max_rows), got {num_rows}")


def from_whole_table(schema: Schema, table: pa.Table, *, max_rows: int) -> Columns:
    """Raises: InvalidInputError naming row and field of the first bad row; SchemaMismatchError; LimitExceededError."""
    check_num_rows(table.num_rows, max_rows=max_rows)
    decoded = from_table(schema, table)
    if decoded.rejects:
        first = decoded.rejects[0]
        raise InvalidInputError(f"{first.reason} - at `rows[{first.row}].{first.field}`")
    return decoded.columns
