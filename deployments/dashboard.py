"""Ray's dashboard, whose parts start when they are first asked and end when nobody asks any more.

`python -m deployments.dashboard SCRIPT …` runs Ray's script. There are eight parts, each a process of 20 MB, and a
server that nobody looks at needs none: `ray job submit` asks one of them, `serve status` another, a browser most.
"""

from __future__ import annotations

import asyncio
import runpy
import sys
import time
from collections.abc import Iterable, Iterator
from typing import ClassVar

from aiohttp import web
from ray.dashboard import head
from ray.dashboard.subprocesses import handle
from ray.dashboard.subprocesses.utils import ResponseType

_READY_S = 30.0
# Parts that ask others, beside the dashboard, or need what another writes: which node is the head.
_COMPANIONS = {"JobHead": ("NodeHead",), "TrainHead": ("NodeHead",)}


class Part(handle.SubprocessModuleHandle):
    """A part that need not run; who asks it first waits for it to start."""

    idle_s: ClassVar[float] = 600.0
    parts: ClassVar[dict[str, Part]] = {}
    _lock: asyncio.Lock | None = None
    _num_asking = 0
    _asked_s = 0.0

    def start_module(self) -> None:
        """What Ray calls at its start, and after the part has died."""
        self.parts[self.module_cls.__name__] = self

    def wait_for_module_ready(self) -> None:
        """What Ray calls next."""

    async def proxy_request(
        self, request: web.Request, resp_type: ResponseType = ResponseType.HTTP
    ) -> web.StreamResponse:
        """What Ray calls with a request to the part. Raises: RuntimeError when it does not start."""
        asked = [self, *(self.parts[name] for name in _COMPANIONS.get(self.module_cls.__name__, ()))]
        for part in asked:
            part._num_asking += 1
        try:
            for part in asked:
                await part._ensure_running()
            return await super().proxy_request(request, resp_type)
        finally:
            for part in asked:
                part._num_asking -= 1
                part._asked_s = time.monotonic()

    async def _ensure_running(self) -> None:
        async with self._starting():
            if self.process is not None:
                return
            try:
                await asyncio.to_thread(super().start_module)  # waits for the process that parts are forked from
                await asyncio.to_thread(self.parent_conn.poll, _READY_S)  # type: ignore[attr-defined]  # made above
                super().wait_for_module_ready()  # type: ignore[no-untyped-call]  # Ray is not typed there
            except Exception:
                await self._end()
                raise
            self._look_later()

    def _look_later(self) -> None:
        self.loop.call_later(self.idle_s, lambda: self.loop.create_task(self._end_if_idle()))

    async def _end_if_idle(self) -> None:
        async with self._starting():
            if self._num_asking or time.monotonic() < self._asked_s + self.idle_s:
                self._look_later()
            else:
                await self._end()

    async def _end(self) -> None:
        await self.destroy_module()  # type: ignore[no-untyped-call]  # as above

    def _starting(self) -> asyncio.Lock:
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock


class Running:
    """Those parts that run."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Part]:
        return (part for part in self._parts if part.process is not None and part.process.pid is not None)


class Head(head.DashboardHead):
    """Ray's, which does not measure the memory of parts that do not run."""

    async def _record_dashboard_metrics(self, parts: Iterable[Part]) -> None:
        await super()._record_dashboard_metrics(Running(parts))


def main() -> None:
    """Takes what Ray's script takes, after its path."""
    handle.SubprocessModuleHandle = Part  # type: ignore[misc]  # there is no other way to have it used
    head.DashboardHead = Head  # type: ignore[misc]  # as above
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
