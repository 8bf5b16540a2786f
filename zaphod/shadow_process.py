"""The process of a challenger in the shadow: `python -m zaphod.shadow_process`, started by `ShadowWorker`.

Standard input has frames: 8 bytes of length, then the task (JSON) and after it portions of rows. Each is answered by
one byte when it is done. The end of the input is the end of the process, so none outlives its server.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

import msgspec
import numpy as np

from zaphod.columns import RowDecoder
from zaphod.contender import Contender, project
from zaphod.errors import PredictionError
from zaphod.monitoring.log import PredictionLog, open_log
from zaphod.monitoring.record import Call, Origin, Singles, Status
from zaphod.monitoring.settings import LogSettings
from zaphod.portion import Group, groups_of
from zaphod.recorder import take
from zaphod.registry import Registry
from zaphod.shadow import ACK, LENGTH, ShadowTask
from zaphod.trial import Part, ask_apart

# A tenth of what a server has of a busy processor.
_LOADING_NICENESS = 10
# Calls that a portion may take to find the rows that fail: many more, and a challenger that is merely wrong would be
# taken for one that hangs.
_MAX_CALLS = 512


def main() -> None:
    """Until the end of the input."""
    # Late to run, and the first to go when memory is short.
    with contextlib.suppress(OSError):
        os.nice(_LOADING_NICENESS)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    # Whatever a model prints must not be taken for an acknowledgement.
    acks = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    frames = sys.stdin.buffer
    first = _read(frames)
    if first is None:
        return
    task = msgspec.json.decode(first, type=ShadowTask)
    contender = load(task)
    closing: SimpleQueue[PredictionLog] = SimpleQueue()
    last = threading.Thread(target=lambda: closing.get().close(), name="close-log", daemon=True)
    last.start()
    _step_aside()
    log = open_log(LogSettings.model_validate_json(bytes(task.log)))
    assert log is not None  # the server has one, or it would have no shadow
    os.write(acks, ACK)
    while (frame := _read(frames)) is not None:
        score(frame, contender, log)
        with contextlib.suppress(BrokenPipeError):  # the server is gone; the end of the input says so
            os.write(acks, ACK)
    closing.put(log)
    last.join()


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
    contender = Contender(challenger.load_predictor(), origin, project(champion.schema, challenger.schema))
    # What is loaded with the first prediction is loaded now. One that cannot predict fails by what it is asked.
    decoder = RowDecoder(champion.schema)
    with contextlib.suppress(PredictionError):
        contender.predict(decoder.columns([decoder.convert_row(champion.example)]))
    return contender


def score(frame: bytes, contender: Contender, log: PredictionLog) -> None:
    """Calls of one row together, in a fraction of the time; where one of them fails, one by one."""
    groups = list(groups_of(frame, contender.origin))
    max_calls = max(1, _MAX_CALLS // max(1, len(groups)))
    for group in groups:
        try:
            answered = _answer_together(group, contender) if len(group) > 1 else None
        except PredictionError:
            answered = None
        if answered is not None:
            log.put(answered)
        else:
            for call in group.calls():
                for each in _answer(call, contender, max_calls=max_calls):
                    log.put(each)


def _answer_together(group: Group, contender: Contender) -> Singles:
    """The last is asked again alone: it tells what a call takes. Raises: PredictionError."""
    columns = group.columns()
    predictions = contender.predict(columns)
    last = columns.take(np.array([len(group) - 1]))
    began = time.thread_time()
    contender.predict(last)
    return group.answered(columns, predictions, latency_s=time.thread_time() - began)


def _answer(call: Call, contender: Contender, *, max_calls: int) -> list[Call]:
    """As the champion was asked, and apart from that the rows that fail. Timed by what it computes: the process is
    often set aside.
    """
    assert call.columns is not None  # copies are of rows that were scored
    parts = ask_apart(contender, call.columns, max_calls=max_calls, clock=time.thread_time)
    return [_answered(call, part) for part in parts]


def _answered(call: Call, part: Part) -> Call:
    """Those rows of the call."""
    rows, columns = part.rows, call.columns
    if rows is not None and columns is not None:
        call = msgspec.structs.replace(
            call,
            id=call.id if isinstance(call.id, str) else [call.id[row] for row in rows.tolist()],
            num_rows=len(rows),
            rows=None if call.rows is None else call.rows[rows],
            columns=columns.take(rows),
            entities=take(call.entities, rows),
            buckets=None if call.buckets is None else call.buckets[rows],
        )
    failed = part.error is not None
    return msgspec.structs.replace(
        call,
        predictions=part.predictions,
        status=Status.FAILED if failed else Status.OK,
        error="prediction" if failed else None,
        latency_s=part.latency_s,
    )


def _step_aside() -> None:
    """From here on this thread, and what it starts, runs only when nothing else wants the processor.

    With niceness alone it would go on for milliseconds while a server that has been woken up waits. To start so would
    take minutes on a busy machine, and so would the log's last file, which a thread from before writes: there is no way
    back.
    """
    with contextlib.suppress(OSError):
        os.nice(19)
    with contextlib.suppress(AttributeError, OSError):  # other systems have none, some containers forbid it
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _read(frames: BinaryIO) -> bytes | None:
    head = frames.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = frames.read(length)
    return data if len(data) == length else None


if __name__ == "__main__":
    main()
