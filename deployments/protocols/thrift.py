"""Reads one Thrift struct of the compact protocol: as much as Parquet's page headers need.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from dataclasses import dataclass, field

from zaphod.errors import DecodeError

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_MAX_DEPTH = 8
_MAX_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class Struct:
    """The numbers and structs of a struct by their field numbers; all else was skipped."""

    numbers: dict[int, int] = field(default_factory=dict)
    structs: dict[int, Struct] = field(default_factory=dict)

    def number(self, place: int) -> int:
        """0 when there is none."""
        return self.numbers.get(place, 0)

    def struct(self, place: int) -> Struct | None:
        return self.structs.get(place)


def read_struct(data: bytes, position: int, *, depth: int = 0) -> tuple[Struct, int]:
    """The struct at this position, and where it ends. Raises: DecodeError; IndexError when the data end within."""
    if depth > _MAX_DEPTH:
        raise DecodeError(f"Expected at most {_MAX_DEPTH} structs within each other, got more")
    made = Struct()
    place = 0
    while head := data[position]:
        position += 1
        kind, delta = head & 0x0F, head >> 4
        if delta:
            place += delta
        else:
            place, position = _zigzag(data, position)
        match kind:
            case _ if kind in (_I16, _I32, _I64):
                made.numbers[place], position = _zigzag(data, position)
            case _ if kind == _STRUCT:
                made.structs[place], position = read_struct(data, position, depth=depth + 1)
            case _ if kind not in (_TRUE, _FALSE):
                position = _skip(data, position, kind, depth=depth)
    return made, position + 1


def _skip(data: bytes, position: int, kind: int, *, depth: int) -> int:
    if kind == _BYTE:
        return position + 1
    if kind == _DOUBLE:
        return position + 8
    if kind == _BINARY:
        size, position = _varint(data, position)
        return position + size
    # Page headers have no lists, sets or maps; whoever writes some means no good.
    raise DecodeError("Expected a Parquet page header, got something else")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for i in range(_MAX_VARINT_BYTES):
        byte = data[position + i]
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, position + i + 1
    raise DecodeError("Expected a number of at most 10 bytes, got a longer one")


def _zigzag(data: bytes, position: int) -> tuple[int, int]:
    value, position = _varint(data, position)
    return (value >> 1) ^ -(value & 1), position
