"""The HTTP shell as a raw ASGI application: transport and routing. What a body means is the protocols' matter."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import msgspec

from deployments import lookups, management, outcomes, pages
from deployments.access import Access, challenges
from deployments.body import read_body
from deployments.catalogue import Catalogue, find_for
from deployments.errors import UNRECORDED, status_of
from deployments.identity import NOBODY, identify, named
from deployments.inline import BEGUN, Begun
from deployments.lookups import Lookups
from deployments.management import Management
from deployments.metrics import CONTENT_TYPE, Labels, Meter
from deployments.outcomes import OutcomeInbox
from deployments.protocols.base import Headers, Protocol, Question, Request, Response
from deployments.refusals import NO_ROOM
from deployments.scoring import Scoring, within
from deployments.settings import Limits
from zaphod.errors import OverloadedError, PredictionError, ZaphodError
from zaphod.served import Scored, ServedModel, Snapshot

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_log = logging.getLogger("ray.serve")

_RETRY_AFTER_S = 1
_HTML = b"text/html; charset=utf-8"
# What tells whether a server works, and nothing else, is open to everybody: load balancers send no key.
_OPEN = frozenset(("/health", "/ready", "/ping", "/v2/health/live", "/v2/health/ready"))


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
        access: Access,
        inbox: OutcomeInbox,
        lookups: Lookups,
        meter: Meter,
        slow_start: list[str] | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._protocols = tuple(protocols)
        self._scoring = scoring
        self._limits = limits
        self._access = access
        self._management = Management(catalogue, access=access)
        self._outcomes = inbox
        self._lookups = lookups
        self._meter = meter
        self._slow_start = slow_start or []
        self._encoder = msgspec.json.Encoder()
        # One look-up finds the common paths. Others are resolved each time: what they name may move.
        self._routes = {
            path: Route(protocol, served)
            for reference, served in catalogue.models.items()
            for protocol in self._protocols
            if (path := protocol.path(reference)) is not None
        }
        prefix = secrets.token_hex(8)
        self._request_ids = (f"{prefix}-{number:x}".encode() for number in count())
        self.paths: dict[bytes, Route] = {}
        self._mounted: set[str] = set()
        self._mount("")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
            return
        root = scope.get("root_path", "")
        if root not in self._mounted:
            self._mount(root)
        # `/fraud` of an application below `/fraud` is its start page, as `/fraud/` is.
        path, method = scope["path"].removeprefix(root) or "/", scope["method"]
        try:
            route = self._routes.get(path) or self._match(path, scope["headers"])
            if isinstance(route, Response):
                response = route
            elif route is None and path == outcomes.PATH and method == "POST":
                response = await self._take_outcomes(scope, receive)
            elif route is None and path.startswith(lookups.PREFIX) and method in ("GET", "HEAD"):
                key = self._access.covered(scope["headers"])
                response = await self._lookups.find(path.removeprefix(lookups.PREFIX), key)
            elif route is None and path.startswith(management.PREFIX) and method == "POST":
                response = await self._management.take(path, scope["headers"])
            elif route is None:
                response = self._other(path, method, scope["headers"], root=root)
            elif method != "POST":
                response = self._refuse_method(route, scope["headers"])
            else:
                response = await self._predict(route, scope, receive)
        except ZaphodError as error:
            response = _told(self._protocols[0], error)
        if response.status == 401:
            response = msgspec.structs.replace(response, headers=(*response.headers, *challenges(scope["headers"])))
        await _respond(send, response, head=method == "HEAD")

    def answer(self, path: bytes, headers: Headers, body: bytes) -> Response | Begun | None:
        """A prediction on one of `paths`, made at once.

        When it takes longer than an event loop may be held up: None, or what has been decoded until that was clear.
        Must not raise: nobody above could say anything of use.
        """
        route = self.paths[path]
        began = time.perf_counter()
        snapshot = route.served.snapshot()
        if not snapshot.inline or len(body) > self._limits.max_body_bytes:
            return None
        num_rows, scored = 0, None
        try:
            question = self._decode(route, snapshot, Request(headers, body))
            num_rows = question.columns.num_rows
            scored = self._scoring.score_now(snapshot, question)
            if scored is None:
                return Begun(snapshot, question, began)
            response = route.protocol.encode(snapshot, question, scored)
        except Exception as error:  # noqa: BLE001  # see above
            response = self._failure(route, error)
        self._count(route, snapshot, scored, response, began, num_rows)
        more = challenges(headers) if response.status == 401 else ()
        request_id = (b"x-request-id", self._request_id(headers))
        return msgspec.structs.replace(response, headers=(*response.headers, *more, request_id))

    def refuse(self, path: bytes, *, status: int, retry_after_s: float | None) -> Response:
        """What a caller on one of `paths` is told when there is no room."""
        route = self.paths[path]
        stamp = route.served.snapshot().stamp
        labels = Labels(stamp.model, stamp.version, stamp.variant, route.protocol.name, "refused")
        self._meter.count(labels, duration_s=0.0, num_rows=0)
        response = route.protocol.refuse(status, OverloadedError(NO_ROOM))
        if retry_after_s is None:
            return response
        retry_after = (b"retry-after", b"%d" % -(-retry_after_s // 1))
        return msgspec.structs.replace(response, headers=(*response.headers, retry_after))

    async def _predict(self, route: Route, scope: Scope, receive: Receive) -> Response:
        snapshot = route.served.snapshot()
        num_rows, scored = 0, None
        began = time.perf_counter()
        try:
            begun = scope.get(BEGUN)
            if begun is None:
                body = await self._take_body(route, scope, receive)
                began = time.perf_counter()
                snapshot = route.served.snapshot()
                question = self._decode(route, snapshot, Request(scope["headers"], body))
            else:
                began, snapshot, question = begun.began, begun.snapshot, begun.question
            num_rows = question.columns.num_rows
            scored = await within(self._scoring.score(snapshot, question), timeout_s=self._limits.predict_timeout_s)
            response = route.protocol.encode(snapshot, question, scored)
        except Exception as error:  # noqa: BLE001  # a caller is owed an answer in JSON
            response = self._failure(route, error)
        self._count(route, snapshot, scored, response, began, num_rows)
        return response

    async def _take_body(self, route: Route, scope: Scope, receive: Receive) -> bytes:
        """Raises: ZaphodError, which has been recorded where it may be."""
        try:
            self._access.predict(scope["headers"], route.served.reference.name)
            return await self._read_body(receive)
        except UNRECORDED:
            raise
        except ZaphodError as error:
            route.served.snapshot().refuse(error, entities=[NOBODY.entity], ids=NOBODY.id)
            raise

    def _decode(self, route: Route, snapshot: Snapshot, request: Request) -> Question:
        """As `_take_body`; what gets as far as the model the snapshot records itself."""
        identity = NOBODY
        try:
            self._access.predict(request.headers, route.served.reference.name)
            if snapshot.recorder is not None or snapshot.trial is not None:
                snapshot.check_room()
                identity = identify(request.headers)
            return named(route.protocol.decode(snapshot, request), identity)
        except UNRECORDED:
            raise
        except ZaphodError as error:
            snapshot.refuse(error, entities=[identity.entity], ids=identity.id)
            raise

    def _failure(self, route: Route, error: Exception) -> Response:
        if not isinstance(error, ZaphodError):
            _log.error("a request failed unexpectedly", exc_info=error)
            error = PredictionError("Cannot answer: the server made a mistake. Its log says which.")
        return _told(route.protocol, error)

    def _count(
        self, route: Route, snapshot: Snapshot, scored: Scored | None, response: Response, began: float, num_rows: int
    ) -> None:
        self._meter.answered(
            scored, stamp=snapshot.stamp, protocol=route.protocol.name, status=response.status,
            began=began, num_rows=num_rows,
        )  # fmt: skip

    def _request_id(self, headers: Headers) -> bytes:
        """The caller's own, or a new one: what Ray does for the others."""
        for name, value in headers:
            if name == b"x-request-id":
                return value
        return next(self._request_ids)

    def _mount(self, root: str) -> None:
        """Ray says only with the first request under which prefix the application stands."""
        self._mounted.add(root)
        self.paths |= {f"{root}{path}".encode(): route for path, route in self._routes.items()}

    async def _take_outcomes(self, scope: Scope, receive: Receive) -> Response:
        self._access.all_models(scope["headers"])
        return self._outcomes.take(await self._read_body(receive))

    async def _read_body(self, receive: Receive) -> bytes:
        limits = self._limits
        return await read_body(receive, limit=limits.max_body_bytes, timeout_s=limits.body_timeout_s)

    def _match(self, path: str, headers: Headers) -> Route | Response | None:
        """A response says that the path is a protocol's, and that no such model is served, to who may know."""
        for protocol in self._protocols:
            wanted = protocol.match(path)
            if wanted is not None:
                try:
                    return Route(protocol, find_for(headers, wanted, catalogue=self._catalogue, access=self._access))
                except ZaphodError as error:
                    return _told(protocol, error)
        return None

    def _refuse_method(self, route: Route, headers: Headers) -> Response:
        """Who may not ask the model is told what a path of no model says."""
        try:
            self._access.predict(headers, route.served.reference.name)
        except ZaphodError as error:
            return _told(route.protocol, error)
        return self._refuse(405, "method_not_allowed", "Expected POST", (b"allow", b"POST"))

    def _other(self, path: str, method: str, headers: Headers, *, root: str) -> Response:
        if method in ("GET", "HEAD"):
            catalogue = self._catalogue
            if path not in _OPEN:
                key = self._access.covered(headers)
                catalogue = catalogue if key is None else catalogue.only(key.covers)
            for protocol in self._protocols:
                try:
                    response = protocol.inform(path, catalogue)
                except ZaphodError as error:
                    response = _told(protocol, error)
                if response is not None:
                    return response
            page = self._page(path, catalogue, headers, root=root)
            if page is not None:
                return page
        return self._refuse(404, "not_found", f"Expected a known path, got another. See {pages.DOCS_PATH}.")

    def _page(self, path: str, catalogue: Catalogue, headers: Headers, *, root: str) -> Response | None:
        snapshots, needs_key = catalogue.snapshots(), self._access.required
        first = next(iter(self._catalogue.models))
        shown = pages.Shown(
            snapshots=snapshots, first=first if first in snapshots else None, needs_key=needs_key,
            looks_up=self._lookups.ready, root=root,
        )  # fmt: skip
        match path:
            case "/":
                home = pages.home(snapshots, slow_start=self._slow_start, root=root)
                return Response(200, home, _HTML, pages.HTML_HEADERS)
            case pages.DOCS_PATH:
                return Response(200, pages.docs(shown), _HTML, pages.HTML_HEADERS)
            case "/openapi.json":
                return Response(200, self._encoder.encode(pages.openapi(shown)))
            case "/metrics":
                self._access.all_models(headers)
                return Response(200, self._meter.text(), CONTENT_TYPE)
            case "/health" | "/ready":
                named = {} if needs_key else {"models": sorted(snapshots)}
                return Response(200, self._encoder.encode({"status": "ready", **named}))
        return None

    def _refuse(self, status: int, code: str, message: str, *headers: tuple[bytes, bytes]) -> Response:
        return Response(status, self._encoder.encode({"error": code, "message": message}), headers=headers)


def _told(protocol: Protocol, error: ZaphodError) -> Response:
    """The error in the protocol's form; who may come again is told when."""
    status = status_of(error)
    response = protocol.refuse(status, error)
    if status not in (429, 503):
        return response
    return msgspec.structs.replace(response, headers=(*response.headers, (b"retry-after", b"%d" % _RETRY_AFTER_S)))


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
