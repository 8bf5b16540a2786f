"""Gathers calls of one origin a few at a time, cheaply; makes Arrow columns of all of them once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.monitoring.record import Call, Origin
from zaphod.predictor import Predictions

_NONE = -1
_PLAIN = {list, tuple}


@dataclass(slots=True)
class Texts:
    """A string column to be: lists, which grow, and Arrow arrays, which stay whole."""

    parts: list[list[str | None] | pa.Array] = field(default_factory=list)

    def add(self, values: Sequence[str | None] | pa.Array) -> None:
        if isinstance(values, pa.Array):
            self.parts.append(values.cast(pa.string()))
        elif self.parts and isinstance(self.parts[-1], list):
            self.parts[-1].extend(values)
        else:
            self.parts.append(list(values))

    def add_all(self, several: Sequence[Sequence[str | None] | pa.Array]) -> None:
        """One after the other."""
        if set(map(type, several)) <= _PLAIN:
            self.add(list(itertools.chain.from_iterable(several)))
        else:
            for values in several:
                self.add(values)

    def array(self) -> pa.Array:
        arrays = [part if isinstance(part, pa.Array) else pa.array(part, pa.string()) for part in self.parts]
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


@dataclass(slots=True)
class Gathered:
    """Calls of one origin and hour, that were all predicted or none. Lists but `ids` and columns have one item a call.

    statuses, errors, error_fields: of calls that were not predicted.
    """

    origin: Origin
    predicted: bool
    num_rows: int = 0
    counts: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)
    errors: list[str | None] = field(default_factory=list)
    error_fields: list[str | None] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    id_counts: list[int] = field(default_factory=list)
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    buckets: list[NDArray[np.int64]] = field(default_factory=list)
    entities: Texts = field(default_factory=Texts)
    numbers: list[NDArray[np.float64]] = field(default_factory=list)
    strings: tuple[Texts, ...] = ()
    predictions: list[Predictions] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.strings = tuple(Texts() for _ in self.origin.schema.string_fields)

    def add(self, calls: Sequence[Call]) -> None:
        """What costs is done for all calls at once; the calls themselves are forgotten."""
        counts = [call.num_rows for call in calls]
        total = sum(counts)
        self.num_rows += total
        self.counts += counts
        self.times += [call.served_s for call in calls]
        self.latencies += [call.latency_s for call in calls]
        if not self.predicted:
            self.statuses += [call.status for call in calls]
            self.errors += [call.error for call in calls]
            self.error_fields += [call.error_field for call in calls]
        self._add_ids(calls, counts)
        self.rows.append(_joined([call.rows for call in calls], counts, total))
        self.buckets.append(_joined([call.buckets for call in calls], counts, total))
        self._add_entities(calls, total)
        columns = [call.columns for call in calls if call.columns is not None]
        if columns:
            self.numbers.append(np.concatenate([part.numbers for part in columns]))
            for position, texts in enumerate(self.strings):
                texts.add_all([part.strings[position] for part in columns])
        given = [call.predictions for call in calls if call.predictions is not None]
        if given:
            self.predictions.append(join_predictions(given))

    @property
    def columns(self) -> Columns | None:
        """What was asked; None for refusals."""
        if not self.numbers:
            return None
        strings = tuple(texts.array() for texts in self.strings)
        return Columns(numbers=np.concatenate(self.numbers), strings=strings)

    def _add_ids(self, calls: Sequence[Call], counts: Sequence[int]) -> None:
        ids = [call.id for call in calls]
        if set(map(type, ids)) == {str}:
            self.ids += ids  # type: ignore[arg-type]  # just looked
            self.id_counts += counts
            return
        for one, count in zip(ids, counts, strict=True):
            if isinstance(one, str):
                self.ids.append(one)
                self.id_counts.append(count)
            else:
                self.ids += one
                self.id_counts += itertools.repeat(1, count)

    def _add_entities(self, calls: Sequence[Call], total: int) -> None:
        entities = [call.entities for call in calls]
        kinds = set(map(type, entities))
        if kinds == {type(None)}:
            self.entities.add([None] * total)
        elif type(None) not in kinds:
            self.entities.add_all([part for part in entities if part is not None])
        else:
            for part, call in zip(entities, calls, strict=True):
                self.entities.add([None] * call.num_rows if part is None else part)


def join_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Of one model, so that all have the same parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]

    # Predictions of one model have the same parts: where the first has one, all have.
    def joined(known: bool, values: list[NDArray[np.float64] | None]) -> NDArray[np.float64] | None:  # noqa: FBT001
        return np.concatenate(values) if known else None  # type: ignore[arg-type]

    return Predictions(
        labels=None if first.labels is None else np.concatenate([part.labels for part in parts]),
        probabilities=joined(first.probabilities is not None, [part.probabilities for part in parts]),
        values=joined(first.values is not None, [part.values for part in parts]),
        scores=joined(first.scores is not None, [part.scores for part in parts]),
    )


def nullable(parts: Sequence[NDArray[np.int64]], kind: pa.DataType) -> pa.Array:
    """Integers in which a negative number stands for null."""
    values = np.concatenate(parts)
    return pa.array(values, mask=values < 0).cast(kind)


def _joined(parts: Sequence[NDArray[np.int64] | None], counts: Sequence[int], total: int) -> NDArray[np.int64]:
    if set(map(type, parts)) == {type(None)}:
        return np.full(total, _NONE, dtype=np.int64)
    filled = [
        np.full(count, _NONE, dtype=np.int64) if part is None else part
        for part, count in zip(parts, counts, strict=True)
    ]
    return np.concatenate(filled)
