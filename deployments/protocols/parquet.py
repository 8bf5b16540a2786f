"""Parquet bodies from callers nobody knows: footer and pages are read here before Arrow is let near them.

What a file's footer says of sizes is only a claim; the reader allocates by what each page's own header says. So the
pages are walked first. Encodings by which a few bytes can stand for gigabytes are refused. The footer is read here and
not through pyarrow's metadata, because a damaged one ends the process there: an exception that nobody catches.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from deployments.protocols.arrow import check_types, decode_dictionaries
from deployments.protocols.tables import check_num_rows
from deployments.protocols.thrift import BINARY, I32, I64, STRUCT, Path, Reader, Struct
from zaphod.errors import DecodeError, InvalidInputError, LimitExceededError, UnsupportedTypeError
from zaphod.schema import Schema

_MAGIC = b"PAR1"
# Values in footer and page headers together: some ten for each column and row group, some twenty for each page.
_MAX_VALUES = 200_000
# Field numbers of parquet.thrift: FileMetaData, SchemaElement, RowGroup, ColumnChunk, ColumnMetaData.
_SCHEMA, _NUM_ROWS, _ROW_GROUPS = 2, 3, 4
_NAME, _NUM_CHILDREN = 4, 5
_COLUMNS, _GROUP_ROWS = 1, 3
_FILE_PATH, _META = 1, 3
_TYPE, _PATH, _NUM_VALUES, _CHUNK_BYTES, _DATA_OFFSET, _DICTIONARY_OFFSET = 1, 3, 5, 7, 9, 11
_BYTE_ARRAY = 6
# Every list in a footer, by the field numbers that lead to it, and the type of its values. Page headers have none.
_LISTS: dict[Path, int] = {
    (_SCHEMA,): STRUCT,
    (_ROW_GROUPS,): STRUCT,
    (5,): STRUCT,  # key_value_metadata
    (7,): STRUCT,  # column_orders
    (_ROW_GROUPS, _COLUMNS): STRUCT,
    (_ROW_GROUPS, 4): STRUCT,  # sorting_columns
    (_ROW_GROUPS, _COLUMNS, _META, 2): I32,  # encodings
    (_ROW_GROUPS, _COLUMNS, _META, _PATH): BINARY,
    (_ROW_GROUPS, _COLUMNS, _META, 8): STRUCT,  # key_value_metadata
    (_ROW_GROUPS, _COLUMNS, _META, 13): STRUCT,  # encoding_stats
    (_ROW_GROUPS, _COLUMNS, _META, 16, 2): I64,  # size_statistics: repetition_level_histogram
    (_ROW_GROUPS, _COLUMNS, _META, 16, 3): I64,  # size_statistics: definition_level_histogram
    (_ROW_GROUPS, _COLUMNS, _META, 17, 2): I32,  # geospatial_statistics: geospatial_types
}
# PageHeader; of each kind of page, by its number, where its own header is and where that names the encoding.
_PAGE_TYPE, _UNCOMPRESSED, _COMPRESSED = 1, 2, 3
_PAGE_VALUES = 1
_DICTIONARY_PAGE = 2
_HEADERS = {0: (5, 2), _DICTIONARY_PAGE: (7, 2), 3: (8, 4)}
# PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, RLE_DICTIONARY,
# BYTE_STREAM_SPLIT. DELTA_BYTE_ARRAY (7) repeats a long prefix for the price of a number.
_ENCODINGS = frozenset((0, 2, 3, 4, 5, 6, 8, 9))


@dataclass(frozen=True, slots=True)
class _Footer:
    """names, strings: of the model's columns in the file, and of those that hold bytes. chunks: of the former."""

    num_rows: int
    names: list[str]
    strings: list[str]
    chunks: list[Struct]


def read(schema: Schema, body: bytes, *, max_rows: int, max_bytes: int) -> pa.Table:
    """The schema's columns. Raises: DecodeError, InvalidInputError, UnsupportedTypeError, LimitExceededError."""
    try:
        reader = Reader(body, max_values=_MAX_VALUES)
        footer = _read_footer(schema, body, reader)
        check_num_rows(footer.num_rows, max_rows=max_rows)
        _check_pages(footer.chunks, body, reader, max_bytes=max_bytes)
        # Read as dictionaries: a long string that every row refers to is then in memory once.
        with pq.ParquetFile(io.BytesIO(body), read_dictionary=footer.strings, pre_buffer=False) as file:
            check_types(pa.schema([file.schema_arrow.field(name) for name in footer.names]))
            table = file.read(columns=footer.names, use_threads=False)
        check_num_rows(table.num_rows, max_rows=max_rows)
        table.validate(full=True)
    except (pa.ArrowException, OSError, IndexError, UnicodeDecodeError, KeyError) as error:
        raise DecodeError("Expected a Parquet file, got something else") from error
    return decode_dictionaries(table, max_bytes=max_bytes)


