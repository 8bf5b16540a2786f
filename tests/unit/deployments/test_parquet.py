"""What is read in a Parquet body's metadata is what Arrow will read there, or the body is refused."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.protocols.parquet import read
from deployments.protocols.thrift import Reader
from zaphod.errors import DecodeError, LimitExceededError
from zaphod.schema import DType, Field, Output, Schema, Task

SCHEMA = Schema(fields=(Field(name="s", dtype=DType.STRING),), output=Output(task=Task.REGRESSION))
MAX_BYTES = 1 << 20
TEXT_BYTES = 4 << 20

BOOL, I16, I32, I64, BINARY, LIST, STRUCT = 1, 4, 5, 6, 8, 9, 12


def varint(number: int) -> bytes:
    """Seven bits a byte, the low ones first."""
    rest = b""
    while number > 0x7F:
        rest += bytes([number & 0x7F | 0x80])
        number >>= 7
    return rest + bytes([number])


def integer(number: int) -> bytes:
    """Zigzag."""
    return varint(number << 1 if number >= 0 else (-number << 1) - 1)


def text(value: bytes) -> bytes:
    """Length and bytes."""
    return varint(len(value)) + value


def listed(kind: int, *values: bytes) -> bytes:
    """At most 14 of them."""
    return bytes([len(values) << 4 | kind]) + b"".join(values)


def field(place: int, kind: int, value: bytes) -> bytes:
    """With the number written out, so that any may follow any."""
    return bytes([kind]) + integer(place) + value


def fields(*each: bytes) -> bytes:
    """A struct."""
    return b"".join(each) + b"\0"


def number(place: int, value: int, kind: int = I32) -> bytes:
    """A field that holds an integer."""
    return field(place, kind, integer(value))


def header(page_type: int, raw_bytes: int, packed: bytes, *more: bytes) -> bytes:
    """A page and its header."""
    return fields(number(1, page_type), number(2, raw_bytes), number(3, len(packed)), *more) + packed


def honest_size(raw: bytes) -> bytes:
    """What a page unpacks to, as it should be said."""
    return number(2, len(raw))


def file_of(
    size: Callable[[bytes], bytes] = honest_size,
    *,
    dictionary: bytes | None = None,
    encodings: bytes | None = None,
    dictionary_values: bytes | None = None,
    dictionary_encoding: bytes | None = None,
    num_values: bytes | None = None,
    file_more: bytes = b"",
) -> bytes:
    """A Parquet file of one row, whose only string is a dictionary page that unpacks to TEXT_BYTES.

    size: writes the page header's field for that. The others replace fields by what was encoded otherwise.
    """
    zstd = pa.Codec("zstd")
    raw = struct.pack("<I", TEXT_BYTES) + b"x" * TEXT_BYTES
    packed = zstd.compress(raw).to_pybytes()
    indices = bytes([1, 1 << 1, 0])
    packed_indices = zstd.compress(indices).to_pybytes()
    dictionary_page = (
        fields(
            number(1, 2),
            size(raw),
            number(3, len(packed)),
            field(7, STRUCT, fields(dictionary_values or number(1, 1), dictionary_encoding or number(2, 0))),
        )
        + packed
    )
    data_page = header(
        0,
        len(indices),
        packed_indices,
        field(5, STRUCT, fields(number(1, 1), number(2, 8), number(3, 3), number(4, 3))),
    )
    body = b"PAR1" + dictionary_page + data_page
    meta = fields(
        number(1, 6),
        encodings or field(2, LIST, listed(I32, integer(8), integer(0))),
        field(3, LIST, listed(BINARY, text(b"s"))),
        number(4, 6),
        num_values or number(5, 1, I64),
        number(6, len(body) - 4, I64),
        number(7, len(body) - 4, I64),
        number(9, 4 + len(dictionary_page), I64),
        dictionary or number(11, 4, I64),
    )
    root = fields(field(4, BINARY, text(b"schema")), number(5, 1))
    leaf = fields(number(1, 6), number(3, 0), field(4, BINARY, text(b"s")), number(6, 0))
    chunk = fields(number(2, 4, I64), field(3, STRUCT, meta))
    group = fields(field(1, LIST, listed(STRUCT, chunk)), number(2, 1, I64), number(3, 1, I64))
    footer = fields(
        number(1, 2),
        field(2, LIST, listed(STRUCT, root, leaf)),
        number(3, 1, I64),
        field(4, LIST, listed(STRUCT, group)),
        file_more,
    )
    return body + footer + struct.pack("<I", len(footer)) + b"PAR1"


def test_the_file_is_a_good_one() -> None:
    """What the tests below bend is read when nothing is bent, within the limit, and refused beyond it."""
    assert read(SCHEMA, file_of(), max_rows=1, max_bytes=2 * TEXT_BYTES)["s"].to_pylist() == ["x" * TEXT_BYTES]
    with pytest.raises(LimitExceededError, match="max_decoded_bytes"):
        read(SCHEMA, file_of(), max_rows=1, max_bytes=MAX_BYTES)


LIES = {
    "again-as-i64": file_of(lambda raw: number(2, len(raw)) + number(2, 10, I64)),
    "again-as-i32": file_of(lambda raw: number(2, 10) + number(2, len(raw))),
    "again-as-bool": file_of(lambda raw: number(2, len(raw)) + field(2, BOOL, b"")),
    "number-of-17-bits": file_of(lambda raw: number(2, 10) + number(65_536 + 2, len(raw))),
    "number-zero": file_of(lambda raw: number(2, 10) + number(0, len(raw))),
    "number-negative": file_of(lambda raw: number(2, 10) + number(-65_534, len(raw))),
    "size-of-33-bits": file_of(lambda raw: number(2, len(raw) - 2**32)),
    "size-as-i64": file_of(lambda raw: number(2, 10, I64)),
    "dictionary-offset-as-i32": file_of(dictionary=number(11, 4)),
    "dictionary-offset-as-i16": file_of(dictionary=number(11, 4, I16)),
    "dictionary-offset-of-65-bits": file_of(dictionary=field(11, I64, varint(2**64 + 8))),
    "dictionary-values-as-i64": file_of(dictionary_values=number(1, 1, I64)),
    "encoding-as-i64": file_of(dictionary_encoding=number(2, 0, I64)),
    "encoding-as-binary": file_of(dictionary_encoding=field(2, BINARY, text(b"")) + number(9, 0)),
    "values-as-i32": file_of(num_values=number(5, 1)),
    "list-of-another-type": file_of(encodings=field(2, LIST, listed(BINARY, text(b"\0"), text(b"")))),
    "list-nobody-knows": file_of(file_more=field(40, LIST, listed(I32, integer(1)))),
}


@pytest.mark.parametrize("lie", LIES)
def test_what_arrow_would_read_otherwise_is_refused(lie: str) -> None:
    """Fields twice, of a wrong type, or cut to the width they have in Arrow, lists of other values: 400, unread."""
    with pytest.raises(DecodeError) as caught:
        read(SCHEMA, LIES[lie], max_rows=1, max_bytes=MAX_BYTES)

    assert caught.value.__cause__ is None, "Arrow has read it"


def test_each_field_counts() -> None:
    """Fields of no bytes and empty lists count as values, too: megabytes of them would be gigabytes of objects."""
    for kind, value in ((BOOL, b""), (LIST, b"\0")):
        data = fields(*(field(place, kind, value) for place in range(1, 102)))
        with pytest.raises(LimitExceededError):
            Reader(data, max_values=100).read_struct(0, lists={})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd", "data_page_version": "2.0", "data_page_size": 512, "write_batch_size": 64},
        {"use_dictionary": False, "write_page_index": True, "write_page_checksum": True, "row_group_size": 100},
        {"version": "1.0", "store_schema": False, "write_statistics": False},
        {"sorting_columns": [pq.SortingColumn(0)]},
    ],
)
def test_honest_files_are_read(options: dict[str, object]) -> None:
    """Whatever Arrow writes of flat columns."""
    table = pa.table({"s": pa.array([None if i % 7 == 0 else f"é{i % 50}" for i in range(1_000)])})
    wide = table.append_column("n", pa.array(range(1_000))).append_column("b", pa.array([True, None] * 500))
    sink = io.BytesIO()
    pq.write_table(wide, sink, **options)

    assert read(SCHEMA, sink.getvalue(), max_rows=1_000, max_bytes=MAX_BYTES).equals(
        table.cast(pa.schema({"s": pa.string()}))
    )
