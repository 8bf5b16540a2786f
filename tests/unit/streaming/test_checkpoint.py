"""What writers leave in their logs is copied beside them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.queues.checkpoint import LOG_PAGES, Checkpointer
from tests.conftest import wait_for


@pytest.fixture
def checkpointer() -> Iterator[Checkpointer]:
    """Closed at the end."""
    made = Checkpointer()
    yield made
    made.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    """With rows that are in its log only, and a writer that never copies them."""
    path = tmp_path / "some.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL")
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        writer.execute("CREATE TABLE rows (value BLOB)")
        writer.executemany("INSERT INTO rows VALUES (?)", [(b"x" * 4_000,) for _ in range(20)])
        yield path


def test_the_log_is_copied_once_much_is_written(checkpointer: Checkpointer, database: Path) -> None:
    """The database has the rows while the writer is still connected."""
    before = database.stat().st_size
    checkpointer.note(database, pages=LOG_PAGES // 16)
    assert database.stat().st_size == before
    checkpointer.note(database, pages=LOG_PAGES // 16)

    wait_for(lambda: database.stat().st_size > before + 20 * 4_000, what="the rows in the database")


def test_one_that_cannot_be_opened_keeps_nobody_waiting(
    checkpointer: Checkpointer, database: Path, tmp_path: Path
) -> None:
    """The others' logs are copied, then and later."""
    checkpointer.note(tmp_path / "nowhere" / "some.db", pages=LOG_PAGES)
    before = database.stat().st_size
    checkpointer.note(database, pages=LOG_PAGES)

    wait_for(lambda: database.stat().st_size > before, what="the rows in the database")
