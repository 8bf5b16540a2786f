"""A running experiment in an arm: splits rows between champion and challenger, and puts the answers together again."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.contender import Contender
from zaphod.errors import PredictionError
from zaphod.experiment.assignment import Splitter
from zaphod.experiment.spec import Experiment, Mode
from zaphod.monitoring.record import Origin
from zaphod.predictor import Predictions
from zaphod.schema import Schema
from zaphod.shadow import ShadowWorker

# Into so many parts go rows on which a variant has failed: with a single bad row that is as many calls as halves take.
_PARTS = 4
# So many rows, spread over the call, are asked about alone until one is answered: else nothing is left to look for.
_PROBES = 64
# Calls that are made at most to find the rows that fail: so many, or one for so many rows.
_MIN_CALLS = 2_048
_ROWS_PER_CALL = 4


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that one variant was asked about. rows: int64 positions, None for all. Either it answered or it failed."""

    origin: Origin
    rows: NDArray[np.int64] | None
    latency_s: float
    predictions: Predictions | None = None
    error: PredictionError | None = None


@dataclass(frozen=True, slots=True)
class Split:
    """Buckets of all rows, int64, and which of them are the challenger's, bool; shape (n_rows,) each."""

    buckets: NDArray[np.int64]
    challenger: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Trial:
    """Who gets what depends on the phase and the ids alone.

    fallback: the champion's origin for rows on which the challenger has failed. shadow: where copies go.
    """

    experiment: Experiment
    champion: Contender
    challenger: Contender
    fallback: Origin
    splitter: Splitter
    threshold: int
    shadow: ShadowWorker | None = None

    @property
    def inline(self) -> bool:
        return self.experiment.mode is not Mode.AB or self.challenger.predictor.engine == "onnx"

    def complete(
        self, entities: Sequence[str | None] | None, schema: Schema, columns: Columns
    ) -> Sequence[str | None] | pa.Array | None:
        """Of each row: as the caller says, else by the field that the experiment names."""
        if entities is None:
            return self._field(schema, columns)
        if self.experiment.entity is None or None not in entities:
            return entities
        found = self._field(schema, columns)
        if found is None:
            return entities
        known = found.to_pylist() if isinstance(found, pa.Array) else found
        return [b if a is None else a for a, b in zip(entities, known, strict=True)]

    def _field(self, schema: Schema, columns: Columns) -> Sequence[str | None] | pa.Array | None:
        """From the field that the experiment names, a string or an integer; None when it names none."""
        name = self.experiment.entity
        if name is None:
            return None
        for position, field in enumerate(schema.string_fields):
            if field.name == name:
                return columns.strings[position]
        for position, field in enumerate(schema.number_fields):
            if field.name == name:
                return [None if value != value else str(int(value)) for value in columns.numbers[:, position].tolist()]
        return None

    def split(self, ids: Sequence[str], entities: Sequence[str | None] | pa.Array | None) -> Split:
        """A row without an entity is assigned by its prediction's id. ids: one a row."""
        if entities is None:
            buckets = self.splitter.buckets(ids)
        elif isinstance(entities, pa.Array) and not entities.null_count:
            buckets = self.splitter.buckets(entities)
        else:
            known = entities.to_pylist() if isinstance(entities, pa.Array) else entities
            buckets = self.splitter.buckets([a if b is None else b for a, b in zip(ids, known, strict=True)])
        return Split(buckets, buckets < self.threshold)

    def ask(self, columns: Columns, split: Split) -> list[Part]:
        """Each variant about its rows, and the champion about those on which the challenger failed."""
        mine = split.challenger
        if self.experiment.mode is not Mode.AB or not mine.any():
            return [ask(self.champion, columns)]
        if mine.all():
            return self._challenge(columns, None)
        theirs, rows = np.flatnonzero(~mine), np.flatnonzero(mine)
        return [ask(self.champion, columns.take(theirs), rows=theirs), *self._challenge(columns, rows)]

    def _challenge(self, columns: Columns, rows: NDArray[np.int64] | None) -> list[Part]:
        """rows: of the call, its columns being given; None for all."""
        fallback = Contender(self.champion.predictor, self.fallback)
        parts = ask_apart(self.challenger, columns, rows=rows)
        if parts[-1].error is not None:
            failed = parts[-1].rows
            parts.append(ask(fallback, columns if failed is None else columns.take(failed), rows=failed))
        return parts


