"""The one in-memory form of rows between decoding and predicting.

Every arm ends here: HTTP bodies and events through `RowDecoder`, tables through `from_table`. Both
hold rows to the same schema, so the model cannot tell which arm a row came by.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zaphod.errors import DecodeError, InvalidInputError, SchemaMismatchError
from zaphod.schema import MAX_EXACT_INT, DType, Field, OutOfDomain, Schema

DataT = TypeVar("DataT")
ReadT = TypeVar("ReadT")

# A caller's own field names and values may be long; a message quotes no more than this.
_MAX_MESSAGE_CHARS = 300

# Of one field: the reason, and a mask of the rows it holds for.
BadRows: TypeAlias = dict[str, NDArray[np.bool_]]

_DICTIONARY = pa.dictionary(pa.int32(), pa.string())
_TOO_LARGE = f"Expected an integer of at most {MAX_EXACT_INT} in size, got a larger one"
_STARTS_WITH_ROWS = re.compile(rb'\s*\{\s*"rows"\s*:')


class Columns(msgspec.Struct, frozen=True, gc=False):
    """Rows that have passed the schema.

    numbers: float64, shape (n_rows, n_number_fields), C-contiguous, finite or NaN; NaN is null; bool is 0 or 1;
        integers are exact. Columns follow `schema.number_fields`.
    strings: one sequence of `str | None` per `schema.string_fields`, each n_rows long: a list when the rows came
        one by one; when they came as a table an Arrow array of strings, or of a dictionary of strings.
    """

    numbers: NDArray[np.float64]
    strings: tuple[list[str | None] | pa.Array, ...]

    @property
    def num_rows(self) -> int:
        return int(self.numbers.shape[0])

    def take(self, indices: NDArray[np.int64]) -> Columns:
        """The rows at these positions, in this order."""
        return Columns(
            numbers=np.ascontiguousarray(self.numbers[indices]),
            strings=tuple(
                [column[i] for i in indices] if isinstance(column, list) else column.take(pa.array(indices))
                for column in self.strings
            ),
        )


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that may not be scored: its position in the input, the field at fault and the reason, without its value."""

    row: int
    field: str
    reason: str


class Row(Protocol):
    """One decoded row: an instance of the struct that `RowDecoder` generated, one attribute per field."""