def _read_footer(schema: Schema, body: bytes, reader: Reader) -> _Footer:
    """Holds the footer to what a flat file's must be, each row group with each column."""
    length = int.from_bytes(body[-8:-4], "little")
    if len(body) < 12 or body[-4:] != _MAGIC or body[:4] != _MAGIC or length > len(body) - 12:
        raise DecodeError("Expected a Parquet file, got something else")
    file, end = reader.read_struct(len(body) - 8 - length, lists=_LISTS)
    if end > len(body) - 8:
        raise DecodeError("Expected a footer of the length it says, got a longer one")
    root, *leaves = file.structs(_SCHEMA) or [Struct()]
    if root.i32(_NUM_CHILDREN) != len(leaves) or any(leaf.i32(_NUM_CHILDREN) for leaf in leaves):
        raise InvalidInputError("Expected a Parquet file of flat columns, got nested ones")
    names = [leaf.binary(_NAME).decode() for leaf in leaves]
    if len(set(names)) < len(names):
        raise InvalidInputError("Expected columns of different names, got one twice")
    chunks: list[Struct] = []
    num_rows = 0
    for group in file.structs(_ROW_GROUPS):
        columns = group.structs(_COLUMNS)
        metas = [column.struct(_META) for column in columns]
        if [meta.binaries(_PATH) for meta in metas] != [[name.encode()] for name in names]:
            raise DecodeError("Expected each column in each row group, got others")
        if any(_FILE_PATH in column.fields for column in columns):
            raise DecodeError("Expected all data in the file, got a path to another")
        if any(meta.i32(_TYPE) != leaf.i32(_TYPE) for meta, leaf in zip(metas, leaves, strict=True)):
            raise DecodeError("Expected columns of the types that the schema says, got others")
        rows = group.i64(_GROUP_ROWS)
        if rows < 0 or any(meta.i64(_NUM_VALUES) != rows for meta in metas):
            raise DecodeError("Expected a value for each row and column, got another number")
        num_rows += rows
        chunks += [meta for name, meta in zip(names, metas, strict=True) if name in schema.names]
    if num_rows != file.i64(_NUM_ROWS):
        raise DecodeError("Expected row groups of as many rows as the file, got another number")
    present = [(name, leaf) for name, leaf in zip(names, leaves, strict=True) if name in schema.names]
    return _Footer(
        num_rows=num_rows,
        names=[name for name, _ in present],
        strings=[name for name, leaf in present if leaf.i32(_TYPE) == _BYTE_ARRAY],
        chunks=chunks,
    )


def _check_pages(chunks: list[Struct], body: bytes, reader: Reader, *, max_bytes: int) -> None:
    """Raises: LimitExceededError, UnsupportedTypeError, DecodeError."""
    total = 0
    for chunk in chunks:
        position = chunk.i64(_DATA_OFFSET)
        dictionary = chunk.i64(_DICTIONARY_OFFSET)
        if 0 < dictionary < position:
            position = dictionary
        end = position + chunk.i64(_CHUNK_BYTES)
        if not 0 < position <= end <= len(body):
            raise DecodeError("Expected column chunks within the file, got one beyond")
        num_values = 0
        while position < end:
            page, position = reader.read_struct(position, lists={})
            num_values += _check_page(page)
            total += page.i32(_UNCOMPRESSED)
            position += page.i32(_COMPRESSED)
            if total > max_bytes:
                raise LimitExceededError(
                    f"Expected pages of at most {max_bytes} bytes (max_decoded_bytes) unpacked, got more"
                )
        # Arrow would count up to what a page claims, for hours.
        if position != end or num_values != chunk.i64(_NUM_VALUES):
            raise DecodeError("Expected pages that hold the column's values, got others")


def _check_page(page: Struct) -> int:
    """How many rows the page has values for: none, when it is a dictionary."""
    size, packed, kind = page.i32(_UNCOMPRESSED), page.i32(_COMPRESSED), page.i32(_PAGE_TYPE)
    if size < 0 or packed < 0:
        raise DecodeError("Expected pages of some size, got a negative one")
    if kind not in _HEADERS:
        raise DecodeError("Expected pages of data and dictionaries, got others")
    place, slot = _HEADERS[kind]
    header = page.struct(place)
    if header.i32(slot) not in _ENCODINGS:
        raise UnsupportedTypeError("Expected Parquet pages without DELTA_BYTE_ARRAY, got such pages")
    num_values = header.i32(_PAGE_VALUES)
    if num_values < 0 or (kind == _DICTIONARY_PAGE and num_values > size):
        raise DecodeError("Expected pages with as many values as they can hold, got others")
    return 0 if kind == _DICTIONARY_PAGE else num_values
