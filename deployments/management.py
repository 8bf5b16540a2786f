"""`/v2/repository/…`: the Open Inference Protocol's model repository, for keys that manage and for nobody else."""

from __future__ import annotations

import asyncio
import re

import msgspec

from deployments.access import Access
from deployments.catalogue import Catalogue, Wanted
from deployments.protocols.base import Headers, Response
from zaphod.errors import ModelNotFoundError

PREFIX = "/v2/repository/"

_INDEX = "/v2/repository/index"
_LOAD = re.compile(r"/v2/repository/models/([^/@]{1,100})(?:@([^/@]{1,100}))?/load")


class Management:
    """What is served, and a look at the registry now instead of within half a second.

    Which version serves is the registry's to say (`zaphod promote`): nothing can be unloaded here.
    """

    def __init__(self, catalogue: Catalogue, *, access: Access) -> None:
        self._catalogue = catalogue
        self._access = access

    async def take(self, path: str, headers: Headers) -> Response:
        """Raises: UnauthenticatedError, ForbiddenError, ModelNotFoundError; what a version that cannot load raises."""
        key = self._access.manage(headers)
        catalogue = self._catalogue.only(key.covers)
        if path == _INDEX:
            index = [
                {"name": reference, "version": str(snapshot.stamp.version), "state": "READY", "reason": ""}
                for reference, snapshot in catalogue.snapshots().items()
            ]
            return Response(200, msgspec.json.encode(index))
        found = _LOAD.fullmatch(path)
        if found is None:
            raise ModelNotFoundError(f"Expected {_INDEX} or {PREFIX}models/<name>/load, got another path")
        served = catalogue.find(Wanted.of(found[1], found[2]))
        await asyncio.get_running_loop().run_in_executor(None, served.refresh)
        return Response(200, b"{}")
