"""Reads a Thrift struct of the compact protocol: as much as Parquet's footers and page headers need.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from zaphod.errors import DecodeError, LimitExceededError

_TRUE, _FALSE, _BYTE, _I16, I32, I64, _DOUBLE, BINARY, LIST, _SET, _MAP, STRUCT = range(1, 13)
_BITS = {_I16: 32, I32: 32, I64: 64}
_SIZES = {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}
_MAX_DEPTH = 8
_MAX_PLACE = 32_767
_LONG_LIST = 15

Value: TypeAlias = "int | bytes | Struct | list[Value] | None"
# The field numbers that lead from the outermost struct to a field.
Path: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct's wire types and values by their field numbers; None for floats, bytes and booleans, which were skipped.

    Who asks for a field says its type, as a generated reader does: to that one a field of another type is none at all.
    All raise DecodeError when the field is there in another type.
    """

    fields: dict[int, tuple[int, Value]] = field(default_factory=dict)

    def i32(self, place: int) -> int:
        """0 when there is none."""
        value = self._of_kind(place, I32)
        return value if isinstance(value, int) else 0

    def i64(self, place: int) -> int:
        """0 when there is none."""
        value = self._of_kind(place, I64)
        return value if isinstance(value, int) else 0

    def binary(self, place: int) -> bytes:
        """Raises: DecodeError when there is none, too."""
        value = self._of_kind(place, BINARY)
        if not isinstance(value, bytes):
            raise DecodeError("Expected Parquet metadata with all they need, got less")
        return value

    def struct(self, place: int) -> Struct:
        """Raises: DecodeError when there is none, too."""
        value = self._of_kind(place, STRUCT)
        if not isinstance(value, Struct):
            raise DecodeError("Expected Parquet metadata with all they need, got less")
        return value

    def structs(self, place: int) -> list[Struct]:
        """The structs of a list; empty when there is none."""
        return [value for value in self._list(place) if isinstance(value, Struct)]

    def binaries(self, place: int) -> list[bytes]:
        """The binaries of a list; empty when there is none."""
        return [value for value in self._list(place) if isinstance(value, bytes)]

    def _list(self, place: int) -> list[Value]:
        value = self._of_kind(place, LIST)
        return value if isinstance(value, list) else []

    def _of_kind(self, place: int, kind: int) -> Value:
        found, value = self.fields.get(place, (kind, None))
        if found != kind:
            raise DecodeError("Expected Parquet metadata of Parquet's types, got others")
        return value


class Reader:
    """Reads structs from a stranger's bytes, or refuses them where generated readers could read something else.

    These take the last of two fields of one number, skip fields of a wrong type, cut numbers to their width, and read
    a list's values as their own type, whatever the list says.

    max_values: in all together, so that few bytes make few objects.
    """

    def __init__(self, data: bytes, *, max_values: int) -> None:
        self._data = data
        self._left = max_values

    def read_struct(self, position: int, *, lists: Mapping[Path, int], path: Path = ()) -> tuple[Struct, int]:
        """The struct at this position, and where it ends. lists: the types of all lists there may be in it.

        Raises: DecodeError; LimitExceededError; IndexError when the data end within.
        """
        if len(path) > _MAX_DEPTH:
            raise DecodeError(f"Expected at most {_MAX_DEPTH} structs within each other, got more")
        made, place = Struct(), 0
        while head := self._data[position]:
            kind, delta = head & 0x0F, head >> 4
            position += 1
            if delta:
                place += delta
            else:
                place, position = self._zigzag(position, bits=_BITS[_I16])
            if not 0 < place <= _MAX_PLACE or place in made.fields:
                raise DecodeError("Expected each field of Parquet metadata once, got one again or none of its fields")
            value, position = self._value(position, kind, lists=lists, path=(*path, place))
            made.fields[place] = kind, value
        return made, position + 1

    def _value(self, position: int, kind: int, *, lists: Mapping[Path, int], path: Path) -> tuple[Value, int]:
        self._left -= 1
        if self._left < 0:
            raise LimitExceededError("Expected less Parquet metadata, got more")
        if kind in _BITS:
            return self._zigzag(position, bits=_BITS[kind])
        if kind == STRUCT:
            return self.read_struct(position, lists=lists, path=path)
        if kind == BINARY:
            size, position = self._varint(position, bits=32)
            if position + size > len(self._data):
                raise IndexError
            return self._data[position : position + size], position + size
        if kind == LIST:
            return self._list(position, lists=lists, path=path)
        if kind in _SIZES:
            return None, position + _SIZES[kind]
        # Parquet has no maps and no sets.
        raise DecodeError("Expected Parquet metadata, got something else")

    def _list(self, position: int, *, lists: Mapping[Path, int], path: Path) -> tuple[list[Value], int]:
        size, kind = self._data[position] >> 4, self._data[position] & 0x0F
        position += 1
        if size == _LONG_LIST:
            size, position = self._varint(position, bits=32)
        if size and kind != lists.get(path):
            raise DecodeError("Expected the lists that Parquet metadata have, got others")
        values: list[Value] = []
        for _ in range(size):
            value, position = self._value(position, kind, lists=lists, path=path)
            values.append(value)
        return values, position

    def _varint(self, position: int, *, bits: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, bits, 7):
            byte = self._data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >> bits:
                    break
                return value, position
        raise DecodeError(f"Expected a number of at most {bits} bits, got a longer one")

    def _zigzag(self, position: int, *, bits: int) -> tuple[int, int]:
        value, position = self._varint(position, bits=bits)
        return (value >> 1) ^ -(value & 1), position
