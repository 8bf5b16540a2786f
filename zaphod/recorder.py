"""Hands what an arm did to the prediction log, by reference."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.errors import ZaphodError
from zaphod.monitoring.log import PredictionLog
from zaphod.monitoring.record import Call, Origin, Status
from zaphod.predictor import Predictions
from zaphod.trial import Part, Split

Names: TypeAlias = Sequence[str | None] | pa.Array | None
Ids: TypeAlias = str | Sequence[str]

_PLACE = re.compile(r" - at [`']?([^`']+)[`']?$")
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Recorder:
    """origin: of what is answered outside an experiment."""

    log: PredictionLog
    origin: Origin

    def answered(
        self, columns: Columns, predictions: Predictions, *, latency_s: float, entities: Names, ids: Ids
    ) -> None:
        """A whole call of several rows outside an experiment: nothing is done twice."""
        num_rows = columns.num_rows
        self.log.put(
            Call(
                origin=self.origin,
                id=ids,
                served_s=time.time(),
                num_rows=num_rows,
                latency_s=latency_s,
                rows=_positions(ids, None, num_rows),
                columns=columns,
                predictions=predictions,
                entities=entities,
            )
        )

    def record(
        self,
        part: Part,
        columns: Columns,
        *,
        entities: Names,
        ids: Ids,
        buckets: NDArray[np.int64] | None = None,
        positions: NDArray[np.int64] | None = None,
    ) -> None:
        """columns, entities, ids and buckets: of the whole call, of which the part has some rows.

        positions: by which the rows are called, where those are not their places in the call.
        """
        rows, num_rows = part.rows, columns.num_rows
        if rows is not None:
            columns, num_rows = columns.take(rows), len(rows)
            entities = take(entities, rows)
            buckets = None if buckets is None else buckets[rows]
            if not isinstance(ids, str):
                ids = [ids[row] for row in rows.tolist()]
        failed = part.error is not None
        self.log.put(
            Call(
                origin=part.origin,
                id=ids,
                served_s=time.time(),
                num_rows=num_rows,
                latency_s=part.latency_s,
                rows=_positions(ids, rows, num_rows)
                if positions is None
                else positions
                if rows is None
                else positions[rows],
                columns=columns,
                predictions=part.predictions,
                entities=entities,
                buckets=buckets,
                status=Status.FAILED if failed else Status.OK,
                error="prediction" if failed else None,
            )
        )

    def refuse(self, error: ZaphodError, *, entities: Names, ids: Ids) -> None:
        """What was not scored at all: refused, for its data or its key, or failed. One record for each id."""
        place = _PLACE.search(error.message)
        self.log.put(
            Call(
                origin=self.origin,
                id=ids,
                served_s=time.time(),
                num_rows=1 if isinstance(ids, str) else len(ids),
                entities=entities if not isinstance(ids, str) else None if entities is None else entities[:1],
                status=Status.REFUSED if error.refusal else Status.FAILED,
                error=_WORDS.sub("_", type(error).__name__.removesuffix("Error")).lower(),
                error_field=place.group(1)[:100] if place else None,
            )
        )

    def copies(self, columns: Columns, *, entities: Names, ids: Ids, split: Split) -> list[Call]:
        """What goes to the shadow of a call: its rows that are the challenger's to score."""
        mine = split.challenger
        if not mine.any():
            return []
        whole = Call(
            origin=self.origin,
            id=ids,
            served_s=time.time(),
            num_rows=columns.num_rows,
            rows=_positions(ids, None, columns.num_rows),
            columns=columns,
            entities=entities,
            buckets=split.buckets,
        )
        if mine.all():
            return [whole]
        rows = np.flatnonzero(mine)
        return [
            msgspec.structs.replace(
                whole,
                id=ids if isinstance(ids, str) else [ids[row] for row in rows.tolist()],
                num_rows=len(rows),
                rows=_positions(ids, rows, len(rows)),
                columns=columns.take(rows),
                entities=take(entities, rows),
                buckets=split.buckets[rows],
            )
        ]


def row_ids(ids: Ids, num_rows: int) -> Sequence[str]:
    """Each row's prediction id."""
    if not isinstance(ids, str):
        return ids
    return (ids,) if num_rows == 1 else [f"{ids}-{row}" for row in range(num_rows)]


def take(entities: Names, rows: NDArray[np.int64]) -> Names:
    """Of these rows."""
    if entities is None:
        return None
    return entities.take(pa.array(rows)) if isinstance(entities, pa.Array) else [entities[row] for row in rows.tolist()]


def _of(positions: NDArray[np.int64], rows: NDArray[np.int64] | None) -> NDArray[np.int64]:
    return positions if rows is None else positions[rows]


def _positions(ids: Ids, rows: NDArray[np.int64] | None, num_rows: int) -> NDArray[np.int64] | None:
    """Positions in the call; None where the id alone names a row."""
    if not isinstance(ids, str):
        return None
    if rows is not None:
        return rows
    return None if num_rows == 1 else np.arange(num_rows)
