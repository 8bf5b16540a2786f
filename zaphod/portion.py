"""Copies of rows on their way to the process of a challenger in the shadow.

A copy is bytes from the moment it is taken: a row costs the champion one call, and the thread that ships copies has
nothing left to do with them but to write, so that it does not hold up answers either.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import pyarrow as pa

from zaphod.columns import Columns
from zaphod.monitoring.record import Call, Origin, Single, Singles
from zaphod.predictor import Predictions

# One portion is answered at once: so many calls at most are lost when it kills the process.
_MAX_CALLS = 256
# MessagePack's mark of an array whose length has four bytes.
_ARRAY = b"\xdd"
_HEAD_BYTES = 5

_encoder = msgspec.msgpack.Encoder()


class Copy(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A call. Fields as in `Call`; numbers: as they are in memory, row by row."""

    id: str | list[str]
    served_s: float
    num_rows: int
    numbers: bytearray
    strings: tuple[list[str | None], ...]
    entities: list[str | None]
    buckets: list[int] | None
    rows: list[int] | None


_decoder = msgspec.msgpack.Decoder(list[Copy])


class Portion:
    """Calls that go over together."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._num_calls = 0
        self._frame = bytearray(_HEAD_BYTES)

    @property
    def full(self) -> bool:
        return self._num_calls >= _MAX_CALLS

    def add(self, item: Call | Single) -> None:
        """Copies it. Raises: what the encoder does, of strings that are none; then it is as before."""
        before = len(self._frame)
        try:
            _encoder.encode_into(_one(item) if isinstance(item, Single) else _several(item), self._frame, -1)
        except Exception:
            del self._frame[before:]
            raise
        self.num_rows += item.num_rows
        self._num_calls += 1

    def frame(self) -> bytearray:
        """Its own memory."""
        self._frame[:_HEAD_BYTES] = _ARRAY + self._num_calls.to_bytes(4, "big")
        return self._frame


def _one(row: Single) -> tuple[object, ...]:
    columns = row.columns
    strings = columns.strings
    if strings and not isinstance(strings[0], list):
        strings = tuple(map(_listed, strings))
    return (
        row.id, row.served_s, 1, columns.numbers.tobytes(), strings, (row.entity,),
        (row.bucket,) if row.bucket >= 0 else None, None,
    )  # fmt: skip


def _several(call: Call) -> Copy:
    assert call.columns is not None  # copies are of rows that were scored
    entities = [None] * call.num_rows if call.entities is None else call.entities
    return Copy(
        id=call.id if isinstance(call.id, str) else list(call.id),
        served_s=call.served_s,
        num_rows=call.num_rows,
        numbers=bytearray(call.columns.numbers.tobytes()),
        strings=tuple(_listed(values) for values in call.columns.strings),
        entities=_listed(entities),
        buckets=None if call.buckets is None else call.buckets.tolist(),
        rows=None if call.rows is None else call.rows.tolist(),
    )


def _listed(values: Sequence[str | None] | pa.Array) -> list[str | None]:
    return values.to_pylist() if isinstance(values, pa.Array) else list(values)


def calls_of(frame: bytes | bytearray, origin: Origin) -> Iterator[Call]:
    """The calls of a portion, as the champion was asked, under another origin; its schema is the champion's."""
    for copy in _decoder.decode(frame):
        yield _call(copy, origin)


def groups_of(frame: bytes | bytearray, origin: Origin) -> Iterator[Group]:
    """The calls of a portion, those of one row and one hour together, under another origin."""
    for hour, copies in itertools.groupby(_decoder.decode(frame), key=_hour_of_single):
        if hour is None:
            for copy in copies:
                yield Group((copy,), origin)
        else:
            yield Group(tuple(copies), origin)


class Group:
    """Copies that may be scored together."""

    def __init__(self, copies: tuple[Copy, ...], origin: Origin) -> None:
        """Several have one row each."""
        self._copies = copies
        self._origin = origin

    def __len__(self) -> int:
        return len(self._copies)

    def calls(self) -> Iterator[Call]:
        """One by one."""
        return (_call(copy, self._origin) for copy in self._copies)

    def columns(self) -> Columns:
        """Of all rows."""
        numbers = np.frombuffer(b"".join([copy.numbers for copy in self._copies]))
        num_strings = len(self._copies[0].strings)
        return Columns(
            numbers=numbers.reshape(len(self._copies), -1),
            strings=tuple([copy.strings[i][0] for copy in self._copies] for i in range(num_strings)),
        )

    def answered(self, columns: Columns, predictions: Predictions, *, latency_s: float) -> Singles:
        """For the log. columns: what `columns` made. latency_s: what one of them takes, noted with the last."""
        copies = self._copies
        buckets = [copy.buckets[0] for copy in copies if copy.buckets is not None]
        return Singles(
            origin=self._origin,
            id=[copy.id if isinstance(copy.id, str) else copy.id[0] for copy in copies],
            served_s=[copy.served_s for copy in copies],
            latency_s=[*(math.nan for _ in copies[1:]), latency_s],
            columns=columns,
            predictions=predictions,
            entities=[copy.entities[0] for copy in copies],
            buckets=np.array(buckets) if len(buckets) == len(copies) else None,
        )


def _hour_of_single(copy: Copy) -> int | None:
    """None of a call of several rows, or of one that had more."""
    return int(copy.served_s // 3600) if copy.num_rows == 1 and copy.rows is None else None


def _call(copy: Copy, origin: Origin) -> Call:
    return Call(
        origin=origin,
        id=copy.id,
        served_s=copy.served_s,
        num_rows=copy.num_rows,
        rows=None if copy.rows is None else np.array(copy.rows),
        columns=Columns(np.frombuffer(copy.numbers).reshape(copy.num_rows, -1), copy.strings),
        entities=copy.entities,
        buckets=None if copy.buckets is None else np.array(copy.buckets),
    )
