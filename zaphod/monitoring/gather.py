"""Takes calls of one origin apart as they come, into a column each; makes Arrow arrays of the columns once.

A call that is kept until later costs several times what it costs to take apart at once: its dozen objects leave the
processor's cache, and Python's collector goes through all of them again and again. What is kept here are bytes, and
lists of strings, which the collector never looks at.
"""

from __future__ import annotations

import io
import threading
from array import array
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zaphod.columns import arrow_type
from zaphod.monitoring.record import Call, Origin, Single, Singles
from zaphod.predictor import Predictions

_PACK_ROWS = 1_024
# So many that come together are not gathered with others first.
_JOIN_ROWS = 64
_PARTS = ("labels", "probabilities", "values", "scores")
# Looked for as a number: Python takes several times as long to find bytes in bytes.
_ESCAPE = ord("\\")

_encode_lines = msgspec.json.Encoder().encode_lines
_decode_lines = msgspec.json.Decoder(str | None).decode_lines

AnyT = TypeVar("AnyT", bound=np.generic)
Places: TypeAlias = list[tuple[int, NDArray[np.int64]]]


class Buffers:
    """Memory that columns are gathered in, over and over: fresh memory costs more than what is written to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[io.BytesIO] = []
        self._rested: list[io.BytesIO] = []

    def take(self) -> io.BytesIO:
        """An empty one. May be called by any thread, as all here."""
        with self._lock:
            for lying in (self._free, self._rested):
                for place, buffer in enumerate(lying):
                    if _rewind(buffer):
                        del lying[place]
                        return buffer
        return io.BytesIO()

    def give(self, buffer: io.BytesIO) -> None:
        """To be taken again once nobody looks at its memory any more."""
        with self._lock:
            self._free.append(buffer)

    def sweep(self) -> None:
        """Forgets those that nobody took since the last time."""
        with self._lock:
            self._rested, self._free = self._free, []


def _rewind(buffer: io.BytesIO) -> bool:
    """Keeps its memory; False when an array still is on it."""
    try:
        buffer.truncate(buffer.seek(0, io.SEEK_END))
    except BufferError:
        return False
    buffer.seek(0)
    return True


def _written(buffer: io.BytesIO) -> memoryview:
    """What it holds, in place: taken again it may hold more, from before."""
    return buffer.getbuffer()[: buffer.tell()]


class Texts:
    """A string column to be. Strings that come as lists, or one by one, become lines of JSON, by the list or the
    thousand: while they are still in the processor's cache, and so that they are not kept. A line is what any string,
    and None, is made into by one call in C; Arrow takes the lines apart again later, without Python's lock.
    """

    __slots__ = ("_arrays", "_buffers", "_escaped", "_lines", "_num_lines", "append", "last")

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        # With the number of lines before each.
        self._arrays: list[tuple[int, pa.Array]] = []
        self._lines = buffers.take()
        self._num_lines = 0
        self._escaped = False
        self.last: list[str | None] = []
        self.append = self.last.append

    def add(self, values: Sequence[str | None] | pa.Array) -> None:
        if isinstance(values, pa.Array):
            self.pack()
            self._arrays.append((self._num_lines, values.cast(pa.string())))
        elif len(values) >= _JOIN_ROWS:
            self.pack()
            self._write(values)
        else:
            self.last.extend(values)

    def pack(self) -> None:
        if self.last:
            self._write(self.last)
            self.last.clear()

    def _write(self, values: Sequence[str | None]) -> None:
        try:
            lines = _encode_lines(values)
        except TypeError:
            # A table of one row gives scalars of Arrow.
            lines = _encode_lines(pa.array(values, pa.string()).to_pylist())
        if _ESCAPE in lines:
            self._escaped = True
        self._lines.write(lines)
        self._num_lines += len(values)

    def array(self) -> pa.Array:
        """To be called once."""
        self.pack()
        texts = _from_lines(_written(self._lines), escaped=self._escaped)
        self._buffers.give(self._lines)
        parts, begin = [], 0
        for end, values in self._arrays:
            parts += [texts[begin:end], values]
            begin = end
        parts = [part for part in (*parts, texts[begin:]) if len(part)]
        if len(parts) == 1:
            return parts[0]
        return pa.concat_arrays(parts) if parts else texts


def _from_lines(lines: memoryview, *, escaped: bool) -> pa.Array:
    """lines: of JSON, each a string or null."""
    if escaped or not lines:
        return pa.array(_decode_lines(lines), pa.string())
    # Without escapes a string is what stands between its quotes, and holds neither a quote nor the end of a line.
    ends = pa.py_buffer(np.array([0, len(lines) - 1], dtype=np.int32))
    whole = pa.Array.from_buffers(pa.string(), 1, [None, ends, pa.py_buffer(lines)])
    quoted = pc.split_pattern(whole, "\n").values
    missing = pc.equal(quoted, "null")
    texts = pc.ascii_trim(quoted, '"')
    return pc.if_else(missing, None, texts) if pc.any(missing).as_py() else texts


class Block:
    """Arrays of one kind, of one column or several, one after the other."""

    __slots__ = ("_buffers", "_dtype", "_objects", "_raw", "_whole", "_width", "add")

    def __init__(self, like: NDArray[np.generic], buffers: Buffers) -> None:
        self._buffers = buffers
        self._dtype = like.dtype
        self._width = like.shape[1:]
        self._objects: list[object] = []
        self._whole: list[NDArray[np.generic]] = []
        self._raw = buffers.take()
        # Bound here, so that a single row takes no step more than it must.
        self.add: Callable[[NDArray[np.generic]], object]
        self.add = self._add_objects if like.dtype.hasobject else self._raw.write  # type: ignore[assignment]  # a buffer

    def add_rows(self, values: NDArray[np.generic]) -> None:
        """Of a call. Those of many rows are kept as they are: a copy would take longer than all else here."""
        if self._dtype.hasobject or len(values) < _JOIN_ROWS:
            # Some estimators give probabilities column by column.
            self.add(np.ascontiguousarray(values))
            return
        self._set_aside()
        self._whole.append(values)

    def _set_aside(self) -> None:
        """What came in pieces so far."""
        if self._raw.tell():
            self._whole.append(self._pieces())
            self._buffers.give(self._raw)
            self._raw = self._buffers.take()
            self.add = self._raw.write  # type: ignore[assignment]  # as above

    def _pieces(self) -> NDArray[np.generic]:
        return np.frombuffer(_written(self._raw), dtype=self._dtype).reshape(-1, *self._width)

    def _add_objects(self, values: NDArray[np.generic]) -> None:
        self._objects.extend(values.ravel().tolist())

    def array(self) -> NDArray[np.generic]:
        """To be called once; shares its memory with the block. Raises: ValueError when the parts were not of one
        width.
        """
        if self._dtype.hasobject:
            made = np.empty(len(self._objects), dtype=object)
            made[:] = self._objects
            return made.reshape(-1, *self._width)
        if not self._whole:
            self._buffers.give(self._raw)
            return self._pieces()
        self._set_aside()
        return np.concatenate(self._whole) if len(self._whole) > 1 else self._whole[0]


class Gathered:
    """Calls of one origin and hour that all have the same parts. One item a call, but ids by rows, strings and blocks.

    by_row: `ids` has one for each row. statuses, errors, error_fields: of calls that were not predicted. rows, buckets:
    of calls that have them, with the row at which such a call begins.
    """

    __slots__ = (
        "_blocks", "_buckets", "_counts", "_latencies", "_num_rows", "_numbers", "_strings", "_times", "buckets",
        "by_row", "entities", "error_fields", "errors", "ids", "origin", "predicted", "rows", "statuses",
        "with_features",
    )  # fmt: skip

    def __init__(self, first: Call | Single | Singles, buffers: Buffers, *, features: bool = True) -> None:
        """first: such as all others; it has yet to be added. buffers: for what is gathered."""
        self.origin: Origin = first.origin
        self.predicted = first.predictions is not None
        self.by_row = not isinstance(first.id, str)
        self.with_features = features and first.columns is not None
        self._num_rows = 0
        self._buckets = array("q")
        self._counts = array("q")
        self._times = array("d")
        self._latencies = array("d")
        self.statuses: list[str] = []
        self.errors: list[str | None] = []
        self.error_fields: list[str | None] = []
        self.ids = Texts(buffers)
        self.rows: Places = []
        self.buckets: Places = []
        self.entities = Texts(buffers)
        self._numbers = Block(np.empty((0, len(self.origin.schema.number_fields))), buffers)
        self._strings = tuple(Texts(buffers) for _ in self.origin.schema.string_fields)
        self._blocks = {
            name: Block(part, buffers)
            for name in _PARTS
            if self.predicted and (part := getattr(first.predictions, name)) is not None
        }

    def adder(self) -> Callable[[Single], None]:
        """Adds single rows; nothing else may be added then. Every step of it is part of each answer's time."""
        add_time, add_latency, add_id = self._times.append, self._latencies.append, self.ids.append
        add_entity, add_number = self.entities.append, self._numbers.add
        add_strings = [texts.append for texts in self._strings]
        add_label, add_probability, add_value, add_score = (
            self._blocks[name].add if name in self._blocks else None for name in _PARTS
        )
        with_features = self.with_features
        # An origin is of an experiment or of none, and with it all its rows.
        add_bucket = self._buckets.append if self.origin.experiment is not None else None
        ids = self.ids.last

        def add(row: Single) -> None:
            add_time(row.served_s)
            add_latency(row.latency_s)
            add_id(row.id)
            add_entity(row.entity)
            if with_features:
                columns = row.columns
                add_number(columns.numbers)
                for add_string, values in zip(add_strings, columns.strings, strict=True):
                    add_string(values[0])
            if add_bucket is not None:
                add_bucket(row.bucket)
            # Predictions of one model have the same parts: where the first has one, all have.
            predictions = row.predictions
            if add_label is not None:
                add_label(predictions.labels)  # type: ignore[arg-type]  # as said
            if add_probability is not None:
                add_probability(predictions.probabilities)  # type: ignore[arg-type]  # as said
            if add_value is not None:
                add_value(predictions.values)  # type: ignore[arg-type]  # as said
            if add_score is not None:
                add_score(predictions.scores)  # type: ignore[arg-type]  # as said
            if len(ids) >= _PACK_ROWS:
                self._pack()

        return add

    def add(self, call: Call | Singles) -> None:
        """All but long arrays is copied; the call is forgotten."""
        num_rows, columns, predictions, entities = call.num_rows, call.columns, call.predictions, call.entities
        if call.buckets is not None:
            self.buckets.append((self._num_rows, call.buckets))
        if isinstance(call, Singles):
            self._counts.extend((1,) * num_rows)
            self._times.extend(call.served_s)
            self._latencies.extend(call.latency_s)
        else:
            self._counts.append(num_rows)
            self._times.append(call.served_s)
            self._latencies.append(call.latency_s)
            if call.rows is not None:
                self.rows.append((self._num_rows, call.rows))
        self._num_rows += num_rows
        if self.by_row:
            self.ids.add(call.id)
        else:
            self.ids.append(call.id)  # type: ignore[arg-type]  # as `by_row` says
        if entities is None:
            # Many None, one by one, would take longer than all else that is done with the call here.
            entities = [None] * num_rows if num_rows < _JOIN_ROWS else pa.nulls(num_rows, pa.string())
        self.entities.add(entities)
        if self.with_features and columns is not None:
            self._numbers.add_rows(columns.numbers)
            for texts, values in zip(self._strings, columns.strings, strict=True):
                texts.add(values)
        for name, block in self._blocks.items():
            block.add_rows(getattr(predictions, name))
        if isinstance(call, Call) and predictions is None:
            self.statuses.append(call.status)
            self.errors.append(call.error)
            self.error_fields.append(call.error_field)
        if len(self.entities.last) >= _PACK_ROWS:
            self._pack()

    def _pack(self) -> None:
        for texts in (self.ids, self.entities, *self._strings):
            texts.pack()

    @property
    def num_rows(self) -> int:
        return self._num_rows or len(self._times)

    @property
    def times(self) -> NDArray[np.float64]:
        """Seconds since the epoch."""
        return np.frombuffer(self._times)

    @property
    def latencies(self) -> NDArray[np.float64]:
        """Seconds; NaN where nobody timed."""
        return np.frombuffer(self._latencies)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Rows."""
        return np.frombuffer(self._counts, dtype=np.int64) if self._counts else np.ones(self.num_rows, dtype=np.int64)

    def features(self) -> dict[str, pa.Array]:
        """What was asked, by the schema's names and in its types; NaN becomes null again. Nothing for refusals."""
        if not self.with_features:
            return {}
        schema = self.origin.schema
        # Without a column the block does not know how many rows it has.
        numbers = np.ascontiguousarray(self._numbers.array().T) if schema.number_fields else np.empty((0, 0))
        nulls = np.isnan(numbers)
        made: dict[str, pa.Array] = {}
        for field, values, null in zip(schema.number_fields, numbers, nulls, strict=True):
            made[field.name] = pa.array(values, mask=null if null.any() else None).cast(arrow_type(field))
        for field, texts in zip(schema.string_fields, self._strings, strict=True):
            made[field.name] = texts.array()
        return {name: made[name] for name in schema.names}

    @property
    def predictions(self) -> Predictions | None:
        """What was answered; None where nothing was."""
        if not self.predicted:
            return None
        return Predictions(**{name: block.array() for name, block in self._blocks.items()})  # type: ignore[arg-type]  # as above

    def spread(self, values: NDArray[AnyT]) -> NDArray[AnyT]:
        """values: one a call; gives one a row."""
        return np.repeat(values, self.counts) if self._counts else values

    def row_numbers(self) -> pa.Array:
        """The position of each row in its call, int64; null where the id says it all."""
        return self._placed(self.rows)

    def bucket_numbers(self) -> pa.Array:
        """The bucket of each row, int64; null outside experiments."""
        if self._buckets:
            return pa.array(np.frombuffer(self._buckets, dtype=np.int64))
        return self._placed(self.buckets)

    def _placed(self, places: Places) -> pa.Array:
        if not places:
            return pa.nulls(self.num_rows, pa.int64())
        if sum(len(values) for _, values in places) == self.num_rows:
            return pa.array(np.concatenate([values for _, values in places]))
        made = np.zeros(self.num_rows, dtype=np.int64)
        null = np.ones(self.num_rows, dtype=np.bool_)
        for start, values in places:
            made[start : start + len(values)] = values
            null[start : start + len(values)] = False
        return pa.array(made, mask=null)
