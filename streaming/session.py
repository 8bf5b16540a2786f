"""The composition root: settings, queue, Ray and supervisor put together, to run for good or to be shown."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from streaming.cluster import joined
from streaming.display import LineDisplay, LiveDisplay, tell_risks
from streaming.metrics import PoolCollector, serve_metrics
from streaming.patience import patiently
from streaming.queues.base import Delivered, Queue
from streaming.queues.factory import open_queue
from streaming.reader import Reader
from streaming.settings import StreamingSettings
from streaming.supervisor import Supervisor
from streaming.view import PoolView
from zaphod.errors import EnvironmentNotReadyError
from zaphod.machine import RayPlace
from zaphod.registry import Reference, Registry
from zaphod.terminal import plain

_READY_TIMEOUT_S = 60.0
_SHOW_EVERY_S = 0.5
_QUIET_S = 0.5
_SILENT_S = 20.0


def run_pool(settings: StreamingSettings, *, place: RayPlace) -> None:
    """Until SIGTERM or SIGINT, then drains. Waits for a queue that cannot be used yet.

    Raises: ZaphodError when it cannot begin.
    """
    console = Console(stderr=True)
    stopping = threading.Event()
    _stop_on_signals(stopping)
    _check_model(settings)
    queue = patiently(
        lambda: open_queue(settings.queue),
        stopping=stopping, first_s=settings.scoring.backoff_s, longest_s=settings.scoring.max_backoff_s,
        tell=lambda _: None,
    )  # fmt: skip
    tell_risks(queue, console)
    with contextlib.closing(queue), joined(place) as where:
        _stop_on_signals(stopping)  # again: Ray puts its own in their place
        supervisor = Supervisor(settings, queue, stopping=stopping)
        console.print(f"starting {settings.pool.min_scorers} scorers of {settings.model} on {where}")
        display = LiveDisplay(console) if console.is_terminal else LineDisplay(console)
        newest: list[PoolView] = []

        def look(view: PoolView) -> None:
            newest[:] = [view]
            display.show(view)

        with _metrics(settings, newest):
            supervisor.run(on_tick=look)
        display.close(supervisor.view())
    console.print("drained: leases are given back, nothing is in flight")


@dataclass(frozen=True, kw_only=True)
class Feed:
    """What a demo sends: rows of Parquet, `rate` events a second for some seconds, from another process."""

    events: Path
    rate: float
    seconds: float
    id_column: str | None
    key_column: str | None
    config: Path

    @property
    def limit(self) -> int:
        return int(self.rate * self.seconds)

    def start(self) -> subprocess.Popen[bytes]:
        """The producer, as its own process: it shares no interpreter with reader or scorers."""
        command = [
            sys.executable, "-m", "streaming", "produce", "--config", str(self.config), "--events", str(self.events),
            "--rate", str(self.rate), "--limit", str(self.limit),
        ]  # fmt: skip
        for flag, column in (("--id-column", self.id_column), ("--key-column", self.key_column)):
            command += [flag, column] if column else []
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603  # our own command


def run_demo(settings: StreamingSettings, feed: Feed, *, place: RayPlace) -> None:
    """Raises: EnvironmentNotReadyError when outputs stop coming before every event has one."""
    console = Console()
    _check_model(settings)
    with contextlib.closing(open_queue(settings.queue)) as queue, joined(place) as where:
        tell_risks(queue, console)
        console.print(f"starting the scorers on {where}")
        with _Background(settings) as pool:
            console.print(f"{settings.pool.min_scorers} scorers consume {queue.num_partitions} partitions")
            _show(queue, pool, feed, console)


def _show(queue: Queue, pool: _Background, feed: Feed, console: Console) -> None:
    shown = _Shown(console)
    reader = Reader(queue, cursors=queue.output_ends())
    refused_before = pool.view().total.num_dead
    producer = feed.start()
    try:
        while producer.poll() is None or shown.quiet_s < _QUIET_S or pool.view().lag:
            pool.check()
            shown.take(reader.read(wait_s=0.2))
            if shown.quiet_s > _SILENT_S:
                raise EnvironmentNotReadyError(
                    f"Cannot go on: no output for {_SILENT_S:.0f} s. `python -m streaming lag` shows what waits."
                )
    finally:
        producer.terminate()
        producer.wait()
    if producer.returncode != 0:
        raise EnvironmentNotReadyError("Cannot feed the stream: the producer failed. Run it by hand to see why.")
    shown.summarise(num_dead=pool.view().total.num_dead - refused_before)


class _Background:
    """A supervisor on a thread of its own, with a queue of its own; drained at the end."""

    def __init__(self, settings: StreamingSettings) -> None:
        self._settings = settings
        self._supervisor: Supervisor | None = None
        self._view: PoolView | None = None
        self._error: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor")

    def __enter__(self) -> _Background:
        self._thread.start()
        if not self._ready.wait(_READY_TIMEOUT_S):
            why = self._supervisor.hindrance() if self._supervisor is not None else "the queue cannot be opened"
            self._error = EnvironmentNotReadyError(
                f"Cannot start the pool: after {_READY_TIMEOUT_S:.0f} s not every partition has a scorer ({why})."
            )
        if self._error is not None:
            self.__exit__()
        self.check()
        return self

    def __exit__(self, *_: object) -> None:
        if self._supervisor is not None:
            self._supervisor.stop()
        self._thread.join()

    def check(self) -> None:
        """Raises: what ended the supervisor, if anything did."""
        if self._error is not None:
            raise self._error

    def view(self) -> PoolView:
        if self._view is None:
            raise RuntimeError("the pool is looked at before it is ready")
        return self._view

    def _run(self) -> None:
        try:
            with contextlib.closing(open_queue(self._settings.queue)) as queue:
                self._supervisor = Supervisor(self._settings, queue)
                self._supervisor.run(on_tick=self._look)
        except BaseException as error:  # noqa: BLE001  # handed to the thread that waits
            self._error = error
        finally:
            self._ready.set()

    def _look(self, view: PoolView) -> None:
        self._view = view
        if view.ready:
            self._ready.set()


@dataclass(slots=True)
class _Shown:
    """Prints a sample of the outputs as they arrive and measures all of them where they become visible."""

    console: Console
    count: int = 0
    began: float = field(default_factory=time.time)
    first: float = 0.0
    last: float = field(default_factory=time.monotonic)
    printed: float = 0.0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=1_000_000))

    @property
    def quiet_s(self) -> float:
        return time.monotonic() - self.last

    def take(self, found: list[Delivered]) -> None:
        if not found:
            return
        now = time.time()
        self.last = time.monotonic()
        self.first = self.first or self.last
        self.count += len(found)
        # Events from before the demo have waited for it.
        created = (delivered.output.created for delivered in found)
        self.latencies.extend(now - moment for moment in created if moment >= self.began)
        if self.last - self.printed > _SHOW_EVERY_S:
            self.printed = self.last
            text = found[-1].output.value.decode(errors="replace")
            self.console.print(plain(text), soft_wrap=True)

    def summarise(self, *, num_dead: int) -> None:
        if not self.latencies:
            self.console.print(f"no outputs; {num_dead} dead letters")
            return
        ms = np.array(self.latencies) * 1000
        rate = self.count / max(self.last - self.first, 1e-9)
        self.console.print(
            f"\n[bold]{self.count:,} events scored[/], {rate:,.0f}/s, {num_dead} dead letters; from event to visible "
            f"output: p50 {np.quantile(ms, 0.5):.2f} ms, p99 {np.quantile(ms, 0.99):.2f} ms",
            soft_wrap=True,
        )


@contextlib.contextmanager
def _metrics(settings: StreamingSettings, newest: Sequence[PoolView]) -> Iterator[None]:
    """Serves the newest view's numbers, if a port is set. Raises: EnvironmentNotReadyError."""
    if settings.metrics.port is None:
        yield
        return
    collector = PoolCollector(lambda: newest[0] if newest else None, model=settings.model)
    server = serve_metrics(collector, host=settings.metrics.host, port=settings.metrics.port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


def _stop_on_signals(stopping: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())


def _check_model(settings: StreamingSettings) -> None:
    """What can be found wrong before Ray is started. Raises: ZaphodError."""
    Registry.open(settings.registry).resolve(Reference.parse(settings.model))
