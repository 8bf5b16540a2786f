"""CSV: every cell is read as text and converted here, so that a bad cell costs its row and not the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from numpy.typing import NDArray

from batch.rows import Batch, Wanted
from zaphod.columns import BadRows, Reject

# Read at once. It decides where batches end, and so must stay.
_BLOCK_BYTES = 4 * 1024 * 1024

_NUMBER = r"^([-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(nan|NaN|NAN|inf|Inf|INF|infinity|Infinity))$"
_INTEGER = r"^[-+]?\d{1,18}$"
_TRUE, _FALSE = ("true", "1"), ("false", "0")


def inspect(open_file: Callable[[], pa.NativeFile], wanted: Wanted) -> pa.Schema:
    """The wanted columns that the header names, with the types they will have."""
    with open_file() as opened:
        header = _open(opened, wanted, [], columns=None).schema.names
    return pa.schema([(name, wanted.type_of(name)) for name in header if name in wanted.names])


def read(open_file: Callable[[], pa.NativeFile], wanted: Wanted, *, batch_rows: int) -> Iterator[Batch]:
    """All rows in order, counted without the header. Rows with another number of cells are lost."""
    schema = inspect(open_file, wanted)
    broken: list[int] = []
    with open_file() as opened:
        for block in _positioned(_open(opened, wanted, broken, columns=schema.names), broken):
            for start in range(0, max(block.table.num_rows, 1), batch_rows):
                yield Batch(
                    *_convert(block.table.slice(start, batch_rows), schema, block.rows[start : start + batch_rows]),
                    lost=block.lost if start == 0 else (),
                )


def _open(
    opened: pa.NativeFile, wanted: Wanted, broken: list[int], *, columns: list[str] | None
) -> pacsv.CSVStreamingReader:
    """broken: gets the positions of rows with a wrong number of cells, as they are met."""

    def skip(row: pacsv.InvalidRow) -> str:
        broken.append(row.number - 2)  # counted from 1, the header included
        return "skip"

    kinds = {name: pa.string() for name in columns or ()}
    return pacsv.open_csv(
        opened,
        read_options=pacsv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(
            delimiter=wanted.csv_delimiter, newlines_in_values=True, invalid_row_handler=skip
        ),
        convert_options=pacsv.ConvertOptions(
            include_columns=columns,
            column_types=kinds,
            null_values=list(wanted.csv_null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _positioned(reader: pacsv.CSVStreamingReader, broken: list[int]) -> Iterator[Batch]:
    """Blocks with the positions of their rows: the reader drops broken rows without a trace in the block."""
    row = 0
    for block in reader:
        end = row + block.num_rows
        while (wider := row + block.num_rows + sum(row <= each < end for each in broken)) != end:
            end = wider
        gaps = [each for each in broken if row <= each < end]
        rows = np.setdiff1d(np.arange(row, end, dtype=np.int64), np.array(gaps, dtype=np.int64))
        yield Batch(table=pa.Table.from_batches([block]), rows=rows, lost=_lost(gaps))
        row = end
    rest = [each for each in broken if each >= row]
    if rest:
        yield Batch(table=reader.schema.empty_table(), rows=np.empty(0, dtype=np.int64), lost=_lost(rest))


def _lost(rows: list[int]) -> tuple[Reject, ...]:
    return tuple(
        Reject(row=row, field="", reason="Expected as many cells as the header has, got more or fewer") for row in rows
    )


def _convert(
    table: pa.Table, schema: pa.Schema, rows: NDArray[np.int64]
) -> tuple[pa.Table, NDArray[np.int64], dict[int, Reject]]:
    """Text to the schema's types; cells that are no such value become null, and their rows bad."""
    bad: dict[int, Reject] = {}
    arrays = []
    for column in schema:
        array = table.column(column.name).combine_chunks()
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        if not pa.types.is_string(column.type):
            array, wrong = _parse(pc.utf8_trim_whitespace(array), column.type)
            for reason, mask in wrong.items():
                for row in np.flatnonzero(mask):
                    bad.setdefault(int(row), Reject(row=int(row), field=column.name, reason=reason))
        arrays.append(array)
    return pa.table(arrays, schema=schema), rows, bad


def _parse(text: pa.Array, kind: pa.DataType) -> tuple[pa.Array, BadRows]:
    """The values, and which cells hold none, by reason."""
    if pa.types.is_boolean(kind):
        lower = pc.utf8_lower(text)
        good = pc.is_in(lower, value_set=pa.array([*_TRUE, *_FALSE]))
        values = pc.if_else(good, pc.is_in(lower, value_set=pa.array(_TRUE)), pa.scalar(None, pa.bool_()))
        return values, _none("bool", text, good)
    good = pc.match_substring_regex(text, _NUMBER)
    if not pa.types.is_integer(kind):
        return _only(good, text).cast(kind), _none("float64", text, good)
    bad = _none("int64", text, good)
    if pc.all(pc.match_substring_regex(text, _INTEGER)).as_py() is not False:
        return text.cast(kind), bad
    # `3.0` is how a column of integers with nulls is often written.
    floats = _only(good, text).cast(pa.float64())
    whole = pc.equal(floats, pc.floor(floats))
    bad["Expected an integer, got a fraction"] = np.asarray(pc.fill_null(pc.invert(whole), fill_value=False))
    return _only(whole, floats).cast(kind), bad


def _none(word: str, text: pa.Array, good: pa.Array) -> BadRows:
    mask = pc.and_(pc.invert(pc.fill_null(good, fill_value=False)), text.is_valid())
    return {f"Expected `{word}`, got text that is none": np.asarray(mask)}


def _only(good: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(good, values, pa.scalar(None, values.type))
