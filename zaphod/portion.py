"""Copies of rows on their way to the process of a challenger in the shadow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from zaphod.columns import Columns, from_table
from zaphod.monitoring.gather import Gathered
from zaphod.monitoring.record import Call, Origin, Single

# One portion is answered at once: so many calls at most are lost when it kills the process.
_MAX_CALLS = 256
_CALL, _ROW, _ENTITY, _BUCKET, _TIME, _INDEX = "_call", "_row", "_entity", "_bucket", "_time", "_index"


class Portion:
    """Calls that go over together: all of single rows, or all of several."""

    def __init__(self, first: Call | Single) -> None:
        """first: has yet to be added."""
        self._gathered = Gathered(first, answers=False)
        self._add_one = self._gathered.adder() if isinstance(first, Single) else None
        self._num_calls = 0

    @property
    def num_rows(self) -> int:
        return self._gathered.num_rows

    def takes(self, item: Call | Single) -> bool:
        """There is room, and it is like the others."""
        return (
            self._num_calls < _MAX_CALLS
            and isinstance(item, Single) is (self._add_one is not None)
            and isinstance(item.id, str) is not self._gathered.by_row
        )

    def add(self, item: Call | Single) -> None:
        """Copies it."""
        self._num_calls += 1
        if isinstance(item, Call):
            self._gathered.add(item)
        elif self._add_one is not None:
            self._add_one(item)

    def frame(self) -> bytes:
        """An Arrow stream of the rows, as the champion's schema has them, and of what their records need."""
        gathered = self._gathered
        calls = np.repeat(np.arange(len(gathered.counts)), gathered.counts)
        ids = gathered.ids.array()
        table = pa.table(gathered.features())
        for name, column in (
            (_CALL, ids if gathered.by_row else ids.take(pa.array(calls))),
            (_ROW, gathered.row_numbers()),
            (_BUCKET, gathered.bucket_numbers()),
            (_ENTITY, gathered.entities.array()),
            (_TIME, pa.array(gathered.spread(gathered.times))),
            (_INDEX, pa.array(calls)),
        ):
            table = table.append_column(name, column)
        with contextlib.closing(pa.BufferOutputStream()) as sink:
            with pa.ipc.new_stream(sink, table.schema) as stream:
                stream.write_table(table)
            data: bytes = sink.getvalue().to_pybytes()
        return data


def calls_of(frame: bytes, origin: Origin) -> Iterator[Call]:
    """The calls of a portion, as the champion was asked, under another origin; its schema is the champion's."""
    table = pa.ipc.open_stream(frame).read_all()
    columns = from_table(origin.schema, table).columns
    strings = [column if isinstance(column, list) else column.to_pylist() for column in columns.strings]
    index = table.column(_INDEX).to_numpy()
    starts = np.flatnonzero(np.diff(index, prepend=-1)).tolist()
    ids, entities = (table.column(name).to_pylist() for name in (_CALL, _ENTITY))
    rows, buckets = (table.column(name).fill_null(-1).to_numpy() for name in (_ROW, _BUCKET))
    times = table.column(_TIME).to_pylist()
    for start, end in zip(starts, [*starts[1:], len(index)], strict=True):
        numbered = rows[start] >= 0
        yield Call(
            origin=origin,
            id=ids[start] if numbered or end == start + 1 else ids[start:end],
            served_s=times[start],
            num_rows=end - start,
            rows=rows[start:end] if numbered else None,
            columns=Columns(columns.numbers[start:end], tuple(values[start:end] for values in strings)),
            entities=entities[start:end],
            buckets=buckets[start:end] if buckets[start] >= 0 else None,
        )
