"""Reads a request's body within its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from zaphod.errors import InvalidInputError, LimitExceededError, SlowRequestError

# A body over the limit is read on for a while, so that the client gets to see the answer instead of a broken pipe.
_MAX_DRAINED_BYTES = 256 * 1024 * 1024


async def read_body(
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]], *, limit: int, timeout_s: float
) -> bytes:
    """Raises: LimitExceededError, after the rest has been read and thrown away; SlowRequestError; InvalidInputError
    when the client went away.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(receive, limit=limit)
    except TimeoutError as error:
        raise SlowRequestError(
            f"Expected a whole body within {timeout_s:g} s (body_timeout_s), got a part of it"
        ) from error


async def _read(receive: Callable[[], Awaitable[MutableMapping[str, Any]]], *, limit: int) -> bytes:
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
