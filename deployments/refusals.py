"""What Ray refuses by itself, in the form of the protocol that was asked: Ray says it in plain text.

Ray asks for it by RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH in configs/ray.env. Ray's own proxy loads this module too,
which has nothing else of ours in it: nothing large may be imported here.
"""

from __future__ import annotations

import http

import msgspec
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NO_ROOM = "Cannot take the request: the queue is full. Try again after the time in Retry-After."

_MESSAGES = {
    404: ("not_found", "Expected the path of an application, got another."),
    408: ("request_timeout", "Cannot answer: it took longer than request_timeout_s. Send fewer rows, or again later."),
    429: ("overloaded", NO_ROOM),
    503: ("unavailable", "Cannot answer at the moment: no replica is ready. Send it again later."),
}
_FAILED = ("prediction", "Cannot answer: the server made a mistake. Its log says which.")
_MLFLOW_CODES = {404: "RESOURCE_DOES_NOT_EXIST", 429: "RESOURCE_EXHAUSTED", 503: "TEMPORARILY_UNAVAILABLE"}
_RAYS_OWN = ("/-/healthz", "/-/routes")


def middlewares() -> list[Middleware]:
    """What Ray puts around its HTTP servers."""
    return [Middleware(Refusals)]


def refusal(path: str, status: int) -> bytes:
    """The body in which a path's protocol says it."""
    word, message = _MESSAGES.get(status, _FAILED)
    if path.endswith("/invocations"):
        code = "INTERNAL_ERROR" if word == _FAILED[0] else _MLFLOW_CODES.get(status, "BAD_REQUEST")
        return msgspec.json.encode({"error_code": code, "message": message})
    if "/v2/" in path:
        return msgspec.json.encode({"error": message})
    return msgspec.json.encode({"error": word, "message": message})


class Refusals:
    """Exchanges the body of errors in plain text, which are Ray's: ours are JSON."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].endswith(_RAYS_OWN):
            await self._app(scope, receive, send)
            return
        body: bytes | None = None

        async def exchange(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start" and _is_rays(message):
                body = refusal(scope["path"], message["status"])
                kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in _REPLACED]
                new = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
                message = {**message, "headers": [*new, *kept]}
            elif message["type"] == "http.response.body" and body is not None:
                if message.get("more_body", False):
                    return
                message = {**message, "body": b"" if scope["method"] == "HEAD" else body}
            await send(message)

        await self._app(scope, receive, exchange)


_REPLACED = (b"content-type", b"content-length")


def _is_rays(start: Message) -> bool:
    return start["status"] >= http.HTTPStatus.BAD_REQUEST and any(
        name.lower() == b"content-type" and value.startswith(b"text/plain") for name, value in start.get("headers", ())
    )
