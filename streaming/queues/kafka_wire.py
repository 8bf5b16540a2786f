"""Zaphod's records as Kafka messages, and back.

An event's bytes, key and headers are the message's own. What Kafka has no place for travels in headers of ours, which
nobody else has to write: an event without them has the CloudEvents id of its headers, or its place in the log, for an
id, and the message's own time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import confluent_kafka
import msgspec

from streaming.queues.base import (
    NO_HEADERS,
    Cause,
    Cursor,
    DeadEntry,
    DeadLetter,
    Delivered,
    Event,
    NewEvent,
    Output,
)

Headers: TypeAlias = list[tuple[str, str | bytes | None]]

_ID, _CREATED, _AT, _KEY = "zaphod-id", "zaphod-created", "zaphod-at", "zaphod-key"
_CAUSE, _REASON, _ATTEMPTS, _VERSION = "zaphod-cause", "zaphod-reason", "zaphod-attempts", "zaphod-version"
_OURS = frozenset({_ID, _CREATED, _AT, _KEY, _CAUSE, _REASON, _ATTEMPTS, _VERSION})


class Record(msgspec.Struct, frozen=True, gc=False):
    """A message that was read. written: seconds since the epoch, by its stamp.

    value: None takes back an earlier message with the key.
    """

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    written: float


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The newest message of a partition of the state topic. expires: seconds since the epoch.

    tried: the offset about to be scored by an owner that may not come back, and how often.
    """

    generation: int = 0
    epoch: int = 0
    owner: str | None = None
    expires: float = 0.0
    tried: int = -1
    attempts: int = 0


def to_record(message: confluent_kafka.Message) -> Record:
    """Of a message without an error: it has all of these."""
    partition, offset = message.partition(), message.offset()
    if partition is None or offset is None:
        raise ValueError("Expected a message with a place, got none")
    key, value = message.key(), message.value()
    pairs: Headers = message.headers() or []  # type: ignore[assignment]  # a list, whatever may be sent
    headers = {name: _text(content) or "" for name, content in pairs}
    return Record(partition, offset, _bytes(key), _bytes(value), headers, message.timestamp()[1] / 1000)


def headers_of_event(event: NewEvent) -> Headers:
    """What a producer adds."""
    return [*_packed(event.headers), (_ID, event.id.encode()), (_CREATED, repr(event.created).encode())]


def headers_of_output(output: Output, cursor: Cursor) -> Headers:
    """With the place of the event that it answers."""
    return [*_packed(output.headers), *_place(output, cursor)]


def headers_of_letter(letter: DeadLetter, cursor: Cursor) -> Headers:
    """The message's key names the place, so that a later message can take it back; the event's own is a header."""
    return [
        *_packed(letter.headers),
        *_place(letter, cursor),
        *([] if letter.key is None else [(_KEY, letter.key.encode())]),
        (_CAUSE, letter.cause.value.encode()),
        (_REASON, letter.reason.encode()),
        (_ATTEMPTS, str(letter.attempts).encode()),
        (_VERSION, str(letter.version).encode()),
    ]


def name_of(cursor: Cursor) -> bytes:
    """How a place is written."""
    return f"{cursor.generation}/{cursor.offset}".encode()


def cursor_of(name: bytes) -> Cursor:
    """The place that was written."""
    generation, offset = name.split(b"/")
    return Cursor(generation=int(generation), offset=int(offset))


def id_of_event(record: Record) -> str:
    """Unique at least within the stream."""
    return record.headers.get(_ID) or record.headers.get("ce_id") or f"{record.partition}-{record.offset}"


def to_event(record: Record) -> Event:
    """As a consumer gets it."""
    key, value = _text(record.key), record.value or b""
    return Event(record.offset, id_of_event(record), key, value, _foreign(record.headers), _created(record))


def to_delivered(record: Record) -> Delivered:
    """As a reader gets it."""
    headers = record.headers
    cursor = cursor_of(headers[_AT].encode())
    output = Output(
        cursor.offset, headers[_ID], _text(record.key), record.value or b"", _foreign(headers), _created(record)
    )
    return Delivered(partition=record.partition, cursor=cursor, output=output, committed=record.written)


def to_dead_entry(record: Record) -> DeadEntry:
    """As `zaphod dlq` gets it."""
    headers = record.headers
    cursor = cursor_of(headers[_AT].encode())
    letter = DeadLetter(
        cursor.offset, headers[_ID], headers.get(_KEY), record.value or b"", _foreign(headers), _created(record),
        Cause(headers[_CAUSE]), headers[_REASON], int(headers[_ATTEMPTS]), int(headers[_VERSION]),
    )  # fmt: skip
    return DeadEntry(record.partition, cursor, letter)


def _packed(headers: Mapping[str, str]) -> Headers:
    return [(name, value.encode()) for name, value in headers.items()]


def _place(record: Output | DeadLetter, cursor: Cursor) -> Headers:
    return [(_ID, record.id.encode()), (_CREATED, repr(record.created).encode()), (_AT, name_of(cursor))]


def _foreign(headers: dict[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in headers.items() if name not in _OURS} or NO_HEADERS


def _text(content: bytes | str | None) -> str | None:
    return content.decode(errors="replace") if isinstance(content, bytes) else content


def _bytes(content: bytes | str | None) -> bytes | None:
    return content.encode() if isinstance(content, str) else content


def _created(record: Record) -> float:
    try:
        return float(record.headers[_CREATED])
    except (KeyError, ValueError):
        return record.written
