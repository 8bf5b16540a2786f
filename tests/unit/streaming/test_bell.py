"""Who waits is woken by news in any of its folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.queues.bell import Bell, Heard, Listener


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Listens nowhere yet; closed at the end."""
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two places of news."""
    return [tmp_path / "a", tmp_path / "b"]


def test_a_bell_of_any_folder_is_heard(listener: Listener, folders: list[Path]) -> None:
    """Once, however often it rang."""
    for folder in folders:
        listener.listen(folder)

    for folder in folders:
        bell = Bell(folder)
        bell.ring()
        bell.ring()
        assert listener.wait(5) is Heard.BELL
        assert listener.wait(0) is Heard.NOTHING
        bell.close()


def test_one_ring_is_enough_for_the_same_news(listener: Listener, folders: list[Path]) -> None:
    """Who listens in both folders is rung in the first; who listens in the second alone is rung there."""
    other = Listener()
    for folder in folders:
        listener.listen(folder)
    other.listen(folders[1])
    rung: set[str] = set()
    bells = [Bell(folder) for folder in folders]

    bells[0].ring(rung=rung)
    assert (listener.wait(5), other.wait(0)) == (Heard.BELL, Heard.NOTHING)
    bells[1].ring(rung=rung)
    assert (listener.wait(0), other.wait(5)) == (Heard.NOTHING, Heard.BELL)

    other.close()
    for bell in bells:
        bell.close()


def test_one_that_listens_again_is_heard_again(listener: Listener, folders: list[Path]) -> None:
    """After all leases were given back, by a producer that knew the listener before."""
    bells = [Bell(folder) for folder in folders]
    for _ in range(3):
        for folder in folders:
            listener.listen(folder)
        for bell in bells:
            bell.ring()
            assert listener.wait(5) is Heard.BELL
        for folder in folders:
            listener.ignore(folder)
        for bell in bells:
            bell.ring()
        assert listener.wait(0) is Heard.NOTHING
    for bell in bells:
        bell.close()


def test_a_dead_listener_is_forgotten(listener: Listener, folders: list[Path]) -> None:
    """Its socket stays in the folder until somebody rings."""
    listener.listen(folders[0])
    assert listener._ear is not None
    listener._ear.close()  # as the kernel does when a process dies
    listener._ear = None
    bell = Bell(folders[0])

    bell.ring()

    assert list(folders[0].iterdir()) == []
    bell.close()


def test_a_wake_up_is_told_from_a_bell(listener: Listener, folders: list[Path]) -> None:
    """Whatever rings with it."""
    listener.listen(folders[0])
    bell = Bell(folders[0])
    bell.ring()
    listener.wake()

    assert listener.wait(5) is Heard.WAKE
    assert listener.wait(0) is Heard.NOTHING
    bell.close()