class RowDecoder:
    """Decodes JSON rows by types generated from the schema.

    Unknown fields are refused; fields that are nullable or have a default may be left out. `3.0` is an integer, as it
    is to JSON Schema and in every table.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.row_type = row_type(schema)
        self._exact = _Reader(self.row_type)
        # Integers are nearly always written without a point, and types that allow for one cost time.
        self._lenient = _Reader(row_type(schema, whole_floats=True), whole=Whole(schema))
        self._number_places = [i for i, field in enumerate(schema.fields) if not field.is_string]
        self._string_places = [i for i, field in enumerate(schema.fields) if field.is_string]
        self._numbers = _getter([f"f{i}" for i in self._number_places])
        self._strings = _getter([f"f{i}" for i in self._string_places])

    def decode_row(self, data: bytes | bytearray | memoryview | msgspec.Raw) -> Row:
        """Raises: InvalidInputError naming field and reason; DecodeError when it is not JSON."""
        return self._read(_Reader.row, data)

    def decode_all(self, data: Sequence[bytes]) -> list[Row] | None:
        """One row of each text, in half the time; None when any is refused, or has integers written as `3.0`."""
        return self._exact.all_rows(data)

    def decode_rows(self, data: bytes | bytearray | memoryview | msgspec.Raw) -> list[Row]:
        """A JSON array of rows. Raises as `decode_row`."""
        return self._read(_Reader.rows, data)

    def decode_request(self, data: bytes) -> list[Row]:
        """`{"rows": [{…}]}`, `rows` first, or one row `{…}`. Raises as `decode_row`."""
        return self._read(_Reader.request, data)

    def _read(self, read: Callable[[_Reader, DataT], ReadT], data: DataT) -> ReadT:
        try:
            return read(self._exact, data)
        except InvalidInputError as error:
            if not may_be_whole(error.message):
                raise
            return read(self._lenient, data)

    def convert_row(self, row: object) -> Row:
        """A row that is already a dict of JSON values. Raises: InvalidInputError."""
        try:
            return msgspec.convert(row, self.row_type)
        except msgspec.ValidationError as error:
            raise InvalidInputError(clip(str(error))) from error

    def columns(self, rows: Sequence[Row]) -> Columns:
        if len(rows) == 1:
            # Most requests and events: half the time of the general way.
            row = rows[0]
            return Columns(
                numbers=np.array((self._numbers(row),), dtype=np.float64),
                strings=tuple([[value] for value in self._strings(row)]),
            )
        # Column by column: numpy takes four times as long to find its way into many short tuples.
        values = map(msgspec.structs.astuple, rows)  # type: ignore[arg-type]  # a row is a struct made at run time
        columns = list(zip(*values, strict=True)) or [()] * len(self.schema.fields)
        numbers = np.array([columns[i] for i in self._number_places], dtype=np.float64)
        return Columns(
            numbers=np.ascontiguousarray(numbers.reshape(len(self._number_places), len(rows)).T),
            strings=tuple([list(columns[i]) for i in self._string_places]),
        )


def row_type(schema: Schema, *, whole_floats: bool = False) -> type[msgspec.Struct]:
    """The struct of a row: field i of the schema is the attribute `f<i>`.

    whole_floats: integers may be written as floats; `Whole` finds those that are none.
    """
    return msgspec.defstruct(
        "Row",
        [_struct_field(f"f{i}", field, whole_floats=whole_floats) for i, field in enumerate(schema.fields)],
        rename={f"f{i}": field.name for i, field in enumerate(schema.fields)},
        forbid_unknown_fields=True,
        kw_only=True,
        gc=False,
    )


class Whole:
    """Finds fractions in the integer fields of rows that were decoded with `whole_floats`."""

    def __init__(self, schema: Schema) -> None:
        self._fields = [(f"f{i}", field.name) for i, field in enumerate(schema.fields) if field.dtype is DType.INT64]

    def fraction(self, row: object) -> str | None:
        """The first field that has one."""
        for attribute, name in self._fields:
            value = getattr(row, attribute)
            if isinstance(value, float) and not value.is_integer():
                return name
        return None


def may_be_whole(message: str) -> bool:
    """Whether msgspec's message may be about an integer that is written as a float."""
    return "got `float`" in message


class _Reader:
    """One row, many and a request, by one type. whole: checks rows whose type lets floats pass for integers."""

    def __init__(self, row: type[msgspec.Struct], *, whole: Whole | None = None) -> None:
        request = msgspec.defstruct("Request", [("rows", list[row])], forbid_unknown_fields=True)  # type: ignore[valid-type]  # a type made at run time
        self._one = msgspec.json.Decoder(row)
        self._many = msgspec.json.Decoder(list[row])  # type: ignore[valid-type]  # as above
        self._request = msgspec.json.Decoder(request)
        self._whole = whole

    def row(self, data: bytes | bytearray | memoryview | msgspec.Raw) -> Row:
        row: Row = _decode(self._one, data)
        if self._whole is not None:
            self._check([row], place=lambda _: "$")
        return row

    def all_rows(self, data: Sequence[bytes]) -> list[Row] | None:
        try:
            return list(map(self._one.decode, data))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def rows(self, data: bytes | bytearray | memoryview | msgspec.Raw) -> list[Row]:
        rows: list[Row] = _decode(self._many, data)
        if self._whole is not None:
            self._check(rows, place=lambda number: f"$[{number}]")
        return rows

    def request(self, data: bytes) -> list[Row]:
        if not _STARTS_WITH_ROWS.match(data):
            return [self.row(data)]
        rows: list[Row] = _decode(self._request, data).rows
        if self._whole is not None:
            self._check(rows, place=lambda number: f"$.rows[{number}]")
        return rows

    def _check(self, rows: Sequence[Row], *, place: Callable[[int], str]) -> None:
        assert self._whole is not None
        for number, row in enumerate(rows):
            name = self._whole.fraction(row)
            if name is not None:
                raise InvalidInputError(clip(f"Expected `int`, got `float` - at `{place(number)}.{name}`"))


@dataclass(frozen=True, slots=True)
class Decoded:
    """The rows of a table that may be scored, where they stood, and the others with their reasons.

    kept: int64, shape (columns.num_rows,), ascending positions in the table.
    """

    columns: Columns
    kept: NDArray[np.int64]
    rejects: tuple[Reject, ...]


