"""Copies write-ahead logs into their databases beside the writer, who would otherwise stop for it and its fsyncs.

SQLite lets whoever commits past a limit do the copying. At thousands of small commits a second that is a stop of many
milliseconds, several times a second. Done beside the writer it costs no commit anything; what is left for the writer,
who alone can begin the log anew, are the last pages.

Not after every commit, though: when all of a log is copied the next commit begins it anew, and waits for the disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

LOG_PAGES = 8_000
"""From so many pages on a writer begins its log anew: 16 MB at 2 kB a page."""

# So many are copied together: a writer that begins its log anew has no more than these to copy.
_PAGES = LOG_PAGES // 8


class Checkpointer:
    """One thread for some databases; it sleeps while little is written. `note` may be called from any thread."""

    def __init__(self) -> None:
        self._pages: dict[Path, int] = {}
        self._some = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, path: Path, *, pages: int) -> None:
        """Somebody here has written so many pages to this database, about."""
        pages += self._pages.get(path, 0)
        self._pages[path] = pages
        if pages < _PAGES:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
            self._thread.start()
        self._some.set()

    def close(self) -> None:
        """Returns when the thread is gone."""
        self._stopping.set()
        self._some.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        connections: dict[Path, sqlite3.Connection] = {}
        while not self._stopping.is_set():
            self._some.wait()
            self._some.clear()
            for path in [path for path, pages in list(self._pages.items()) if pages >= _PAGES]:
                self._pages[path] = 0
                # A disk that is full is the writer's to tell.
                with contextlib.suppress(sqlite3.Error):
                    if path not in connections:
                        connections[path] = sqlite3.connect(path, timeout=0, isolation_level=None)
                    connections[path].execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        for connection in connections.values():
            connection.close()
