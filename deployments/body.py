"""Reads a request's body within its limits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from zaphod.errors import InvalidInputError, LimitExceededError, SlowRequestError

# A body over the limit is read on for a while, so that the client gets to see the answer instead of a broken pipe.
_MAX_DRAINED_BYTES = 256 * 1024 * 1024


Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def read_body(receive: Receive, *, limit: int, timeout_s: float) -> bytes:
    """Raises: LimitExceededError, after the rest has been read and thrown away for at most timeout_s more;
    SlowRequestError; InvalidInputError when the client went away.
    """
    try:
        async with asyncio.timeout(timeout_s):
            body = await _read(receive, limit=limit)
    except TimeoutError as error:
        raise SlowRequestError(
            f"Expected a whole body within {timeout_s:g} s (body_timeout_s), got a part of it"
        ) from error
    if body is not None:
        return body
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await _drain(receive)
    raise LimitExceededError(f"Expected a body of at most {limit} bytes (max_body_bytes), got more")


async def _read(receive: Receive, *, limit: int) -> bytes | None:
    """None once it is over the limit, with all that is left of it unread."""
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidInputError("Expected a whole body, got a closed connection")
        chunk = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(chunk)
        if size > limit:
            if more:
                return None
            raise LimitExceededError(f"Expected a body of at most {limit} bytes (max_body_bytes), got {size}")
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _drain(receive: Receive) -> None:
    size, more = 0, True
    while more and size <= _MAX_DRAINED_BYTES:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)  # nor does a client that went away send more
