"""The HTTP surface as a raw ASGI application: no framework stands between a body and the model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from deployments import pages
from deployments.errors import body_of, status_of
from deployments.settings import Limits
from zaphod.columns import Row
from zaphod.errors import InvalidInputError, LimitExceededError, ModelNotFoundError, ZaphodError
from zaphod.outputs import to_rows
from zaphod.served import Scored, ServedModel, Snapshot

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_PREDICT = re.compile(r"/v1/models/([^/:]{1,210}):predict")
_MODEL = re.compile(r"/v1/models/([^/:]{1,210})")
_JSON = b"application/json"
_HTML = b"text/html; charset=utf-8"
# A body over the limit is read on for a while, so that the client gets to see the answer instead of a broken pipe.
_MAX_DRAINED_BYTES = 256 * 1024 * 1024
# One row of a compiled model takes microseconds and stays on the event loop; what takes longer would block it.
_MAX_INLINE_CELLS = 20_000


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer; bodies are small enough to hold."""

    status: int
    body: bytes
    content_type: bytes = _JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()


class OnlineApp:
    """Routes by path; answers every error in JSON with the reason, never with the caller's data.

    models: by the reference they are served under. slow_start: names of missing environment settings, shown to people.
    """

    def __init__(
        self, models: Mapping[str, ServedModel], *, limits: Limits, slow_start: list[str] | None = None
    ) -> None:
        self._models = models
        self._limits = limits
        self._slow_start = slow_start or []
        self._encoder = msgspec.json.Encoder()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        try:
            response = await self._route(scope, receive)
        except ZaphodError as error:
            response = Response(status=status_of(error), body=self._encoder.encode(body_of(error)))
        await _respond(send, response, head=scope["method"] == "HEAD")

    async def _route(self, scope: Scope, receive: Receive) -> Response:
        path, method = scope["path"], scope["method"]
        predict = _PREDICT.fullmatch(path)
        if predict:
            if method != "POST":
                return self._refuse(405, "method_not_allowed", "Expected POST", (b"allow", b"POST"))
            return await self._predict(predict.group(1), scope, receive)
        if method not in ("GET", "HEAD"):
            return self._refuse(404, "not_found", f"Expected a known path, got another. See {pages.DOCS_PATH}.")
        return self._page(path)

    async def _predict(self, reference: str, scope: Scope, receive: Receive) -> Response:
        snapshot = self._served(reference).snapshot()
        body = await _read_body(scope, receive, limit=self._limits.max_body_bytes)
        rows = self._decode(snapshot, body)
        columns = snapshot.decoder.columns(rows)
        if snapshot.inline and len(rows) * len(snapshot.schema.fields) <= _MAX_INLINE_CELLS:
            scored = snapshot.score(columns)
        else:
            scored = await asyncio.get_running_loop().run_in_executor(None, snapshot.score, columns)
        return self._answer(snapshot, scored)

    def _decode(self, snapshot: Snapshot, body: bytes) -> list[Row]:
        if not body:
            raise InvalidInputError('Expected a body `{"rows": [{…}]}` or one row `{…}`, got nothing')
        rows = snapshot.decoder.decode_request(body)
        if not rows:
            raise InvalidInputError("Expected at least one row, got none - at `$.rows`")
        if len(rows) > self._limits.max_rows:
            raise LimitExceededError(
                f"Expected at most {self._limits.max_rows} rows (max_rows), got {len(rows)} - at `$.rows`"
            )
        return rows

    def _answer(self, snapshot: Snapshot, scored: Scored) -> Response:
        stamp = scored.stamps[0]
        document = {
            "model": stamp.model,
            "version": stamp.version,
            "variant": stamp.variant,
            "predictions": to_rows(snapshot.schema, scored.predictions),
        }
        headers = (
            (b"x-zaphod-model", stamp.model.encode()),
            (b"x-zaphod-version", b"%d" % stamp.version),
            (b"x-zaphod-variant", stamp.variant.encode()),
        )
        return Response(status=200, body=self._encoder.encode(document), headers=headers)

    def _served(self, reference: str) -> ServedModel:
        served = self._models.get(reference)
        if served is None:
            raise ModelNotFoundError(f"Expected one of the served models {sorted(self._models)}, got another")
        return served

    def _page(self, path: str) -> Response:
        snapshots = {reference: served.snapshot() for reference, served in self._models.items()}
        match path:
            case "/":
                return Response(200, pages.home(snapshots, slow_start=self._slow_start), _HTML)
            case pages.DOCS_PATH:
                return Response(200, pages.docs(snapshots), _HTML)
            case "/openapi.json":
                return Response(200, self._encoder.encode(pages.openapi(snapshots)))
            case "/health" | "/ready":
                return Response(200, self._encoder.encode({"status": "ready", "models": sorted(snapshots)}))
            case "/v1/models":
                documents = [pages.describe(reference, snapshot) for reference, snapshot in snapshots.items()]
                return Response(200, self._encoder.encode({"models": documents}))
        model = _MODEL.fullmatch(path)
        if model:
            reference = model.group(1)
            return Response(200, self._encoder.encode(pages.describe(reference, self._served(reference).snapshot())))
        return self._refuse(404, "not_found", f"Expected a known path, got another. See {pages.DOCS_PATH}.")

    def _refuse(self, status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> Response:
        return Response(status, self._encoder.encode({"error": code, "message": message}), headers=headers)


async def _read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """Raises: LimitExceededError, after the rest has been read and thrown away."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidInputError("Expected a whole body, got a closed connection")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        else:
            chunks.clear()
        if not message.get("more_body", False) or size > _MAX_DRAINED_BYTES:
            break
    if size > limit:
        raise LimitExceededError(f"Expected a body of at most {limit} bytes (max_body_bytes), got more")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return


async def _respond(send: Send, response: Response, *, head: bool) -> None:
    headers = [
        (b"content-type", response.content_type),
        (b"content-length", b"%d" % len(response.body)),
        *response.headers,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else response.body})
