"""Whether a compiled model gives the reference's answers: on the sample, on random rows and at the edges."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import msgspec
import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.compiler.engine import OnnxPredictor
from zaphod.compiler.rows import EDGE_BASES, edge_rows, random_rows, threshold_rows
from zaphod.compiler.thresholds import find_thresholds
from zaphod.errors import PredictionError
from zaphod.predictor import Predictions, Predictor
from zaphod.schema import Schema

# Largest difference that still counts as the same answer: absolute for probabilities and scores, relative for values.
MAX_DIFFERENCE = 1e-6

_MAX_ROWS = 20_000
_TIMED_CALLS = 30
_TIMED_REFERENCE_CALLS = 5
# Sample rows that are followed through the trees to find one for each split.
_THRESHOLD_SAMPLE = 1000
# Rows that the compiled model refuses and that the reference is asked about one by one.
_REFUSED_CHECKED = 8
# A reference that raises on many rows is asked about parts of them, and not longer than this.
_MAX_CALLS = 500


class RowsCompared(msgspec.Struct, frozen=True, kw_only=True):
    """Of one kind of row: how many were compared, and how many left out because the reference raises on them."""

    kind: str
    compared: int
    refused: int


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """parity.json.

    largest_absolute: of probabilities, scores and values. largest_relative: of values and scores, against the larger
    of the two answers and of what is usual on the sample. num_thresholds: splits of trees that were tried from either
    side, at one ulp. speed_up: one row, reference time over compiled time.
    """

    passed: bool
    reason: str
    rows: tuple[RowsCompared, ...]
    label_flips: int
    largest_absolute: float
    largest_relative: float
    num_thresholds: int
    speed_up: float | None = None


class _Tally:
    def __init__(self, scale: NDArray[np.float64] | None) -> None:
        self.flips = 0
        self.absolute = 0.0
        self.relative = 0.0
        self.worst = 0.0
        self.worst_kind = ""
        self.flipped_kind = ""
        self.unlike_kind = ""
        self._scale = scale

    def compare(self, expected: Predictions, got: Predictions, *, kind: str) -> None:
        if expected.labels is not None:
            flips = _count_flips(expected, got)
            if flips and not self.flips:
                self.flipped_kind = kind
            self.flips += flips
        if expected.probabilities is not None:
            self._numbers(expected.probabilities, got.probabilities, scale=None, kind=kind)
        if expected.values is not None:
            self._numbers(expected.values, got.values, scale=self._scale, kind=kind)
        if expected.scores is not None:
            self._numbers(
                expected.scores[:, None],
                None if got.scores is None else got.scores[:, None],
                scale=self._scale,
                kind=kind,
            )

    def _numbers(
        self,
        expected: NDArray[np.float64],
        got: NDArray[np.float64] | None,
        *,
        scale: NDArray[np.float64] | None,
        kind: str,
    ) -> None:
        if got is None or got.shape != expected.shape or got.dtype != expected.dtype:
            self.unlike_kind = self.unlike_kind or kind
            return
        finite = np.isfinite(expected)
        with np.errstate(all="ignore"):
            # Where the reference overflows, the compiled model has to overflow to the same.
            same = np.where(finite, np.isfinite(got), (expected == got) | (np.isnan(expected) & np.isnan(got)))
            difference = np.where(finite & (expected != got), np.abs(expected - got), 0.0)
        if not same.all():
            self.unlike_kind = self.unlike_kind or kind
            return
        worst = absolute = float(difference.max(initial=0.0))
        self.absolute = max(self.absolute, absolute)
        if scale is not None:
            size = np.maximum(np.maximum(np.abs(expected), np.abs(got)), scale)
            with np.errstate(all="ignore"):
                worst = float(np.where(difference > 0, difference / size, 0.0).max(initial=0.0))
            self.relative = max(self.relative, worst)
        if worst > self.worst:
            self.worst, self.worst_kind = worst, kind


def check_parity(reference: Predictor, compiled: OnnxPredictor, schema: Schema, *, sample: Columns) -> Parity:
    """Compares every kind of row, both engines on one thread. sample: at least one row."""
    # The edges make scikit-learn warn of overflow and of new categories: they were chosen to.
    with warnings.catch_warnings(), np.errstate(all="ignore"), threadpoolctl.threadpool_limits(1):
        warnings.simplefilter("ignore")
        return _check(reference, compiled, schema, sample)


def _check(reference: Predictor, compiled: OnnxPredictor, schema: Schema, sample: Columns) -> Parity:
    try:
        expected = reference.predict(sample)
    except PredictionError:
        return _failed("the reference cannot predict the sample")
    # What the compiled model refuses it cannot be fed.
    known = sample.take(np.flatnonzero(~compiled.refuses(sample))[:_THRESHOLD_SAMPLE])
    tally = _Tally(_usual_size(expected))
    counts: dict[str, list[int]] = {}
    found = find_thresholds(compiled.model_bytes, compiled.encode(known), num_numbers=len(schema.number_fields))
    at_thresholds = threshold_rows(schema, known, found, max_rows=_MAX_ROWS, rng=np.random.default_rng(1))
    for kind, rows in _kinds(compiled, schema, sample, at_thresholds):
        compared, refused = _compare(reference, compiled, rows, tally, kind=kind)
        count = counts.setdefault(kind, [0, 0])
        count[0] += compared
        count[1] += refused
    reason = _reason(tally)
    return Parity(
        passed=not reason,
        reason=reason or "parity holds",
        rows=tuple(RowsCompared(kind=kind, compared=a, refused=b) for kind, (a, b) in counts.items()),
        label_flips=tally.flips,
        largest_absolute=tally.absolute,
        largest_relative=tally.relative,
        num_thresholds=at_thresholds[1] if at_thresholds else 0,
        speed_up=_speed_up(reference, compiled, sample),
    )


def _kinds(
    compiled: OnnxPredictor, schema: Schema, sample: Columns, at_thresholds: tuple[Columns, int] | None
) -> Iterator[tuple[str, Columns]]:
    rng = np.random.default_rng(0)
    yield "sample", sample
    yield "random", random_rows(schema, sample, compiled.vocabulary, rng=rng)
    yield "edge", edge_rows(schema, sample, compiled.vocabulary, rng=rng)
    if at_thresholds is not None:
        yield "threshold", at_thresholds[0]


def _compare(
    reference: Predictor, compiled: OnnxPredictor, rows: Columns, tally: _Tally, *, kind: str
) -> tuple[int, int]:
    """Rows compared, and rows left out because the reference raises on them."""
    refuses = compiled.refuses(rows)
    if not _raises_on_each(reference, rows.take(np.flatnonzero(refuses)[:_REFUSED_CHECKED])):
        tally.unlike_kind = tally.unlike_kind or kind
    compared, refused = 0, int(refuses.sum())
    waiting = [np.flatnonzero(~refuses)]
    for _ in range(_MAX_CALLS):
        if not waiting:
            break
        chosen = waiting.pop()
        if not chosen.size:
            continue
        part = rows.take(chosen)
        try:
            expected = reference.predict(part)
        except PredictionError:
            if chosen.size <= EDGE_BASES:
                refused += chosen.size
            else:
                half = chosen.size // 2
                waiting += [chosen[:half], chosen[half:]]
            continue
        try:
            got = compiled.predict(part)
        except PredictionError:
            tally.unlike_kind = tally.unlike_kind or kind
            continue
        tally.compare(expected, got, kind=kind)
        compared += chosen.size
    return compared, refused + sum(chosen.size for chosen in waiting)


def _raises_on_each(reference: Predictor, rows: Columns) -> bool:
    for i in range(rows.num_rows):
        try:
            reference.predict(rows.take(np.array([i])))
        except PredictionError:
            continue
        return False
    return True


def _count_flips(expected: Predictions, got: Predictions) -> int:
    if got.labels is None or got.labels.shape != expected.labels.shape:  # type: ignore[union-attr]  # the caller looked
        return len(expected.labels)  # type: ignore[arg-type]  # as above
    return int(np.sum(np.asarray(expected.labels) != np.asarray(got.labels)))


def _usual_size(expected: Predictions) -> NDArray[np.float64] | None:
    """Per target, the median size on the sample: below it, a difference is not measured against a number near zero."""
    answers = expected.values if expected.values is not None else expected.scores
    if answers is None:
        return None
    finite = np.where(np.isfinite(answers), np.abs(answers), 0.0).reshape(len(answers), -1)
    size: NDArray[np.float64] = np.median(finite, axis=0)
    return size


def _reason(tally: _Tally) -> str:
    if tally.unlike_kind:
        return f"answers of another shape or kind, first on a row of kind {tally.unlike_kind}"
    if tally.flips:
        return f"{tally.flips} labels differ, first on a row of kind {tally.flipped_kind}"
    if tally.worst > MAX_DIFFERENCE:
        return f"largest difference {tally.worst:.3g} is above {MAX_DIFFERENCE:g}, on a row of kind {tally.worst_kind}"
    return ""


def _speed_up(reference: Predictor, compiled: OnnxPredictor, sample: Columns) -> float:
    row = sample.take(np.zeros(1, dtype=np.int64))
    row = Columns(
        numbers=row.numbers,
        strings=tuple(column if isinstance(column, list) else column.to_pylist() for column in row.strings),
    )
    return _best_time(reference, row, calls=_TIMED_REFERENCE_CALLS) / _best_time(compiled, row, calls=_TIMED_CALLS)


def _best_time(predictor: Predictor, row: Columns, *, calls: int) -> float:
    best = float("inf")
    for _ in range(calls):
        start = time.perf_counter()
        predictor.predict(row)
        best = min(best, time.perf_counter() - start)
    return best


def _failed(reason: str) -> Parity:
    return Parity(
        passed=False,
        reason=reason,
        rows=(),
        label_flips=0,
        largest_absolute=0.0,
        largest_relative=0.0,
        num_thresholds=0,
    )
