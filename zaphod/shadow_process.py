"""The process of a challenger in the shadow: `python -m zaphod.shadow_process`, started by `ShadowWorker`.

Standard input has frames: 8 bytes of length, then the task (JSON) and after it Arrow streams of rows. Each is answered
by one byte when it is done. The end of the input is the end of the process, so none outlives its server.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import pyarrow as pa

from zaphod.columns import Columns, from_table
from zaphod.contender import Contender, project
from zaphod.errors import PredictionError
from zaphod.monitoring.log import PredictionLog, open_log
from zaphod.monitoring.record import Call, Origin, Status
from zaphod.monitoring.settings import LogSettings
from zaphod.registry import Registry
from zaphod.shadow import ACK, BUCKET, CALL, ENTITY, INDEX, LENGTH, ROW, TIME, ShadowTask


def main() -> None:
    """Until the end of the input."""
    step_back()
    # Whatever a model prints must not be taken for an acknowledgement.
    acks = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    frames = sys.stdin.buffer
    first = _read(frames)
    if first is None:
        return
    task = msgspec.json.decode(first, type=ShadowTask)
    contender = load(task)
    log = open_log(LogSettings.model_validate_json(bytes(task.log)))
    assert log is not None  # the server has one, or it would have no shadow
    os.write(acks, ACK)
    while (frame := _read(frames)) is not None:
        score(frame, contender, log)
        with contextlib.suppress(BrokenPipeError):  # the server is gone; the end of the input says so
            os.write(acks, ACK)
    log.close()


def step_back() -> None:
    """Lowest priority, and the first to go when memory is short."""
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def load(task: ShadowTask) -> Contender:
    """Raises: ModelError, ConfigError."""
    registry = Registry.open(task.registry)
    champion = registry.load(task.model, task.champion)
    challenger = registry.load(task.model, task.challenger)
    origin = Origin(
        arm=task.arm, model=task.model, version=task.challenger, bundle_sha256=challenger.sha256,
        schema=champion.schema, variant="challenger", experiment=task.experiment, phase=task.phase, mode=task.mode,
        answered=False,
    )  # fmt: skip
    projection = project(champion.schema, challenger.schema)
    return Contender(challenger.load_predictor(), origin, projection)


def score(frame: bytes, contender: Contender, log: PredictionLog) -> None:
    """Call by call, as the champion was asked, and each timed by what it computes: the process is often set aside."""
    table = pa.ipc.open_stream(frame).read_all()
    columns = from_table(contender.origin.schema, table).columns
    index = table.column(INDEX).to_numpy()
    starts = np.flatnonzero(np.diff(index, prepend=-1)).tolist()
    ids = table.column(CALL).to_pylist()
    entities = table.column(ENTITY).to_pylist()
    rows, buckets, times = (table.column(name).to_numpy() for name in (ROW, BUCKET, TIME))
    for start, end in zip(starts, [*starts[1:], len(index)], strict=True):
        given = rows[start:end]
        asked = _slice(columns, start, end)
        began = time.thread_time()
        try:
            predictions, status = contender.predict(asked), Status.OK
        except PredictionError:
            predictions, status = None, Status.FAILED
        log.put(
            Call(
                origin=contender.origin,
                id=ids[start] if given[0] >= 0 or end == start + 1 else ids[start:end],
                served_s=float(times[start]),
                num_rows=end - start,
                latency_s=time.thread_time() - began,
                rows=given if given[0] >= 0 else None,
                columns=asked,
                predictions=predictions,
                entities=entities[start:end],
                buckets=buckets[start:end] if buckets[start] >= 0 else None,
                status=status,
                error=None if status is Status.OK else "prediction",
            )
        )


def _slice(columns: Columns, start: int, end: int) -> Columns:
    return Columns(
        numbers=np.ascontiguousarray(columns.numbers[start:end]),
        strings=tuple(column[start:end] for column in columns.strings),
    )


def _read(frames: BinaryIO) -> bytes | None:
    head = frames.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = frames.read(length)
    return data if len(data) == length else None


if __name__ == "__main__":
    main()
