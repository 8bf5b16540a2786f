"""What Ray refuses by itself looks like what the protocols refuse."""

from __future__ import annotations

import asyncio
import json

import pytest
from ray.serve._private.http_util import convert_object_to_asgi_messages
from starlette.types import Message, Receive, Scope, Send

from deployments.catalogue import Catalogue
from deployments.protocols.every import every_protocol
from deployments.refusals import NO_ROOM, Refusals, middlewares
from deployments.settings import Limits
from zaphod.errors import OverloadedError

PATHS = {
    "plain": "/v1/models/a:predict",
    "openinference": "/fraud/v2/models/a/infer",
    "mlflow": "/fraud/models/a/invocations",
}


def answer(path: str, messages: list[Message], method: str = "POST") -> list[Message]:
    """What becomes of an answer on its way out."""
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    (middleware,) = middlewares()
    assert middleware.cls is Refusals  # type: ignore[comparison-overlap]  # to mypy it is any factory
    asyncio.run(Refusals(app)({"type": "http", "path": path, "method": method}, receive, send))
    return sent


@pytest.mark.parametrize("protocol", every_protocol(Catalogue({}), limits=Limits()), ids=lambda each: each.name)
def test_no_room_is_said_as_the_protocol_says_it(protocol: object) -> None:
    """Ray's 429 has the protocol's own body, and keeps its Retry-After."""
    rays = convert_object_to_asgi_messages("dropped", status_code=429, extra_headers=[(b"retry-after", b"1")])

    start, body = answer(PATHS[protocol.name], rays)  # type: ignore[attr-defined]  # of a protocol

    own = protocol.refuse(429, OverloadedError(NO_ROOM))  # type: ignore[attr-defined]  # as above
    assert body["body"] == own.body
    headers = dict(start["headers"])
    assert (headers[b"content-type"], headers[b"retry-after"]) == (own.content_type, b"1")
    assert int(headers[b"content-length"]) == len(own.body)


@pytest.mark.parametrize("status", [404, 408, 499, 500, 503])
@pytest.mark.parametrize("path", PATHS.values())
def test_whatever_else_ray_says_is_json_and_none_of_its_words(status: int, path: str) -> None:
    """An exception's text may hold a caller's data."""
    start, body = answer(path, convert_object_to_asgi_messages("CANARY", status_code=status))

    assert start["status"] == status
    assert "message" in json.loads(body["body"]) or "error" in json.loads(body["body"])
    assert b"CANARY" not in body["body"]


def test_other_answers_pass() -> None:
    """Ours, good ones in plain text, and what Ray says of its own health."""
    ours: list[Message] = [
        {"type": "http.response.start", "status": 422, "headers": [(b"content-type", b"application/json")]},
        {"type": "http.response.body", "body": b"{}"},
    ]

    assert answer("/v1/models/a:predict", ours) == ours
    for path, status in (("/version", 200), ("/-/healthz", 503)):
        rays = convert_object_to_asgi_messages("text", status_code=status)
        assert answer(path, rays) == rays


def test_an_answer_to_head_has_no_body() -> None:
    """Its headers tell how long it would be."""
    start, body = answer("/v1/models", convert_object_to_asgi_messages("x", status_code=503), method="HEAD")

    assert body["body"] == b""
    assert int(dict(start["headers"])[b"content-length"]) > 0
