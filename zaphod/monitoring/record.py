"""One record for every prediction in every arm: what the arms hand over, and what stands in the log.

A call is handed over by reference. The log takes it apart at once and keeps nothing of it but values; of thousands of
rows the arrays themselves, which nobody may change any more.
A record's prediction id is its `call` when `row` is null, else `<call>-<row>`.
"""

from __future__ import annotations

import enum
import itertools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.predictor import Predictions
from zaphod.schema import Schema


class Arm(enum.StrEnum):
    """By which way a row came."""

    ONLINE = "online"
    BATCH = "batch"
    STREAMING = "streaming"


class Status(enum.StrEnum):
    """What became of a row. Refused: the caller's data was wrong; failed: the model was."""

    OK = "ok"
    FAILED = "failed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who answered, and why that one: alike for many calls.

    variant: champion or challenger. experiment: its id, None outside one; phase and mode are its. answered: the caller
    got this answer; what a shadow says is only recorded.
    """

    arm: str
    model: str
    version: int
    bundle_sha256: str
    schema: Schema
    variant: str
    experiment: str | None = None
    phase: int | None = None
    mode: str | None = None
    answered: bool = True
    fallback: bool = False


class Call(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Rows that one version was asked about at once.

    id: of the call, or one for each row. rows: int64, position of each row in the call, None when `id` says it all.
    served_s: seconds since the epoch. latency_s: what the model took for all its rows. entities: one a row, None
    where nobody said; an Arrow string array when the rows are a table. error: a stable word, never the data. Where
    there are predictions, there are columns.
    """

    origin: Origin
    id: str | Sequence[str]
    served_s: float
    num_rows: int
    latency_s: float = 0.0
    rows: NDArray[np.int64] | None = None
    columns: Columns | None = None
    predictions: Predictions | None = None
    entities: Sequence[str | None] | pa.Array | None = None
    buckets: NDArray[np.int64] | None = None
    status: Status = Status.OK
    error: str | None = None
    error_field: str | None = None


class Single(msgspec.Struct, frozen=True, gc=False):
    """A call of one row that was answered, as nearly all are. All as in `Call`; bucket: -1 outside experiments."""

    num_rows: ClassVar[int] = 1

    origin: Origin
    id: str
    served_s: float
    latency_s: float
    columns: Columns
    predictions: Predictions
    entity: str | None
    bucket: int = -1


class Singles(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Calls of one row each, within one hour, that were answered together. All as in `Single`, one for each row.

    latency_s: NaN for those that nobody timed.
    """

    origin: Origin
    id: Sequence[str]
    served_s: Sequence[float]
    latency_s: Sequence[float]
    columns: Columns
    predictions: Predictions
    entities: Sequence[str | None]
    buckets: NDArray[np.int64] | None = None

    @property
    def num_rows(self) -> int:
        return len(self.id)


class _Ids:
    """When the process began, chance, then a counter: no two processes make the same."""

    def __init__(self) -> None:
        self.begin()
        os.register_at_fork(after_in_child=self.begin)

    def begin(self) -> None:
        """Again after a fork: the child makes ids of its own."""
        self.prefix = f"{time.time_ns() // 1_000_000:012x}{os.urandom(5).hex()}"
        # As hexadecimal digits all of one length.
        self.count = itertools.count(1 << 39).__next__


_ids = _Ids()


def new_id() -> str:
    """A prediction id: 32 hexadecimal digits, rising within a process."""
    return _ids.prefix + hex(_ids.count())[2:]
