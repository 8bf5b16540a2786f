"""Rows to compare two engines on: all over the schema's domain, at its edges and around every split of a tree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.compiler.thresholds import Thresholds
from zaphod.schema import MAX_EXACT_INT, DType, Field, Schema

_RANDOM_ROWS = 4000
# Rows for each edge value of a field.
EDGE_BASES = 4
_NULL_SHARE = 0.08
_EDGE_NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 5e-324, -5e-324, 2.2250738585072014e-308, 1e-30, 1e-9, -1e-9, 1e6, -1e6,
    16777217.0, 1e9, -1e9, float(MAX_EXACT_INT), float(-MAX_EXACT_INT), 1e15, -1e15, 1e30, -1e30,
    3.4028235e38, 1e39, -1e39, 1e300, -1e300, 1.7976931348623157e308,
)  # fmt: skip
_UNSEEN = ("", " ", "never seen", "\N{GREEK SMALL LETTER OMEGA}", "nan", "None", "0")


def random_rows(
    schema: Schema, sample: Columns, vocabulary: Sequence[Sequence[str]], *, rng: np.random.Generator
) -> Columns:
    """Numbers within and around each field's range, known and unknown strings, nulls where they are allowed.

    Half of the values come from other rows of the sample, so that features take new combinations of real values.
    """
    numbers = np.empty((_RANDOM_ROWS, len(schema.number_fields)))
    for i, field in enumerate(schema.number_fields):
        drawn = rng.choice(sample.numbers[:, i], _RANDOM_ROWS)
        made = _draw_numbers(field, sample.numbers[:, i], rng=rng)
        numbers[:, i] = np.where(rng.random(_RANDOM_ROWS) < 0.5, drawn, made)
        if field.nullable:
            numbers[rng.random(_RANDOM_ROWS) < _NULL_SHARE, i] = np.nan
    strings: list[pa.Array] = []
    for field, known in zip(schema.string_fields, vocabulary, strict=True):
        pool = _strings(field, known)
        values = [pool[j] for j in rng.integers(0, len(pool), _RANDOM_ROWS)]
        strings.append(pa.array(values, type=pa.string()))
    return Columns(numbers=numbers, strings=tuple(strings))


def edge_rows(
    schema: Schema, sample: Columns, vocabulary: Sequence[Sequence[str]], *, rng: np.random.Generator
) -> Columns:
    """One field of a sample row replaced by each extreme, null or odd string; then all fields at once."""
    made = _Replaced(schema, sample, rng=rng)
    # Value by value: a reference that raises on one raises on it in every field, so those rows stand together.
    for value in (*_EDGE_NUMBERS, None, np.nan):
        for i, field in enumerate(schema.number_fields):
            made.number(i, _number_edges(field, value))
    for i, (field, known) in enumerate(zip(schema.string_fields, vocabulary, strict=True)):
        made.string(i, [value for value in _strings(field, known) if value not in known][: len(_UNSEEN) + 1])
    made.everything_null()
    made.everything_zero()
    return made.columns()


def threshold_rows(
    schema: Schema, sample: Columns, thresholds: Thresholds, *, max_rows: int, rng: np.random.Generator
) -> tuple[Columns, int] | None:
    """Sample rows moved onto each split of the model's trees, and one and two ulp past it; and how many splits.

    The splits are those of the compiled model: it can change its answer there only, so a reference that changes its
    answer elsewhere differs from it on one of these rows. Where a sample row comes by the split, it is that row which
    is moved. None when there is no split on an input.
    """
    if not thresholds.value.size:
        return None
    made = _Replaced(schema, sample, rng=rng)
    # One row for each split that any row comes by; of equal splits of a column, one.
    order = np.lexsort((thresholds.row < 0, thresholds.value, thresholds.column))
    column, value, row = thresholds.column[order], thresholds.value[order], thresholds.row[order]
    is_new = np.append(True, (np.diff(column) != 0) | (np.diff(value) != 0))
    kept = np.flatnonzero(is_new)
    kept = kept[np.unique(np.linspace(0, len(kept) - 1, max_rows // 4).astype(np.int64))]
    for i in kept:
        field = schema.number_fields[int(column[i])]
        base = int(row[i]) if row[i] >= 0 else None
        made.number(int(column[i]), _around(field, float(value[i])), bases=1, base=base)
    return made.columns(), len(kept)


def _around(field: Field, split: float) -> list[float]:
    if field.dtype is not DType.FLOAT64:
        below = float(np.floor(split))
        return [value for value in (below, below + 1) if _fits(field, value)]
    above = float(np.nextafter(split, np.inf))
    near = (split, above, float(np.nextafter(above, np.inf)), float(np.nextafter(split, -np.inf)))
    return [value for value in near if np.isfinite(value)]


class _Replaced:
    """Sample rows with some values replaced."""

    def __init__(self, schema: Schema, sample: Columns, *, rng: np.random.Generator) -> None:
        self._schema = schema
        self._sample = sample
        self._rng = rng
        self._bases: list[int] = []
        self._numbers: list[tuple[int, int, float]] = []
        self._strings: list[tuple[int, int, str | None]] = []

    def _base(self, row: int | None = None) -> int:
        self._bases.append(int(self._rng.integers(self._sample.num_rows)) if row is None else row)
        return len(self._bases) - 1

    def number(self, column: int, values: Sequence[float], *, bases: int = EDGE_BASES, base: int | None = None) -> None:
        """base: the sample row to change; any when it is None."""
        for value in values:
            for _ in range(bases):
                self._numbers.append((self._base(base), column, value))

    def string(self, column: int, values: Sequence[str | None]) -> None:
        for value in values:
            for _ in range(EDGE_BASES):
                self._strings.append((self._base(), column, value))

    def everything_null(self) -> None:
        row = self._base()
        self._numbers += [(row, i, np.nan) for i, field in enumerate(self._schema.number_fields) if field.nullable]
        self._strings += [(row, i, None) for i, field in enumerate(self._schema.string_fields) if field.nullable]

    def everything_zero(self) -> None:
        row = self._base()
        self._numbers += [(row, i, 0.0) for i in range(len(self._schema.number_fields))]
        self._strings += [(row, i, "") for i in range(len(self._schema.string_fields))]

    def columns(self) -> Columns:
        rows = self._sample.take(np.array(self._bases, dtype=np.int64))
        for row, column, value in self._numbers:
            rows.numbers[row, column] = value
        strings = [column if isinstance(column, list) else column.to_pylist() for column in rows.strings]
        for row, column, text in self._strings:
            strings[column][row] = text
        return Columns(numbers=rows.numbers, strings=tuple(pa.array(column, type=pa.string()) for column in strings))


def _draw_numbers(field: Field, values: NDArray[np.float64], *, rng: np.random.Generator) -> NDArray[np.float64]:
    if field.dtype is DType.BOOL:
        return rng.integers(0, 2, _RANDOM_ROWS).astype(np.float64)
    seen = values[~np.isnan(values)]
    low = field.minimum if field.minimum is not None else float(seen.min(initial=0.0))
    high = field.maximum if field.maximum is not None else float(seen.max(initial=1.0))
    # A tenth of the range to either side: models meet new values every day.
    margin = (high - low) * 0.1 + 1.0
    drawn = rng.uniform(low - margin, high + margin, _RANDOM_ROWS)
    return np.rint(drawn) if field.dtype is DType.INT64 else drawn


def _number_edges(field: Field, value: float | None) -> list[float]:
    """The value if the field may have it; its own ends for None."""
    values = [value] if value is not None else [end for end in (field.minimum, field.maximum) if end is not None]
    return [edge for edge in values if _fits(field, edge)]


def _fits(field: Field, value: float) -> bool:
    if np.isnan(value):
        return field.nullable
    match field.dtype:
        case DType.BOOL:
            return value in (0.0, 1.0)
        case DType.INT64:
            return value == np.floor(value) and abs(value) <= MAX_EXACT_INT
        case _:
            return True


def _strings(field: Field, known: Sequence[str]) -> list[str | None]:
    pool: list[str | None] = list(dict.fromkeys([*known, *(field.categories or ()), *_UNSEEN]))
    if field.nullable:
        pool.append(None)
    return pool
