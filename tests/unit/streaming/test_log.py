"""The embedded queue's log of events: what is appended is there, whole, once, and by offset."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.queues import ids as ids_module
from streaming.queues import log
from streaming.queues.base import Cursor, NewEvent, Output
from streaming.queues.log import EventLog, LogReader
from streaming.queues.sqlite import SqliteQueue
from zaphod.errors import ConfigError, QueueUnavailableError, TrimmedError


class Logs:
    """Opens the same log as often as it is asked, as other processes would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._opened: list[EventLog] = []

    def open(self, *, window_s: float = 600.0, disk: bool = False) -> EventLog:
        self._opened.append(EventLog(self.folder, "p", dedupe_window_s=window_s, disk=disk))
        return self._opened[-1]

    def close(self) -> None:
        for opened in self._opened:
            opened.close()
        self._opened.clear()


@pytest.fixture
def logs(tmp_path: Path) -> Iterator[Logs]:
    """Closed at the end."""
    made = Logs(tmp_path)
    yield made
    made.close()


def events(*ids: str) -> list[NewEvent]:
    """One a name."""
    return [NewEvent(value=name.encode(), id=name, created=1.0) for name in ids]


def ids(opened: EventLog, *, offset: int = 0) -> list[str]:
    """From an offset on."""
    return [event.id for event in opened.read(offset, max_events=100_000)]


@pytest.mark.parametrize("durability", ["os", "disk"])
def test_writers_share_the_log(logs: Logs, durability: str) -> None:
    """Offsets go on whoever appends, and each reads what the other wrote."""
    one, other = logs.open(disk=durability == "disk"), logs.open(disk=durability == "disk")

    assert (one.append(events("a", "b")), other.append(events("c")), one.append(events("d"))) == (2, 1, 1)

    assert one.end == 4
    assert ids(other) == ["a", "b", "c", "d"]
    assert [event.offset for event in other.read(1, max_events=2)] == [1, 2]
    assert other.read(4, max_events=1) == []


def test_an_event_comes_back_as_it_was(logs: Logs) -> None:
    """With key, headers and any bytes."""
    opened = logs.open()
    opened.append([NewEvent(value=b"\x00\xff", id="é", key="k", headers={"h": "1"}, created=2.5)])

    (event,) = opened.read(0, max_events=1)

    assert (event.id, event.key, event.value, event.headers, event.created) == ("é", "k", b"\x00\xff", {"h": "1"}, 2.5)


