"""Rows on disk, dealt at random into buckets, so that any of them can be read back as a fair sample of all.

A holdout may be larger than memory. What statistics need of a row is a few numbers; they wait here, and come back as
shards that fit: each a simple random sample of the holdout, together all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np

from zaphod.validation.rows import Rows, Shape, pack, unpack

# One open file each. 128 shards of 50,000 rows are 6.4 million; above that shards grow with the holdout, slowly.
_NUM_BUCKETS = 128
_MAX_SHARD_NUMBERS = 8_000_000


class Spool:
    """Write first, then read; a context manager that closes its files. The folder is the caller's to remove."""

    def __init__(self, folder: Path, *, shape: Shape, num_models: int, num_axes: int, seed: int) -> None:
        self._shape = shape
        self._numbers = shape.num_truths + num_models * shape.width
        self._row = np.dtype([("numbers", "<f8", (self._numbers,)), ("codes", "<i2", (num_axes,))])
        self._rng = np.random.default_rng([seed, 1])
        self._paths = [folder / f"{bucket:03d}.rows" for bucket in range(_NUM_BUCKETS)]
        self._stack = ExitStack()
        self._files = [self._stack.enter_context(path.open("wb", buffering=1 << 14)) for path in self._paths]
        self.num_rows = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, rows: Rows) -> None:
        packed = np.empty(rows.num_rows, dtype=self._row)
        packed["numbers"] = pack(self._shape, rows)
        packed["codes"] = rows.codes
        bucket = self._rng.integers(0, _NUM_BUCKETS, rows.num_rows)
        order = np.argsort(bucket, kind="stable")
        ends = np.searchsorted(bucket[order], np.arange(_NUM_BUCKETS + 1))
        packed = packed[order]
        for i, file in enumerate(self._files):
            file.write(packed[ends[i] : ends[i + 1]].tobytes())
        self.num_rows += rows.num_rows

    def num_shards(self, *, shard_rows: int) -> int:
        """How many `shards` gives at most: a bucket may stay empty."""
        most = max(1, min(shard_rows, _MAX_SHARD_NUMBERS // self._numbers))
        return max(1, min(_NUM_BUCKETS, math.ceil(self.num_rows / most)))

    def shards(self, *, shard_rows: int) -> Iterator[Rows]:
        """All rows, in shards of about shard_rows or fewer; one shard when they fit into one. No more writing."""
        self._stack.close()
        for paths in np.array_split(np.array(self._paths, dtype=object), self.num_shards(shard_rows=shard_rows)):
            packed = np.concatenate([np.fromfile(path, dtype=self._row) for path in paths])
            if len(packed):
                yield unpack(self._shape, packed["numbers"], packed["codes"])
