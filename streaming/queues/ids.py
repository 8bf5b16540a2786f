"""Which ids a partition has seen lately: hash tables in mapped files that producers of one machine share.

A table is a cache of the log, which alone decides: an entry says at which offset an id of this hash may stand. So it is
written before the events count, and nothing has to be undone when they never do. A B-tree would write a page for each
id, for ids come in no order.

A table that is full, or as old as the window, is followed by another; it goes when it has been followed for a window.
"""

from __future__ import annotations

import mmap
import os
import time
from hashlib import blake2b
from pathlib import Path

_WORD = 8
# Words before the slots: capacity, number of entries, when it was begun and when it was followed, in ns.
_CAPACITY, _COUNT, _BEGUN, _FOLLOWED, _HEAD = 0, 1, 2, 3, 8
# Few tables, for each is looked through for each id: a megabyte, 16, 64.
_FIRST_CAPACITY = 1 << 16
_LARGEST_CAPACITY = 1 << 22
_GROWTH = 16
_FILLED = 0.6


def hash_id(identifier: str) -> int:
    """64 bits, never 0, which marks an empty slot."""
    return int.from_bytes(blake2b(identifier.encode(), digest_size=_WORD).digest(), "little") or 1


class _Table:
    """One file: open addressing, a slot is a hash and an offset."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._map).cast("Q")
        self._mask = self._words[_CAPACITY] - 1
        self._most = int(_FILLED * self.capacity)

    @classmethod
    def create(cls, path: Path, *, capacity: int, now_ns: int) -> _Table:
        # Left by one that died before it told of it; nobody else has it open.
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            # All of it now: a page that finds no room when it is touched ends the process.
            os.posix_fallocate(descriptor, 0, (_HEAD + 2 * capacity) * _WORD)
            head = memoryview(bytearray(_HEAD * _WORD)).cast("Q")
            head[_CAPACITY], head[_BEGUN] = capacity, now_ns
            os.pwrite(descriptor, head.cast("B"), 0)
        finally:
            os.close(descriptor)
        return cls(path)

    @property
    def capacity(self) -> int:
        return self._mask + 1

    @property
    def is_full(self) -> bool:
        return self._words[_COUNT] > self._most

    def begun_before(self, moment_ns: int) -> bool:
        return self._words[_BEGUN] < moment_ns

    def followed_before(self, moment_ns: int) -> bool:
        return 0 < self._words[_FOLLOWED] < moment_ns

    def follow(self, now_ns: int) -> None:
        self._words[_FOLLOWED] = now_ns

    def find(self, hashed: int) -> int | None:
        slot = self._slot(hashed)
        return self._words[slot + 1] if self._words[slot] else None

    def claim(self, hashed: int, offset: int) -> int | None:
        """The offset that stands there; None when there was none, and then this one does."""
        words, slot = self._words, self._slot(hashed)
        if words[slot]:
            return words[slot + 1]
        words[slot + 1] = offset
        words[_COUNT] += 1
        words[slot] = hashed
        return None

    def put(self, hashed: int, offset: int) -> None:
        """In the place of another, if need be."""
        if self.claim(hashed, offset) is not None:
            self._words[self._slot(hashed) + 1] = offset

    def _slot(self, hashed: int) -> int:
        """Where the hash stands, or would."""
        words, mask, slot = self._words, self._mask, hashed & self._mask
        while (seen := words[_HEAD + 2 * slot]) and seen != hashed:
            slot = (slot + 1) & mask
        return _HEAD + 2 * slot

    def close(self) -> None:
        self._words.release()
        self._map.close()


class SeenIds:
    """The tables of one partition. Every call is made under the log's lock.

    shared: two words that all processes see, the numbers of the oldest table and of the one to come.
    """

    def __init__(self, folder: Path, name: str, *, shared: memoryview, window_s: float) -> None:
        self._folder = folder
        self._name = name
        self._shared = shared
        self._window_ns = int(window_s * 1e9)
        # One after the other, from this number on.
        self._tables: list[_Table] = []
        self._oldest = 0

    def refresh(self) -> None:
        """To be called once before `claim` and `put`: opens what others began, begins a table when it is time."""
        now_ns = time.time_ns()
        oldest, end = self._shared
        if (self._oldest, self._oldest + len(self._tables)) != (oldest, end):
            self._open(oldest, end)
        while self._tables and self._tables[0].followed_before(now_ns - self._window_ns):
            self._shared[0] += 1
            self._drop_oldest()
            self._path(self._oldest - 1).unlink(missing_ok=True)
        if not self._tables:
            self._begin(_FIRST_CAPACITY, now_ns)
        elif self._tables[-1].is_full:
            self._begin_larger(now_ns)
        elif self._tables[-1].begun_before(now_ns - self._window_ns):
            self._begin(self._tables[-1].capacity, now_ns)

    def claim(self, hashed: int, offset: int) -> list[int]:
        """Offsets at which an id of this hash may stand; when there are none, it is noted that it may at this one."""
        newest = self._roomy()
        older = self._tables[:-1]
        found = [place for table in older if (place := table.find(hashed)) is not None] if older else []
        place = newest.find(hashed) if found else newest.claim(hashed, offset)
        return found if place is None else [*found, place]

    def put(self, hashed: int, offset: int) -> None:
        """An id of this hash stands at this offset, whatever was noted."""
        self._roomy().put(hashed, offset)

    def forget(self) -> None:
        """Drops every table: they are from before the machine was started, and may lack anything."""
        oldest, end = self._shared
        self.close()
        for number in range(oldest, end):
            self._path(number).unlink(missing_ok=True)
        self._shared[0] = end

    def close(self) -> None:
        for table in self._tables:
            table.close()
        self._tables.clear()

    def _open(self, oldest: int, end: int) -> None:
        while self._tables and self._oldest < oldest:
            self._drop_oldest()
        self._oldest = oldest
        for number in range(oldest + len(self._tables), end):
            self._tables.append(_Table(self._path(number)))

    def _drop_oldest(self) -> None:
        self._tables.pop(0).close()
        self._oldest += 1

    def _roomy(self) -> _Table:
        """The newest, or one that follows it when it is full."""
        if self._tables[-1].is_full:
            self._begin_larger(time.time_ns())
        return self._tables[-1]

    def _begin_larger(self, now_ns: int) -> None:
        self._begin(min(_GROWTH * self._tables[-1].capacity, _LARGEST_CAPACITY), now_ns)

    def _begin(self, capacity: int, now_ns: int) -> None:
        number = self._shared[1]
        table = _Table.create(self._path(number), capacity=capacity, now_ns=now_ns)
        if self._tables:
            self._tables[-1].follow(now_ns)
        self._tables.append(table)
        self._shared[1] = number + 1

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._name}.ids-{number}"
