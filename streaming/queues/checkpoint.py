"""Copies write-ahead logs into their databases beside the writer, who would otherwise stop for it and its fsyncs.

SQLite lets whoever commits past a limit do the copying. At thousands of small commits a second that is a stop of many
milliseconds, several times a second. Done beside the writer it costs no commit anything; what is left for the writer,
who alone can begin the log anew, are the last few pages.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from pathlib import Path

# How long a written page waits: when the writer begins its log anew it has no more to copy than came in this time.
_EVERY_S = 0.05

LOG_PAGES = 8_000
"""From so many pages on a writer begins its log anew: 16 MB at 2 kB a page."""


class Checkpointer:
    """One thread for some databases; it sleeps while nothing is written. `note` may be called from any thread."""

    def __init__(self) -> None:
        self._written: set[Path] = set()
        self._some = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, path: Path) -> None:
        """Somebody here has written to this database."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
            self._thread.start()
        self._written.add(path)
        if not self._some.is_set():  # to look costs a tenth of setting it, at every commit
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
            self._stopping.wait(_EVERY_S)
            self._some.clear()
            for path in list(self._written):
                self._written.discard(path)
                # A disk that is full is the writer's to tell.
                with contextlib.suppress(sqlite3.Error):
                    if path not in connections:
                        connections[path] = sqlite3.connect(path, timeout=0, isolation_level=None)
                    connections[path].execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        for connection in connections.values():
            connection.close()
