"""Producers of the embedded queue are killed while they append: what was acknowledged is there, whole and once."""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path

from streaming.queues.base import NewEvent
from streaming.queues.log import LogReader
from streaming.queues.sqlite import SqliteQueue

SEED = 11
KILLS = 4
AT_ONCE = 3


def produce(folder: Path, start: int, pipe: Connection) -> None:
    """Numbered events until it is killed; tells after each append up to where it is done."""
    queue = SqliteQueue(folder, num_partitions=1)
    while True:
        numbers = range(start, start + AT_ONCE)
        queue.produce([NewEvent(value=b"x" * 5_000, id=str(i), key="k", created=time.time()) for i in numbers])
        start += AT_ONCE
        pipe.send(start)


def test_nothing_is_lost_doubled_or_torn(tmp_path: Path) -> None:
    """Each producer begins where the one before was last heard of: what that one had appended since comes again."""
    folder = tmp_path / "stream"
    rng, context = random.Random(SEED), multiprocessing.get_context("spawn")
    acknowledged = 0
    for _ in range(KILLS):
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=produce, args=(folder, acknowledged, theirs), daemon=True)
        process.start()
        theirs.close()
        for _ in range(rng.randrange(20, 200)):
            acknowledged = mine.recv()
        process.kill()
        process.join()
        with contextlib.suppress(EOFError):
            while True:
                acknowledged = mine.recv()
        mine.close()

    queue = SqliteQueue(folder, num_partitions=1)
    queue.produce([NewEvent(value=b"", id="last", key="k", created=time.time())])
    log = LogReader(folder, "p0000")
    ids = [event.id for event in log.read(0, max_events=1_000_000)]

    assert ids[:-1] == [str(i) for i in range(len(ids) - 1)]
    assert ids[-1] == "last"
    assert 0 <= len(ids) - 1 - acknowledged <= AT_ONCE
    assert all(log.is_whole(offset) for offset in range(log.end))
    log.close()
    queue.close()
