"""JSON lines: a line is a row, decoded by the types that HTTP requests are decoded by."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from batch.rows import Batch, Wanted
from zaphod.columns import Reject, Whole, arrow_type, may_be_whole, row_type
from zaphod.errors import SchemaMismatchError

_CHUNK_BYTES = 4 * 1024 * 1024
_MAX_LINE_BYTES = 64 * 1_048_576
_SAMPLE_LINES = 1_000

_Kept = str | int | float | bool | None


def inspect(open_file: Callable[[], pa.NativeFile], wanted: Wanted, *, keep: Sequence[str]) -> pa.Schema:
    """Every field of the model, which a line may leave out; kept columns by the first lines' values."""
    decoder = _Decoder(wanted, keep)
    with open_file() as opened:
        lines = [line for line in itertools.islice(_lines(opened), _SAMPLE_LINES) if line.strip()]
    decoded = [row for row in (decoder.decode(line) for line in lines) if not isinstance(row, Reject)]
    columns = {field.name: arrow_type(field) for field in wanted.schema.fields}
    for i, name in enumerate(keep):
        columns.setdefault(name, _type_of([getattr(row, f"k{i}") for row in decoded]))
    return pa.schema(list(columns.items()))


def read(open_file: Callable[[], pa.NativeFile], wanted: Wanted, *, batch_rows: int) -> Iterator[Batch]:
    """All lines in order; empty ones are no rows, but count."""
    decoder = _Decoder(wanted, wanted.kept.names)
    with open_file() as opened:
        numbered = ((number, line) for number, line in enumerate(_lines(opened)) if line.strip())
        while chunk := list(itertools.islice(numbered, batch_rows)):
            yield _batch(decoder, wanted, chunk)


def _batch(decoder: _Decoder, wanted: Wanted, chunk: list[tuple[int, bytes]]) -> Batch:
    rows: list[msgspec.Struct] = []
    positions: list[int] = []
    lost: list[Reject] = []
    for number, line in chunk:
        row = decoder.decode(line)
        if isinstance(row, Reject):
            lost.append(Reject(row=number, field=row.field, reason=row.reason))
        else:
            rows.append(row)
            positions.append(number)
    arrays = {
        field.name: pa.array([getattr(row, f"f{i}") for row in rows], type=arrow_type(field))
        for i, field in enumerate(wanted.schema.fields)
    }
    for i, column in enumerate(wanted.kept):
        if column.name not in arrays:
            arrays[column.name] = _kept_array([getattr(row, f"k{i}") for row in rows], column)
    return Batch(table=pa.table(arrays), rows=np.array(positions, dtype=np.int64), lost=tuple(lost))


class _Decoder:
    """The rows of HTTP, with the kept columns, and with whatever else a line holds left alone."""

    def __init__(self, wanted: Wanted, keep: Sequence[str]) -> None:
        extra = [(i, name) for i, name in enumerate(keep) if name not in wanted.schema.names]
        self._exact = msgspec.json.Decoder(_line(row_type(wanted.schema), extra))
        self._lenient = msgspec.json.Decoder(_line(row_type(wanted.schema, whole_floats=True), extra))
        self._whole = Whole(wanted.schema)

    def decode(self, line: bytes) -> msgspec.Struct | Reject:
        row = _decode(self._exact, line)
        if not isinstance(row, Reject) or not may_be_whole(row.reason):
            return row
        row = _decode(self._lenient, line)
        if isinstance(row, Reject):
            return row
        name = self._whole.fraction(row)
        return row if name is None else Reject(row=0, field=name, reason="Expected `int`, got `float`")


def _line(row: type[msgspec.Struct], extra: Sequence[tuple[int, str]]) -> type[msgspec.Struct]:
    return msgspec.defstruct(
        "Line",
        [(f"k{i}", _Kept, None) for i, _ in extra],
        bases=(row,),
        rename={f"k{i}": name for i, name in extra},
        forbid_unknown_fields=False,
        kw_only=True,
    )


def _decode(decoder: msgspec.json.Decoder[msgspec.Struct], line: bytes) -> msgspec.Struct | Reject:
    try:
        return decoder.decode(line)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        return Reject(row=0, field=path.rstrip("`").split("[")[0], reason=reason.replace("`int | float", "`int"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Reject(row=0, field="", reason="Expected a JSON object on a line, got something else")


def _type_of(values: list[_Kept]) -> pa.DataType:
    """What all values are, text where they differ."""
    kinds = {type(value) for value in values if value is not None}
    known = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    if kinds == {int, float}:
        return pa.float64()
    return known[kinds.pop()] if len(kinds) == 1 else pa.string()


def _kept_array(values: list[_Kept], column: pa.Field) -> pa.Array:
    if pa.types.is_string(column.type):
        values = [
            value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
            for value in values
        ]
    try:
        return pa.array(values, type=column.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise SchemaMismatchError(
            f"Expected `{column.type}` as in the first lines, got another type - at column `{column.name}`"
        ) from error


def _lines(opened: pa.NativeFile) -> Iterator[bytes]:
    """Raises: OSError for a line that no row can be."""
    pieces: list[bytes] = []
    num_bytes = 0
    while chunk := opened.read(_CHUNK_BYTES):
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        num_bytes += len(first)
        if num_bytes > _MAX_LINE_BYTES:
            raise OSError(f"a line is longer than {_MAX_LINE_BYTES:,} bytes")
        if others:
            yield b"".join(pieces)
            yield from others[:-1]
            pieces, num_bytes = [others[-1]], len(others[-1])
    if num_bytes:
        yield b"".join(pieces)
