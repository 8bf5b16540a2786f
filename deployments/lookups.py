"""`GET /v1/predictions/<id>`: the newest prediction of an entity that the batch arm has published."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import msgspec

from deployments.access import Key
from deployments.protocols.base import Response
from zaphod.errors import ConfigError, OverloadedError, PredictionTimeoutError
from zaphod.lookup import PublishedPredictions

PREFIX = "/v1/predictions/"

_MAX_WAITING = 16


class Lookups:
    """Reads files on one thread of its own: a look may cost as much as a column has rows, and must not cost more.

    published: None where the server was told of no output. timeout_s: how long a caller waits.
    """

    def __init__(self, published: PublishedPredictions | None, *, timeout_s: float) -> None:
        self._published = published
        self._timeout_s = timeout_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lookup")
        self._waiting = 0

    @property
    def ready(self) -> bool:
        """Whether the server was told of predictions."""
        return self._published is not None

    async def find(self, entity: str, key: Key | None) -> Response:
        """key: of the caller, which sees the predictions of models that it covers.

        Raises: PredictionNotFoundError; InvalidInputError; OverloadedError; PredictionTimeoutError; ConfigError.
        """
        if self._published is None:
            raise ConfigError("Cannot look predictions up: this server was told of none. Set `predictions`.")
        if self._waiting >= _MAX_WAITING:
            raise OverloadedError(f"Cannot look up: {_MAX_WAITING} others wait. Ask again later.")
        self._waiting += 1
        covers = None if key is None else key.covers
        looking = self._thread.submit(self._published.newest, entity, covers=covers)
        # Also of one that nobody waits for any more.
        loop = asyncio.get_running_loop()
        looking.add_done_callback(lambda done: loop.call_soon_threadsafe(self._done))
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await asyncio.wrap_future(looking)
        except TimeoutError as error:
            raise PredictionTimeoutError(
                f"Cannot answer: looking up took longer than {self._timeout_s:g} s (predict_timeout_s). Ask again."
            ) from error
        return Response(200, msgspec.json.encode(found))

    def _done(self) -> None:
        self._waiting -= 1
