"""What becomes of a body that is slow, too large, both, or cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deployments.body import read_body
from zaphod.errors import InvalidInputError, LimitExceededError, SlowRequestError


def sender(*pieces: bytes, ends: bool = True) -> Callable[[], Awaitable[dict[str, Any]]]:
    """An ASGI `receive` that gives these pieces; ends: the last one is the end, else nothing ever follows it."""
    waiting = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if ends:
        waiting[-1]["more_body"] = False

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


def read(receive: Callable[[], Awaitable[dict[str, Any]]]) -> bytes:
    """With a limit of ten bytes and a twentieth of a second."""
    return asyncio.run(read_body(receive, limit=10, timeout_s=0.05))


def test_pieces_are_put_together() -> None:
    """A body that fits is given whole, however it came."""
    assert read(sender(b"01234", b"56789")) == b"0123456789"


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("pieces", [(b"0" * 11,), (b"0" * 8, b"0" * 8), (b"0" * 11, b"0" * 500)])
def test_too_much_is_refused_for_its_size(pieces: tuple[bytes, ...], *, ends: bool) -> None:
    """A body over the limit is told so, also one whose rest comes too slowly to be read on."""
    with pytest.raises(LimitExceededError, match="max_body_bytes"):
        read(sender(*pieces, ends=ends))


def test_a_part_is_not_waited_for_any_longer() -> None:
    """A body that does not come to its end is told how long it had."""
    with pytest.raises(SlowRequestError, match="body_timeout_s"):
        read(sender(b"0123", ends=False))


def test_a_client_that_leaves_is_no_body() -> None:
    """A closed connection amid a body is not taken for its end."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(InvalidInputError, match="closed"):
        read(receive)
