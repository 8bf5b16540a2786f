"""Waiting for a queue that cannot be used."""

from __future__ import annotations

import threading

import pytest

from streaming.patience import patiently
from zaphod.errors import ConfigError, QueueUnavailableError


def test_it_waits_says_so_and_goes_on() -> None:
    """The action is repeated until it succeeds; each failure is told, and the end of them."""
    left = iter(["down", "down"])
    told: list[str | None] = []

    def action() -> str:
        why = next(left, None)
        if why is not None:
            raise QueueUnavailableError(why)
        return "result"

    assert patiently(action, stopping=threading.Event(), first_s=0.001, longest_s=0.001, tell=told.append) == "result"
    assert told == ["down", "down", None]


def test_it_ends_when_told_to_stop() -> None:
    """Whoever drains does not wait for the queue."""
    stopping = threading.Event()
    stopping.set()

    def action() -> None:
        raise QueueUnavailableError("down")

    with pytest.raises(QueueUnavailableError):
        patiently(action, stopping=stopping, first_s=60, longest_s=60, tell=lambda _: None)


def test_other_errors_are_not_waited_out() -> None:
    """A wrong setting does not get better."""

    def action() -> None:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError):
        patiently(action, stopping=threading.Event(), first_s=60, longest_s=60, tell=lambda _: None)