def from_table(schema: Schema, table: pa.Table) -> Decoded:
    """Checks every row of a table; columns that the schema does not name are left alone.

    Raises: SchemaMismatchError when a column is missing or its type cannot hold the field; no row of such a table
        can be scored.
    """
    num_rows = table.num_rows
    reasons: dict[int, Reject] = {}
    numbers = np.empty((num_rows, len(schema.number_fields)), dtype=np.float64)
    for i, field in enumerate(schema.number_fields):
        values, bad = _number_column(field, table)
        numbers[:, i] = values
        _note(reasons, field, bad)
    strings: list[pa.Array] = []
    for field in schema.string_fields:
        column, bad = _string_column(field, table)
        strings.append(column)
        _note(reasons, field, bad)
    columns = Columns(numbers=numbers, strings=tuple(strings))
    kept = np.arange(num_rows, dtype=np.int64)
    if not reasons:
        return Decoded(columns=columns, kept=kept, rejects=())
    kept = np.delete(kept, list(reasons))
    rejects = tuple(reasons[row] for row in sorted(reasons))
    return Decoded(columns=columns.take(kept), kept=kept, rejects=rejects)


def to_arrow(schema: Schema, columns: Columns) -> pa.Table:
    """The rows as a table with the schema's names and types; NaN becomes null again."""
    arrays: dict[str, pa.Array] = {}
    for i, field in enumerate(schema.number_fields):
        values = columns.numbers[:, i]
        arrays[field.name] = pa.array(values, mask=np.isnan(values)).cast(arrow_type(field))
    for field, column in zip(schema.string_fields, columns.strings, strict=True):
        arrays[field.name] = pa.array(column, type=pa.string())
    return pa.table({name: arrays[name] for name in schema.names})


def arrow_type(field: Field) -> pa.DataType:
    """The Arrow type that holds the field exactly."""
    match field.dtype:
        case DType.FLOAT64:
            return pa.float64()
        case DType.INT64:
            return pa.int64()
        case DType.BOOL:
            return pa.bool_()
        case DType.STRING:
            return pa.string()


def clip(message: str) -> str:
    """A message short enough to send back and to log, whatever a caller put into a field name."""
    return message if len(message) <= _MAX_MESSAGE_CHARS else message[: _MAX_MESSAGE_CHARS - 1] + "…"


