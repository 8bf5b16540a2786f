"""Gives a challenger in the shadow copies of what the champion was asked, in a process of its own.

Nothing that the challenger does can reach an answer: it may raise, crash, hang or eat memory. What it is given is
bounded and dropped when it is too slow; the process has the lowest priority, is ended when it does not answer or grows
too large, and started again after a pause.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
import psutil
import pyarrow as pa

from zaphod.monitoring.gather import Gathered
from zaphod.monitoring.log import PredictionLog
from zaphod.monitoring.policy import KEY_VARIABLE
from zaphod.monitoring.record import Call, Origin, Status
from zaphod.monitoring.settings import LogSettings
from zaphod.settings import Settings

_log = logging.getLogger(__name__)

_TICK_S = 0.05
_PORTION_CALLS = 256
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 60.0
_START_S = 60.0
ACK = b"."
LENGTH = struct.Struct("<Q")
CALL, ROW, ENTITY, BUCKET, TIME, INDEX = "_call", "_row", "_entity", "_bucket", "_time", "_index"


class ShadowSettings(Settings):
    """The process in which a challenger scores copies."""

    max_rows: int = 20_000
    """Copies that wait at most; further ones are dropped and counted."""

    answer_s: float = 10.0
    """A challenger that takes longer for a portion of 256 calls hangs, and its process is ended."""

    max_memory_mb: int = 2_048
    """A challenger's process that grows beyond this is ended."""


class ShadowTask(msgspec.Struct, frozen=True, kw_only=True):
    """What the process needs to know. log: `LogSettings` as JSON, its key apart."""

    registry: str
    model: str
    champion: int
    challenger: int
    experiment: str
    phase: int
    mode: str
    arm: str
    log: msgspec.Raw


@dataclass(frozen=True, slots=True)
class ShadowCounts:
    """Rows, and how often the process was ended or died. lost: those it died of."""

    offered: int
    dropped: int
    scored: int
    lost: int
    deaths: int


class ShadowWorker:
    """One process for one challenger in one phase."""

    def __init__(
        self,
        task: ShadowTask,
        *,
        origin: Origin,
        log: PredictionLog,
        log_settings: LogSettings,
        settings: ShadowSettings,
    ) -> None:
        """origin: the challenger's. log: where the copies that killed it are recorded as failed."""
        self._task = task
        self._origin = origin
        self._log = log
        self._settings = settings
        self._key = log_settings.hash_key.get_secret_value() if log_settings.hash_key is not None else None
        self._calls: deque[Call] = deque()
        self._lock = threading.Lock()
        self._waiting = 0
        self._offered = self._dropped = self._scored = self._lost = self._deaths = 0
        self._stop = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> ShadowCounts:
        return ShadowCounts(self._offered, self._dropped, self._scored, self._lost, self._deaths)

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def offer(self, call: Call) -> None:
        """Never waits and never raises."""
        with self._lock:
            self._offered += call.num_rows
            if self._waiting and self._waiting + call.num_rows > self._settings.max_rows:
                self._dropped += call.num_rows
                return
            self._waiting += call.num_rows
            self._calls.append(call)

    def close(self) -> None:
        """Ends the process, which first writes what it has scored."""
        self._stop.set()
        self._thread.join(timeout=self._settings.answer_s + 10.0)

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            try:
                self._serve()
            except Exception:  # noqa: BLE001  # the shadow must not take its server along
                _log.exception("the shadow's process cannot be used; it is started again")
                self._end()
        self._finish()

    def _serve(self) -> None:
        """What waits now. What comes meanwhile waits for the next time: a portion of one costs as much as of many."""
        left = len(self._calls)
        while left > 0 and self._calls and not self._stop.is_set():
            if self._process is None and not self._start():
                return
            portion: list[Call] = []
            while self._calls and len(portion) < _PORTION_CALLS:
                portion.append(self._calls.popleft())
            left -= len(portion)
            num_rows = sum(call.num_rows for call in portion)
            with self._lock:
                self._waiting -= num_rows
            cause = self._exchange(frame_of(portion, self._origin), self._settings.answer_s)
            if cause is None:
                self._scored += num_rows
                self._pause_s = _FIRST_PAUSE_S
                self._watch_memory()
            else:
                self._bury(portion, cause)

    def _start(self) -> bool:
        """False when it did not come up; after a pause it is tried again."""
        environ: Mapping[str, str] = {**os.environ, **({KEY_VARIABLE: self._key} if self._key is not None else {})}
        self._process = subprocess.Popen(  # our own command
            [sys.executable, "-m", "zaphod.shadow_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        )
        cause = self._exchange(msgspec.json.encode(self._task), _START_S)
        if cause is None:
            return True
        self._deaths += 1
        self._forget_waiting()
        self._end()
        _log.warning("the shadow's process did not start; trying again", extra={"cause": cause})
        self._rest()
        return False

    def _exchange(self, data: bytes, timeout_s: float) -> str | None:
        """None when it was acknowledged, else why not."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + timeout_s
        os.set_blocking(process.stdin.fileno(), False)
        rest = memoryview(LENGTH.pack(len(data)) + data)
        out, back = process.stdin.fileno(), process.stdout.fileno()
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self._stop.is_set():
                return "hung"
            readable, writable, _ = select.select([back], [out] if rest else [], [], min(left_s, 0.2))
            try:
                if writable:
                    rest = rest[os.write(out, rest[:1_048_576]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return "crashed"
            if readable:
                return None if os.read(back, 1) == ACK else "crashed"

    def _watch_memory(self) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(psutil.Error):
            if psutil.Process(process.pid).memory_info().rss > self._settings.max_memory_mb * 1_048_576:
                self._bury([], "memory")

    def _bury(self, portion: list[Call], cause: str) -> None:
        if self._stop.is_set():
            return
        self._deaths += 1
        self._lost += sum(call.num_rows for call in portion)
        for call in portion:
            self._log.put(msgspec.structs.replace(call, origin=self._origin, status=Status.FAILED, error=cause))
        _log.warning("the shadow's process was ended; it is started again", extra={"cause": cause})
        self._end()
        self._rest()

    def _rest(self) -> None:
        """What comes during the pause is dropped by the bound, not kept for later."""
        self._stop.wait(self._pause_s)
        self._pause_s = min(self._pause_s * 2, _MAX_PAUSE_S)
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        with self._lock:
            self._dropped += self._waiting
            self._waiting = 0
            self._calls.clear()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _finish(self) -> None:
        """The end of its input tells the process to write its log and end."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=self._settings.answer_s)
        self._end()


def frame_of(portion: list[Call], origin: Origin) -> bytes:
    """Calls as one Arrow stream: their rows as the champion's schema has them, and what their records need."""
    gathered = Gathered(portion[0])
    for call in portion:
        gathered.add(call)
    counts = gathered.counts
    calls = np.repeat(np.arange(len(counts)), counts)
    ids = gathered.ids.array()
    table = pa.table(gathered.features())
    for name, column in (
        (CALL, ids if gathered.by_row else ids.take(pa.array(calls))),
        (ROW, gathered.placed(gathered.rows).fill_null(-1)),
        (BUCKET, gathered.placed(gathered.buckets).fill_null(-1)),
        (ENTITY, gathered.entities.array()),
        (TIME, pa.array(gathered.spread(gathered.times))),
        (INDEX, pa.array(calls)),
    ):
        table = table.append_column(name, column)
    with contextlib.closing(pa.BufferOutputStream()) as sink:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        data: bytes = sink.getvalue().to_pybytes()
    return data
