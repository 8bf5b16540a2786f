"""Parquet bodies from callers nobody knows: every page's size and encoding is read before any page is unpacked.

What a file's footer says of sizes is only a claim; the reader allocates by what each page's own header says. So the
pages are walked first. Encodings by which a few bytes can stand for gigabytes are refused.
"""

from __future__ import annotations

import io
import struct

import pyarrow as pa
import pyarrow.parquet as pq

from deployments.protocols.arrow import check_types, decode_dictionaries
from deployments.protocols.tables import check_num_rows
from deployments.protocols.thrift import Struct, read_struct
from zaphod.errors import DecodeError, LimitExceededError, UnsupportedTypeError
from zaphod.schema import Schema

# Field numbers and values of parquet.thrift.
_UNCOMPRESSED, _COMPRESSED, _DATA, _DICTIONARY, _DATA_V2 = 2, 3, 5, 7, 8
_ENCODING = {_DATA: 2, _DICTIONARY: 2, _DATA_V2: 4}
# PLAIN, PLAIN_DICTIONARY, RLE, BIT_PACKED, DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, RLE_DICTIONARY,
# BYTE_STREAM_SPLIT. DELTA_BYTE_ARRAY (7) repeats a long prefix for the price of a number.
_ENCODINGS = frozenset((0, 2, 3, 4, 5, 6, 8, 9))
_MAX_PAGES = 100_000


def read(schema: Schema, body: bytes, *, max_rows: int, max_bytes: int) -> pa.Table:
    """The schema's columns. Raises: DecodeError, InvalidInputError, UnsupportedTypeError, LimitExceededError."""
    try:
        metadata = pq.read_metadata(io.BytesIO(body))
        check_num_rows(metadata.num_rows, max_rows=max_rows)
        names = set(schema.names)
        wanted = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path in names]
        _check_pages(metadata, wanted, body, max_bytes=max_bytes)
        # Read as dictionaries: a long string that every row refers to is then in memory once.
        columns = [metadata.schema.column(i) for i in wanted]
        strings = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        with pq.ParquetFile(io.BytesIO(body), read_dictionary=strings, pre_buffer=False) as file:
            present = [name for name in file.schema_arrow.names if name in names]
            check_types(pa.schema([file.schema_arrow.field(name) for name in present]))
            table = file.read(columns=present, use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError, struct.error, IndexError, UnicodeDecodeError, KeyError) as error:
        raise DecodeError("Expected a Parquet file, got something else") from error
    return decode_dictionaries(table, max_bytes=max_bytes)


def _check_pages(metadata: pq.FileMetaData, columns: list[int], body: bytes, *, max_bytes: int) -> None:
    """Raises: LimitExceededError, UnsupportedTypeError, DecodeError."""
    total, pages = 0, 0
    for group in range(metadata.num_row_groups):
        for i in columns:
            chunk = metadata.row_group(group).column(i)
            position = chunk.data_page_offset
            if chunk.has_dictionary_page and chunk.dictionary_page_offset:
                position = min(position, chunk.dictionary_page_offset)
            end = position + chunk.total_compressed_size
            if not 0 <= position <= end <= len(body):
                raise DecodeError("Expected column chunks within the file, got one beyond")
            while position < end:
                page, position = read_struct(body, position)
                total += _check_page(page)
                position += int(page.number(_COMPRESSED))
                pages += 1
                if total > max_bytes or pages > _MAX_PAGES:
                    raise LimitExceededError(f"Expected pages of at most {max_bytes} bytes unpacked, got more")


def _check_page(page: Struct) -> int:
    """How many bytes the page unpacks to."""
    size, packed = page.number(_UNCOMPRESSED), page.number(_COMPRESSED)
    if size < 0 or packed < 0:
        raise DecodeError("Expected pages of some size, got a negative one")
    for place, slot in _ENCODING.items():
        header = page.struct(place)
        if header is not None and header.number(slot) not in _ENCODINGS:
            raise UnsupportedTypeError("Expected Parquet pages without DELTA_BYTE_ARRAY, got such pages")
    return size
