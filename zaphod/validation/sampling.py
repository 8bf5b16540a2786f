"""A random sample of a stream of rows whose length nobody knows yet, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def keys_of(positions: NDArray[np.int64], *, seed: int) -> NDArray[np.uint64]:
    """A pseudo-random number of each row by its position: SplitMix64 (Steele, Lea, Flood 2014, OOPSLA)."""
    with np.errstate(over="ignore"):
        offset = np.uint64((seed * 0x632BE59BD9B4E019) % 2**64)
        z = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + offset
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


class RowSample:
    """Keeps the rows with the smallest keys: each row is as likely as any other, and memory holds twice the size."""

    def __init__(self, *, max_rows: int, seed: int) -> None:
        self._max_rows = max_rows
        self._seed = seed
        self._tables: list[pa.Table] = []
        self._keys: list[NDArray[np.uint64]] = []
        self._positions: list[NDArray[np.int64]] = []
        self._limit = np.uint64(2**64 - 1)
        self._seen = 0

    def add(self, table: pa.Table) -> None:
        keys = keys_of(np.arange(self._seen, self._seen + table.num_rows), seed=self._seed)
        chosen = np.flatnonzero(keys <= self._limit)
        self._tables.append(table.take(pa.array(chosen)))
        self._keys.append(keys[chosen])
        self._positions.append(chosen + self._seen)
        self._seen += table.num_rows
        if sum(len(part) for part in self._keys) > 2 * self._max_rows:
            self._shrink()

    def result(self) -> tuple[pa.Table, NDArray[np.int64]]:
        """The rows in their order, and their positions in the stream."""
        self._shrink()
        order = np.argsort(self._positions[0])
        return self._tables[0].take(pa.array(order)), self._positions[0][order]

    def _shrink(self) -> None:
        keys, positions = np.concatenate(self._keys), np.concatenate(self._positions)
        table = pa.concat_tables(self._tables)
        if len(keys) > self._max_rows:
            kept = np.argpartition(keys, self._max_rows - 1)[: self._max_rows]
            keys, positions, table = keys[kept], positions[kept], table.take(pa.array(kept))
            self._limit = keys.max()
        self._tables, self._keys, self._positions = [table.combine_chunks()], [keys], [positions]
