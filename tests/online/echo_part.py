"""A part of Ray's dashboard that says in which process it runs."""

from __future__ import annotations

import os

from aiohttp import web
from ray.dashboard.subprocesses.module import SubprocessModule
from ray.dashboard.subprocesses.routes import SubprocessRouteTable


class EchoPart(SubprocessModule):
    """Needs no cluster: Ray looks at every attribute, and these two would look for one."""

    gcs_client = None  # type: ignore[assignment]  # see above
    aiogrpc_gcs_channel = None  # type: ignore[assignment]  # as above

    @SubprocessRouteTable.get("/zaphod/echo")
    async def echo(self, request: web.Request) -> web.Response:
        return web.Response(text=f"{request.query['say']} {os.getpid()}")
