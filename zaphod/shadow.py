"""Gives a challenger in the shadow copies of what the champion was asked, in a process of its own.

Nothing that the challenger does can reach an answer: it may raise, crash, hang or eat memory. What it is given is
bounded and dropped when it is too slow; the process scores when nothing else wants the processor, is ended when it does
not answer or grows too large, and started again after a pause.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from zaphod.errors import LogFullError
from zaphod.monitoring.log import PredictionLog
from zaphod.monitoring.record import Call, Origin, Single, Status
from zaphod.monitoring.settings import KEY_VARIABLE, LogSettings
from zaphod.portion import Portion, calls_of
from zaphod.settings import Settings

_log = logging.getLogger(__name__)

# Copies are shipped so often, or when half of the room is taken. Each time this process's thread takes the interpreter
# from those that answer, and the challenger's wakes up on a processor that they may be using.
_TICK_S = 0.5
_LOOK_AT_MEMORY_S = 1.0
# So many times longer than a challenger may take, it may wait for a processor that others are busy with.
_PATIENCE = 30
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 60.0
_START_S = 60.0
ACK = b"."
LENGTH = struct.Struct("<Q")


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
        self._portions: deque[Portion] = deque()
        self._lock = threading.Lock()
        self._waiting = 0
        self._offered = self._dropped = self._scored = self._lost = self._deaths = 0
        self._stop = threading.Event()
        # Copies are to be shipped, or the worker is to stop.
        self._due = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._next_look_s = 0.0
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

    def offer(self, item: Call | Single) -> None:
        """Never waits and never raises. The item becomes bytes at once; nothing of it is kept."""
        num_rows = item.num_rows
        with self._lock:
            self._offered += num_rows
            if self._waiting and self._waiting + num_rows > self._settings.max_rows:
                self._dropped += num_rows
                return
            if not self._portions or self._portions[-1].full:
                self._portions.append(Portion())
            try:
                self._portions[-1].add(item)
            except Exception:  # noqa: BLE001  # whoever answers must not fail for what a copy cannot hold
                _log.exception("cannot copy some rows for the shadow")
                self._dropped += num_rows
                return
            self._waiting += num_rows
            if self._waiting >= self._settings.max_rows // 2 and not self._due.is_set():
                self._due.set()

    def close(self) -> None:
        """Ends the process, which first writes what it has scored."""
        self._stop.set()
        self._due.set()
        self._thread.join(timeout=self._settings.answer_s + 10.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._due.wait(_TICK_S)
            self._due.clear()
            try:
                self._serve()
            except Exception:  # noqa: BLE001  # the shadow must not take its server along
                _log.exception("the shadow's process cannot be used; it is started again")
                self._end()
        self._finish()

    def _serve(self) -> None:
        """What waits now. What comes meanwhile waits for the next time: a portion of one costs as much as of many."""
        left = len(self._portions)
        while left > 0 and not self._stop.is_set():
            if self._process is None and not self._start():
                return
            with self._lock:
                if not self._portions:
                    return
                portion = self._portions.popleft()
                self._waiting -= portion.num_rows
            left -= 1
            frame = portion.frame()
            cause = self._exchange(frame, self._settings.answer_s)
            if cause is None:
                self._scored += portion.num_rows
                self._pause_s = _FIRST_PAUSE_S
                self._watch_memory()
            else:
                self._bury(frame, cause)

    def _start(self) -> bool:
        """False when it did not come up; after a pause it is tried again."""
        environ: Mapping[str, str] = {**os.environ, **({KEY_VARIABLE: self._key} if self._key is not None else {})}
        self._process = subprocess.Popen(  # our own command
            [sys.executable, "-m", "zaphod.shadow_process"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
        )
        cause = self._exchange(msgspec.json.encode(self._task), _START_S)
        if cause is None:
            self._next_look_s = 0.0
            return True
        self._deaths += 1
        self._forget_waiting()
        self._end()
        _log.warning("the shadow's process did not start; trying again", extra={"cause": cause})
        self._rest()
        return False

    def _exchange(self, data: bytes | bytearray, timeout_s: float) -> str | None:
        """None when it was acknowledged, else why not."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        patience = Patience(timeout_s, starved_s=functools.partial(starved_s, process.pid))
        os.set_blocking(process.stdin.fileno(), False)
        rest = memoryview(LENGTH.pack(len(data)) + data)
        out, back = process.stdin.fileno(), process.stdout.fileno()
        while True:
            if self._stop.is_set() or patience.over():
                return "hung"
            readable, writable, _ = select.select([back], [out] if rest else [], [], 0.2)
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
        process, now = self._process, time.monotonic()
        if process is None or now < self._next_look_s:
            return
        self._next_look_s = now + _LOOK_AT_MEMORY_S
        with contextlib.suppress(psutil.Error):
            if psutil.Process(process.pid).memory_info().rss > self._settings.max_memory_mb * 1_048_576:
                self._bury(None, "memory")

    def _bury(self, frame: bytes | bytearray | None, cause: str) -> None:
        if self._stop.is_set():
            return
        for call in () if frame is None else calls_of(frame, self._origin):
            self._lost += call.num_rows
            with contextlib.suppress(LogFullError):
                self._log.put(msgspec.structs.replace(call, status=Status.FAILED, error=cause))
        self._deaths += 1  # after what it lost: who sees the death sees that too
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
            self._portions.clear()

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
            patience = Patience(self._settings.answer_s, starved_s=functools.partial(starved_s, process.pid))
            while process.poll() is None and not patience.over():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.1)
        self._end()


class Patience:
    """How long a process may take. One that is ready to run and is not let is not slow: others are served first."""

    def __init__(self, seconds: float, *, starved_s: Callable[[], float]) -> None:
        """starved_s: how long it has waited for a processor so far."""
        self._seconds = seconds
        self._starved_s = starved_s
        self._began, self._began_starved = time.monotonic(), starved_s()

    def over(self, *, waited_s: float | None = None) -> bool:
        """waited_s: since it was made; by the clock where it is None."""
        waited = time.monotonic() - self._began if waited_s is None else waited_s
        if waited < self._seconds:
            return False
        starved = self._starved_s() - self._began_starved
        return waited - starved >= self._seconds or waited >= _PATIENCE * self._seconds


def starved_s(pid: int) -> float:
    """How long a process, by its first thread, was ready to run and not let, in seconds; 0 where no kernel says so.

    What it waits for now counts once it runs again.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0