def ask(
    contender: Contender,
    columns: Columns,
    *,
    rows: NDArray[np.int64] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Part:
    """columns: of these rows alone."""
    began = clock()
    try:
        predictions = contender.predict(columns)
    except PredictionError as error:
        return Part(contender.origin, rows, clock() - began, error=error)
    return Part(contender.origin, rows, clock() - began, predictions)


def ask_apart(
    contender: Contender,
    columns: Columns,
    *,
    rows: NDArray[np.int64] | None = None,
    max_calls: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Part]:
    """About these rows of a call, None for all; one row's failure is not its neighbours', however many are asked about.

    Where the whole fails, parts of it are asked about, and parts of those that fail, down to single rows. So there are
    at most two parts: what was answered, and what fails. Rows that fail together count as failing when hardly any is
    answered, and when too many calls would be needed: past about one bad row in fifty of a large call.

    columns: of the whole call. max_calls: instead of a number that grows with the rows.
    """
    whole = ask(contender, columns if rows is None else columns.take(rows), rows=rows, clock=clock)
    places = np.arange(columns.num_rows) if rows is None else rows
    num_rows = len(places)
    if whole.error is None or num_rows == 1:
        return [whole]
    calls_left = max(_MIN_CALLS, num_rows // _ROWS_PER_CALL) if max_calls is None else max_calls
    num_probes = min(_PROBES, calls_left)
    if num_rows > num_probes:
        spread = places[np.linspace(0, num_rows - 1, num_probes, dtype=np.int64)]
        if all(ask(contender, columns.take(row)).error is not None for row in np.split(spread, num_probes)):
            return [whole]
    answered: list[Part] = []
    bad: list[NDArray[np.int64]] = []
    failing = [places]
    while failing:
        smaller = [each for failed in failing for each in np.array_split(failed, min(_PARTS, len(failed)))]
        calls_left -= len(smaller)
        if calls_left < 0:
            break
        failing = []
        for each in smaller:
            part = ask(contender, columns.take(each), rows=each, clock=clock)
            if part.error is None:
                answered.append(part)
            elif len(each) > 1:
                failing.append(each)
            else:
                bad.append(each)
    bad += failing
    if not answered:
        return [whole]
    good = np.sort(np.concatenate([part.rows for part in answered if part.rows is not None]))
    latency_s = sum(part.latency_s for part in answered)
    parts = [Part(contender.origin, good, latency_s, merge(answered, len(good)))]
    if bad:
        parts.append(dataclasses.replace(whole, rows=np.sort(np.concatenate(bad))))
    return parts


def merge(parts: Sequence[Part], num_rows: int) -> Predictions:
    """The answers in the order of the rows; parts that failed have none."""
    given = [(part.rows, part.predictions) for part in parts if part.predictions is not None]
    if len(given) == 1:
        return given[0][1]
    order = np.argsort(np.concatenate([rows for rows, _ in given if rows is not None]), kind="stable")
    assert len(order) == num_rows  # every row has one answer

    def joined(values: Sequence[NDArray[np.generic] | None]) -> NDArray[np.generic] | None:
        known = [value for value in values if value is not None]
        return np.concatenate(known)[order] if known else None

    def numbers(values: Sequence[NDArray[np.float64] | None]) -> NDArray[np.float64] | None:
        known = [value for value in values if value is not None]
        return np.concatenate(known)[order] if known else None

    return Predictions(
        labels=joined([answer.labels for _, answer in given]),
        probabilities=numbers([answer.probabilities for _, answer in given]),
        values=numbers([answer.values for _, answer in given]),
        scores=numbers([answer.scores for _, answer in given]),
    )
