"""Arrow IPC streams from callers nobody knows: what they claim is checked before it is believed.

Uncompressed messages point into the body, so they cost no memory. What could cost some is refused (compressed
buffers, nested and view types, dictionaries in pieces) or measured before it is spread out (dictionaries).
"""

from __future__ import annotations

import struct

import pyarrow as pa
import pyarrow.compute as pc

from deployments.protocols.tables import check_num_rows
from zaphod.errors import DecodeError, InvalidInputError, LimitExceededError, UnsupportedTypeError
from zaphod.schema import Schema

CONTENT_TYPE = b"application/vnd.apache.arrow.stream"
# Every message of a stream begins with it, since Arrow 0.15.
MAGIC = b"\xff\xff\xff\xff"

_COMPRESSION_SLOT = 3
_DATA_SLOT = 1
_DELTA_SLOT = 2
_HEADER_SLOT = 2


def read_stream(schema: Schema, body: bytes, *, max_rows: int, max_bytes: int) -> pa.Table:
    """The schema's columns of an IPC stream. Columns that are not the model's are left out.

    Raises: DecodeError, InvalidInputError, UnsupportedTypeError, LimitExceededError.
    """
    try:
        _check_messages(body)
        names = pa.ipc.open_stream(body).schema.names
        wanted = [i for i, name in enumerate(names) if name in schema.names]
        options = pa.ipc.IpcReadOptions(included_fields=wanted, use_threads=False)
        batches: list[pa.RecordBatch] = []
        num_rows, dictionary_bytes = 0, 0
        with pa.ipc.open_stream(body, options=options) as reader:
            check_types(reader.schema)
            for batch in reader:
                # An honest stream of max_rows rows has no more batches than that, unless most of them are empty.
                if len(batches) == max_rows:
                    raise LimitExceededError(f"Expected at most {max_rows} batches (max_rows), got more")
                num_rows += batch.num_rows
                if num_rows:
                    check_num_rows(num_rows, max_rows=max_rows)
                # Each batch has its dictionaries looked at again, be they those of the batch before.
                dictionary_bytes += _dictionary_bytes(batch)
                if dictionary_bytes > max_bytes:
                    raise LimitExceededError(
                        f"Expected dictionaries of at most {max_bytes} bytes (max_decoded_bytes) over batches, got more"
                    )
                # Offsets that lead out of their buffer would be followed later.
                batch.validate(full=True)
                batches.append(batch)
            table = pa.Table.from_batches(batches, schema=reader.schema)
    except (pa.ArrowException, OSError, struct.error, IndexError, UnicodeDecodeError) as error:
        raise DecodeError("Expected an Arrow IPC stream, got something else") from error
    return decode_dictionaries(table, max_bytes=max_bytes)


def decode_dictionaries(table: pa.Table, *, max_bytes: int) -> pa.Table:
    """Dictionaries become strings, once it is known how long these are together. Raises: LimitExceededError."""
    total = 0
    for i, column in enumerate(table.columns):
        if not pa.types.is_dictionary(column.type):
            continue
        for chunk in column.chunks:
            lengths = pc.binary_length(chunk.dictionary)
            total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
        if total > max_bytes:
            raise LimitExceededError(f"Expected strings of at most {max_bytes} bytes in all, got more")
        table = table.set_column(i, table.schema.names[i], column.cast(pa.string()))
    return table


def check_types(schema: pa.Schema) -> None:
    """Raises: InvalidInputError for anything but numbers, booleans and strings."""
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        flat = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
        text = (pa.types.is_string, pa.types.is_large_string)
        if not any(is_kind(kind) for is_kind in (*flat, *text)) or (
            pa.types.is_dictionary(field.type) and not any(is_kind(kind) for is_kind in text)
        ):
            raise InvalidInputError(f"Expected numbers, booleans or strings, got `{kind}` - at column `{field.name}`")


def _dictionary_bytes(batch: pa.RecordBatch) -> int:
    """Of the buffers: what the offsets in them say is not known to be true yet."""
    columns = [column for column in batch.columns if pa.types.is_dictionary(column.type)]
    return sum(column.dictionary.get_total_buffer_size() for column in columns)


def _check_messages(body: bytes) -> None:
    """What would cost memory to read: buffers that are compressed, for their true size is anybody's guess, and
    dictionaries that continue others, for each would be a copy of all before it. Raises: UnsupportedTypeError.
    """
    for message in pa.ipc.MessageReader.open_stream(body):
        metadata = message.metadata.to_pybytes()
        header = _table_at(metadata, _table(metadata), _HEADER_SLOT)
        if message.type == "dictionary" and header is not None:
            if _flag(metadata, header, _DELTA_SLOT):
                raise UnsupportedTypeError("Expected an Arrow stream of whole dictionaries, got a delta of one")
            header = _table_at(metadata, header, _DATA_SLOT)
        if message.type not in ("dictionary", "record batch") or header is None:
            continue
        if _table_at(metadata, header, _COMPRESSION_SLOT) is not None:
            raise UnsupportedTypeError("Expected an uncompressed Arrow stream, got compressed buffers")


# Messages are FlatBuffers: a table knows where its slots are by a table of offsets before it.
def _table(data: bytes) -> int:
    return int(struct.unpack_from("<I", data, 0)[0])


def _table_at(data: bytes, table: int, slot: int) -> int | None:
    """Where the table in this slot begins; None when the slot is empty. Raises: struct.error outside of the data."""
    place = _slot(data, table, slot)
    return None if place is None else int(place + struct.unpack_from("<I", data, place)[0])


def _flag(data: bytes, table: int, slot: int) -> bool:
    place = _slot(data, table, slot)
    return place is not None and data[place] != 0


def _slot(data: bytes, table: int, slot: int) -> int | None:
    offsets = table - struct.unpack_from("<i", data, table)[0]
    (size,) = struct.unpack_from("<H", data, offsets)
    if 4 + 2 * slot >= size:
        return None
    (place,) = struct.unpack_from("<H", data, offsets + 4 + 2 * slot)
    return int(table + place) if place else None
