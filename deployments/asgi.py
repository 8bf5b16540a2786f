"""The HTTP shell as a raw ASGI application: transport and routing. What a body means is the protocols' matter."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from deployments import outcomes, pages
from deployments.catalogue import Catalogue
from deployments.errors import status_of
from deployments.identity import NOBODY, Identity, identify
from deployments.outcomes import OutcomeInbox
from deployments.protocols.base import Protocol, Question, Request, Response
from deployments.scoring import Scoring
from deployments.settings import Limits
from zaphod.errors import InvalidInputError, LimitExceededError, ZaphodError
from zaphod.served import ServedModel

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_HTML = b"text/html; charset=utf-8"
# A body over the limit is read on for a while, so that the client gets to see the answer instead of a broken pipe.
_MAX_DRAINED_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Route:
    """A prediction path: whose language it is and which model answers."""

    protocol: Protocol
    served: ServedModel


class OnlineApp:
    """Routes by path; answers every error in JSON with the reason, never with the caller's data.

    protocols: the first is also the form of errors on paths that are nobody's.
    slow_start: names of missing environment settings, shown to people.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        protocols: Sequence[Protocol],
        scoring: Scoring,
        limits: Limits,
        inbox: OutcomeInbox,
        slow_start: list[str] | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._protocols = tuple(protocols)
        self._scoring = scoring
        self._limits = limits
        self._outcomes = inbox
        self._slow_start = slow_start or []
        self._encoder = msgspec.json.Encoder()
        # One look-up finds the common paths. Others are resolved each time: what they name may move.
        self._routes = {
            path: Route(protocol, served)
            for reference, served in catalogue.models.items()
            for protocol in self._protocols
            if (path := protocol.path(reference)) is not None
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        path, method = scope["path"], scope["method"]
        try:
            route = self._routes.get(path) or self._match(path)
            if route is None and path == outcomes.PATH and method == "POST":
                response = await self._take_outcomes(receive)
            elif route is None:
                response = self._other(path, method)
            elif method != "POST":
                response = self._refuse(405, "method_not_allowed", "Expected POST", (b"allow", b"POST"))
            else:
                response = await self._predict(route, scope, receive)
        except ZaphodError as error:
            response = self._protocols[0].refuse(status_of(error), error)
        await _respond(send, response, head=method == "HEAD")

    async def _predict(self, route: Route, scope: Scope, receive: Receive) -> Response:
        protocol = route.protocol
        snapshot = route.served.snapshot()
        identity = NOBODY
        try:
            body = await _read_body(receive, limit=self._limits.max_body_bytes)
            snapshot = route.served.snapshot()
            if snapshot.recorder is not None or snapshot.trial is not None:
                identity = identify(scope["headers"])
            question = protocol.decode(snapshot, Request(scope["headers"], body))
        except ZaphodError as error:
            # What got as far as the model is recorded by the snapshot itself.
            snapshot.refuse(error, entities=[identity.entity], ids=identity.id)
            return protocol.refuse(status_of(error), error)
        try:
            scored = await self._scoring.score(snapshot, _named(question, identity))
            return protocol.encode(snapshot, question, scored)
        except ZaphodError as error:
            return protocol.refuse(status_of(error), error)

    async def _take_outcomes(self, receive: Receive) -> Response:
        return self._outcomes.take(await _read_body(receive, limit=self._limits.max_body_bytes))

    def _match(self, path: str) -> Route | None:
        for protocol in self._protocols:
            wanted = protocol.match(path)
            if wanted is not None:
                return Route(protocol, self._catalogue.find(wanted))
        return None

    def _other(self, path: str, method: str) -> Response:
        if method in ("GET", "HEAD"):
            for protocol in self._protocols:
                response = protocol.inform(path)
                if response is not None:
                    return response
            page = self._page(path)
            if page is not None:
                return page
        return self._refuse(404, "not_found", f"Expected a known path, got another. See {pages.DOCS_PATH}.")

    def _page(self, path: str) -> Response | None:
        snapshots = self._catalogue.snapshots()
        match path:
            case "/":
                return Response(200, pages.home(snapshots, slow_start=self._slow_start), _HTML)
            case pages.DOCS_PATH:
                return Response(200, pages.docs(snapshots), _HTML)
            case "/openapi.json":
                return Response(200, self._encoder.encode(pages.openapi(snapshots)))
            case "/health" | "/ready":
                return Response(200, self._encoder.encode({"status": "ready", "models": sorted(snapshots)}))
        return None

    def _refuse(self, status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> Response:
        return Response(status, self._encoder.encode({"error": code, "message": message}), headers=headers)


def _named(question: Question, identity: Identity) -> Question:
    """With what the headers say, where the protocol's body says nothing."""
    if identity is NOBODY:
        return question
    entities = question.entities
    if entities is None and identity.entity is not None:
        entities = [identity.entity] * question.columns.num_rows
    return msgspec.structs.replace(question, entities=entities, id=identity.id or question.id)


async def _read_body(receive: Receive, *, limit: int) -> bytes:
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