def test_a_reader_follows_the_writer(logs: Logs) -> None:
    """Without a lock, also while a writer hangs with it."""
    opened = logs.open()
    reader = LogReader(logs.folder, "p")
    opened.append(events("a"))
    descriptor = os.open(logs.folder / "p.log", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    assert [event.id for event in reader.read(0, max_events=9)] == ["a"]

    os.close(descriptor)
    reader.close()
    reader.close()


def test_what_a_writer_left_unfinished_is_written_over(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It died when all was written but the end not moved: nobody sees it, and its ids are not taken for seen."""
    opened = logs.open()
    opened.append(events("a"))
    with monkeypatch.context() as patch:
        patch.setattr(opened, "_move", interrupt)
        with pytest.raises(KeyboardInterrupt):
            opened.append(events("b", "c"))
    assert ids(opened) == ["a"]

    assert logs.open().append(events("c", "b", "d")) == 3

    assert ids(opened) == ["a", "c", "b", "d"]
    assert opened.append(events("a", "b", "c", "d")) == 0


def interrupt(_: int) -> None:
    """As a signal would."""
    raise KeyboardInterrupt


def test_a_repeated_id_is_dropped(logs: Logs) -> None:
    """Within one append, of the same writer and of another."""
    one, other = logs.open(), logs.open()

    assert one.append(events("a", "a", "b")) == 2
    assert one.append(events("b", "c")) == 1
    assert other.append(events("a", "c", "d", "b")) == 1

    assert ids(one) == ["a", "b", "c", "d"]


def test_two_ids_of_one_hash_are_two(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log decides, not the hash."""
    monkeypatch.setattr(log, "hash_id", lambda _: 7)
    opened = logs.open()

    assert (opened.append(events("a")), opened.append(events("b")), opened.append(events("b"))) == (1, 1, 0)


def test_ids_are_forgotten_after_the_window(logs: Logs) -> None:
    """A table is followed when it is as old as the window and goes when it has been followed for as long."""
    opened = logs.open(window_s=0.0)

    assert [opened.append(events("a")) for _ in range(3)] == [1, 0, 1]

    assert len(list(logs.folder.glob("p.ids-*"))) == 2


def test_many_ids_are_remembered(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when they fill several tables, by a writer who opens them later."""
    monkeypatch.setattr(ids_module, "_FIRST_CAPACITY", 1 << 7)
    opened = logs.open()
    names = [str(i) for i in range(4_000)]
    for start in range(0, len(names), 1_000):
        opened.append(events(*names[start : start + 1_000]))

    assert len(list(logs.folder.glob("p.ids-*"))) > 1
    assert logs.open().append(events(*names, "new")) == 1


def test_a_whole_log_survives_a_restart(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its ids, though their tables are not to be trusted any more."""
    logs.open().append(events("a", "b"))
    logs.close()
    (table,) = logs.folder.glob("p.ids-*")
    table.write_bytes(b"")
    monkeypatch.setattr(log, "_boot", lambda: (1, 2))

    opened = logs.open()

    assert opened.append(events("a", "b", "c")) == 1
    assert ids(opened) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("file", "place", "left"),
    [("p.log", 40, ["a"]), ("p.index", log._PAGE + 2 * 8, ["a"]), ("p.index", log._PAGE + 3 * 8, ["a", "b"])],
)
def test_a_loss_of_power_cuts_the_log(
    logs: Logs, monkeypatch: pytest.MonkeyPatch, file: str, place: int, left: list[str]
) -> None:
    """What did not reach the disk is gone, with all that came after; what is appended then takes its place."""
    logs.open().append(events("a", "b", "c"))
    logs.close()
    with (logs.folder / file).open("r+b") as torn:
        torn.seek(place)
        torn.write(b"\0" * 8)
    monkeypatch.setattr(log, "_boot", lambda: (1, 2))

    opened = logs.open()

    assert ids(opened) == left
    opened.append(events("a", "c", "d"))
    assert ids(opened) == [*left, "c", "d"]


@pytest.mark.parametrize(("lost_at", "left"), [(None, ["d", "e"]), (4, ["d"]), (3, [])])
def test_a_log_whose_beginning_was_freed_survives_a_restart(
    logs: Logs, monkeypatch: pytest.MonkeyPatch, lost_at: int | None, left: list[str]
) -> None:
    """What was freed is no sign of a loss; what was lost behind it is cut, and offsets go on."""
    opened = logs.open()
    opened.append(events("a", "b", "c", "d", "e"))
    (place,) = LogReader(logs.folder, "p").places(3 if lost_at is None else lost_at, 1)
    opened.free(3, opened.drop_before(3))
    logs.close()
    if lost_at is not None:
        with (logs.folder / "p.log").open("r+b") as torn:
            torn.seek(place)
            torn.write(b"\0" * 8)
    monkeypatch.setattr(log, "_boot", lambda: (1, 2))

    opened = logs.open()

    assert ids(opened, offset=3) == left
    with pytest.raises(TrimmedError):
        ids(opened, offset=2)
    assert opened.append(events("d", "e", "f")) == 3 - len(left)
    assert ids(opened, offset=3) == ["d", "e", "f"]
    assert opened.first_since(0.0, end=opened.end) == 3
    assert opened.first_since(time.time() + 60, end=opened.end) == opened.end


def test_what_was_lost_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of events that the log has lost stay; the next event is read, though others had its offset before."""
    queue = SqliteQueue(tmp_path / "stream", num_partitions=1)
    queue.produce(events("a", "b"))
    consumer = queue.consumer("me", lease_s=30)
    consumer.acquire(0)
    batch = consumer.poll(max_events=9, wait_s=0)
    assert batch is not None
    consumer.commit(batch, outputs=[Output(e.offset, e.id, None, b"", {}, 1.0) for e in batch.events], dead_letters=[])
    consumer.close()
    queue.close()
    os.truncate(tmp_path / "stream" / "p0000.log", 40)
    monkeypatch.setattr(log, "_boot", lambda: (1, 2))

    again = SqliteQueue(tmp_path / "stream", num_partitions=1)
    again.produce(events("c"))
    successor = again.consumer("other", lease_s=30)
    successor.acquire(0)
    batch = successor.poll(max_events=9, wait_s=0)

    assert batch is not None
    assert [(event.offset, event.id) for event in batch.events] == [(1, "c")]
    successor.commit(batch, outputs=[Output(1, "c", None, b"", {}, 1.0)], dead_letters=[])
    assert [d.output.id for d in again.read_outputs({0: Cursor()}, max_outputs=9)] == ["a", "b", "c"]
    successor.close()
    again.close()


def test_a_writer_that_hangs_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another does not wait for it for ever."""
    monkeypatch.setattr(log, "_LOCK_TIMEOUT_S", 0.01)
    queue = SqliteQueue(tmp_path / "stream", num_partitions=1)
    descriptor = os.open(tmp_path / "stream" / "p0000.log", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)

    with pytest.raises(QueueUnavailableError, match="another producer holds the log"):
        queue.produce(events("a"))

    os.close(descriptor)
    assert queue.produce(events("a")) == 1
    queue.close()


def test_a_stream_of_another_form_is_refused(tmp_path: Path) -> None:
    """Its events would not be seen."""
    folder = tmp_path / "stream"
    folder.mkdir()
    (folder / "stream.json").write_text('{"num_partitions": 1}')

    with pytest.raises(ConfigError, match="form 1"):
        SqliteQueue(folder, num_partitions=1)
