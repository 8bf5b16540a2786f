"""Whoever removes what is old, in a process that loads little."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection
from pathlib import Path

from streaming.queues.sqlite import SqliteQueue


def trim_forever(folder: Path, window_s: float, read_at: float, pipe: Connection) -> None:
    """Says when it begins. read_at: what was committed since, in seconds since the epoch, stays."""
    queue = SqliteQueue(folder, num_partitions=2, dedupe_window_s=window_s)
    pipe.send("ready")
    while True:
        queue.trim(keep_s=time.time() - read_at)
