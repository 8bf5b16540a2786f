"""Reads a Thrift struct of the compact protocol: as much as Parquet's footers and page headers need.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from zaphod.errors import DecodeError, LimitExceededError

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_INTEGERS = (_I16, _I32, _I64)
_MAX_DEPTH = 8
_MAX_VARINT_BYTES = 10
_LONG_LIST = 15


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct's values by their field numbers; floats and booleans were skipped."""

    numbers: dict[int, int] = field(default_factory=dict)
    texts: dict[int, bytes] = field(default_factory=dict)
    structs: dict[int, Struct] = field(default_factory=dict)
    lists: dict[int, list[Value]] = field(default_factory=dict)

    def number(self, place: int) -> int:
        """0 when there is none."""
        return self.numbers.get(place, 0)

    def all_structs(self, place: int) -> list[Struct]:
        """The structs of a list; empty when there is none."""
        return [value for value in self.lists.get(place, ()) if isinstance(value, Struct)]


Value: TypeAlias = "int | bytes | Struct | None"


class Reader:
    """Reads structs from a stranger's bytes. max_values: in all together, so that few bytes make few objects."""

    def __init__(self, data: bytes, *, max_values: int) -> None:
        self._data = data
        self._left = max_values

    def read_struct(self, position: int, *, depth: int = 0) -> tuple[Struct, int]:
        """The struct at this position, and where it ends.

        Raises: DecodeError; LimitExceededError; IndexError when the data end within.
        """
        if depth > _MAX_DEPTH:
            raise DecodeError(f"Expected at most {_MAX_DEPTH} structs within each other, got more")
        made, place = Struct(), 0
        while head := self._data[position]:
            kind, delta = head & 0x0F, head >> 4
            position += 1
            if delta:
                place += delta
            else:
                place, position = self._zigzag(position)
            if kind in (_TRUE, _FALSE):
                continue
            if kind in (_LIST, _SET):
                made.lists[place], position = self._list(position, depth=depth)
                continue
            value, position = self._value(position, kind, depth=depth)
            if isinstance(value, int):
                made.numbers[place] = value
            elif isinstance(value, bytes):
                made.texts[place] = value
            elif value is not None:
                made.structs[place] = value
        return made, position + 1

    def _list(self, position: int, *, depth: int) -> tuple[list[Value], int]:
        size, kind = self._data[position] >> 4, self._data[position] & 0x0F
        position += 1
        if size == _LONG_LIST:
            size, position = self._varint(position)
        values: list[Value] = []
        for _ in range(size):
            value, position = self._value(position, _BYTE if kind in (_TRUE, _FALSE) else kind, depth=depth)
            values.append(value)
        return values, position

    def _value(self, position: int, kind: int, *, depth: int) -> tuple[Value, int]:
        self._left -= 1
        if self._left < 0:
            raise LimitExceededError("Expected less Parquet metadata, got more")
        if kind in _INTEGERS:
            return self._zigzag(position)
        if kind == _STRUCT:
            return self.read_struct(position, depth=depth + 1)
        if kind == _BINARY:
            size, position = self._varint(position)
            if position + size > len(self._data):
                raise IndexError
            return self._data[position : position + size], position + size
        if kind in (_BYTE, _DOUBLE):
            return None, position + (1 if kind == _BYTE else 8)
        # Parquet has no maps, and no lists of lists.
        raise DecodeError("Expected Parquet metadata, got something else")

    def _varint(self, position: int) -> tuple[int, int]:
        value = 0
        for i in range(_MAX_VARINT_BYTES):
            byte = self._data[position + i]
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                return value, position + i + 1
        raise DecodeError("Expected a number of at most 10 bytes, got a longer one")

    def _zigzag(self, position: int) -> tuple[int, int]:
        value, position = self._varint(position)
        return (value >> 1) ^ -(value & 1), position
