"""Strings to codes: the only form in which they reach a compiled model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

_KEY = "zaphod"


class FieldCodes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The codes of one string field, from `offset` on: `values` in order, then null, then any other string.

    refused: codes, without the offset, that the estimator raises on.
    """

    values: tuple[str, ...]
    offset: int
    refused: tuple[int, ...] = ()


class Encoding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How rows become the model's input: numbers, then a code for each string field. Kept in the model's metadata.

    refused_nulls: positions of number fields whose null the estimator raises on.
    allowed_numbers: where a number field takes only some numbers, its position and those, null aside.
    """

    strings: tuple[FieldCodes, ...]
    refused_nulls: tuple[int, ...] = ()
    allowed_numbers: tuple[tuple[int, tuple[float, ...]], ...] = ()


def encode_metadata(encoding: Encoding) -> dict[str, str]:
    """The model's metadata that holds it."""
    return {_KEY: msgspec.json.encode(encoding).decode()}


def decode_metadata(metadata: Mapping[str, str]) -> Encoding:
    """Raises: KeyError or msgspec.MsgspecError when the model was not made here."""
    return msgspec.json.decode(metadata[_KEY], type=Encoding)


class Coder:
    """Codes of one field; a refused one is -1. Safe to use from several threads."""

    def __init__(self, field: FieldCodes) -> None:
        size = len(field.values)
        codes = [-1.0 if i in field.refused else float(field.offset + i) for i in range(size + 2)]
        self._null, self._other = codes[size], codes[size + 1]
        self._by_value: dict[str | None, float] = dict(zip(field.values, codes[:size], strict=True))
        self._by_value[None] = self._null
        self._table = np.array([*codes[:size], self._null, self._other])
        self._arrow_values = pa.array(field.values, type=pa.string())

    def one(self, value: str | None) -> float:
        return self._by_value.get(value, self._other)

    def many(self, column: list[str | None] | pa.Array) -> NDArray[np.float64]:
        """float64, shape (n_rows,)."""
        if isinstance(column, list):
            found = map(self._by_value.get, column, itertools.repeat(self._other))
            return np.fromiter(found, dtype=np.float64, count=len(column))
        if pa.types.is_dictionary(column.type):
            codes = np.append(self._arrow(column.dictionary), self._null)
            coded: NDArray[np.float64] = codes[np.asarray(column.indices.fill_null(len(column.dictionary)))]
            return coded
        return self._arrow(column)

    def _arrow(self, column: pa.Array) -> NDArray[np.float64]:
        size = len(self._arrow_values)
        positions = pc.index_in(column, value_set=self._arrow_values, skip_nulls=True)
        found = pc.fill_null(positions, size + 1).to_numpy(zero_copy_only=False)
        if column.null_count:
            found = np.where(np.asarray(pc.is_null(column)), size, found)
        codes: NDArray[np.float64] = self._table[found]
        return codes