def _decode(
    decoder: msgspec.json.Decoder[Any], data: bytes | bytearray | memoryview | msgspec.Raw
) -> Any:  # whatever the decoder makes
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise InvalidInputError(clip(str(error).replace("`int | float", "`int"))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(clip(f"Expected JSON, got something else: {error}")) from error


def _getter(names: list[str]) -> Callable[[Row], tuple[Any, ...]]:  # what the struct's fields hold
    """Reads several attributes at once: `attrgetter` gives a tuple only for two or more."""
    if len(names) > 1:
        return operator.attrgetter(*names)
    return lambda row: tuple(getattr(row, name) for name in names)


def _struct_field(
    attribute: str, field: Field, *, whole_floats: bool
) -> tuple[str, object] | tuple[str, object, object]:
    annotation = _json_type(field)
    if whole_floats and field.dtype is DType.INT64:
        bounds = annotation.__metadata__[0]  # type: ignore[attr-defined]  # of what `Annotated` made
        annotation = annotation | Annotated[float, bounds]
    if field.nullable:
        annotation = annotation | None  # type: ignore[operator]  # union of types made at run time
    if field.required:
        return attribute, annotation
    return attribute, annotation, field.default


def _json_type(field: Field) -> object:
    reject = field.out_of_domain is OutOfDomain.REJECT
    lowest = field.minimum if reject else None
    highest = field.maximum if reject else None
    match field.dtype:
        case DType.STRING:
            return Literal[field.categories] if reject and field.categories else str
        case DType.BOOL:
            return bool
        case DType.INT64:
            low = -MAX_EXACT_INT if lowest is None else max(-MAX_EXACT_INT, int(np.ceil(lowest)))
            high = MAX_EXACT_INT if highest is None else min(MAX_EXACT_INT, int(np.floor(highest)))
            return Annotated[int, msgspec.Meta(ge=low, le=high)]
        case DType.FLOAT64:
            if lowest is None and highest is None:
                return float
            return Annotated[float, msgspec.Meta(ge=lowest, le=highest)]


def _column(field: Field, table: pa.Table) -> pa.ChunkedArray:
    position = table.schema.get_field_index(field.name)
    if position >= 0:
        return table.column(position)
    if field.name in table.column_names:
        raise SchemaMismatchError(f"Expected one column `{field.name}`, got several - at column `{field.name}`")
    if field.required:
        raise SchemaMismatchError(f"Expected a column `{field.name}` ({field.dtype}), got none")
    return pa.chunked_array([pa.array([field.default] * table.num_rows, type=arrow_type(field))])


def _number_column(field: Field, table: pa.Table) -> tuple[NDArray[np.float64], BadRows]:
    column = _column(field, table)
    _check_number_type(field, column.type)
    bad = _inexact(column)
    nulls = np.asarray(column.is_null()) if column.null_count else None
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = column.cast(pa.float64(), safe=False).to_numpy()
    if nulls is not None and field.default is not None:
        values = np.where(nulls, float(field.default), values)
    missing = np.isnan(values)
    if not field.nullable and missing.any():
        bad["Expected a value, got null"] = missing
    infinite = np.isinf(values)
    if infinite.any():
        bad["Expected a finite number, got infinity"] = infinite
    if field.dtype is DType.INT64 and pa.types.is_floating(column.type):
        bad["Expected an integer, got a fraction"] = (values != np.floor(values)) & ~missing & ~infinite
        bad[_TOO_LARGE] = (np.abs(values) > MAX_EXACT_INT) & ~infinite
    if field.out_of_domain is OutOfDomain.REJECT:
        bad |= _outside(field, values)
    return values, bad


def _check_number_type(field: Field, kind: pa.DataType) -> None:
    if pa.types.is_null(kind):
        return
    fits = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if field.dtype is DType.BOOL:
        fits = pa.types.is_boolean(kind)
    if not fits:
        raise _wrong_type(field, kind)


def _inexact(column: pa.ChunkedArray) -> BadRows:
    if not (pa.types.is_integer(column.type) and column.type.bit_width == 64) or column.null_count == len(column):
        return {}
    limits = pc.min_max(column)
    if limits["max"].as_py() <= MAX_EXACT_INT and limits["min"].as_py() >= -MAX_EXACT_INT:
        return {}
    large = pc.greater(column, pa.scalar(MAX_EXACT_INT, column.type))
    if pa.types.is_signed_integer(column.type):
        large = pc.or_(large, pc.less(column, -MAX_EXACT_INT))
    return {_TOO_LARGE: np.asarray(pc.equal(pc.fill_null(large, fill_value=False), True))}  # noqa: FBT003  # a value to compare


def _outside(field: Field, values: NDArray[np.float64]) -> BadRows:
    # Comparisons with NaN are false: a null is never out of range.
    bad: BadRows = {}
    if field.minimum is not None:
        bad[f"Expected a number >= {field.minimum}, got a smaller one"] = values < field.minimum
    if field.maximum is not None:
        bad[f"Expected a number <= {field.maximum}, got a larger one"] = values > field.maximum
    return bad


def _string_column(field: Field, table: pa.Table) -> tuple[pa.Array, BadRows]:
    column = _column(field, table)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_kind(kind) for is_kind in kinds):
        raise _wrong_type(field, column.type)
    reject = field.out_of_domain is OutOfDomain.REJECT and field.categories
    # A dictionary stays one where nothing is asked of single values: a model numbers its few strings once.
    if column.type != _DICTIONARY or reject or (field.default is not None and column.null_count):
        column = column.cast(pa.string())
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    bad: BadRows = {}
    if array.null_count:
        if field.default is not None:
            array = array.fill_null(field.default)
        elif not field.nullable:
            bad["Expected a value, got null"] = np.asarray(array.is_null())
    if reject:
        known = pc.is_in(array, value_set=pa.array(field.categories, type=pa.string()))
        bad["Expected a known category, got another"] = ~np.asarray(known) & ~np.asarray(array.is_null())
    return array, bad


def _wrong_type(field: Field, kind: pa.DataType) -> SchemaMismatchError:
    return SchemaMismatchError(f"Expected `{field.dtype}`, got `{kind}` - at column `{field.name}`")


def _note(reasons: dict[int, Reject], field: Field, bad: BadRows) -> None:
    """Records the first reason of each bad row."""
    for reason, mask in bad.items():
        for row in np.flatnonzero(mask):
            reasons.setdefault(int(row), Reject(row=int(row), field=field.name, reason=reason))
