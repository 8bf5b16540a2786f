"""The log of one partition's events: an append-only file that one machine's processes write and read.

    p0003.log      records: a checksum and the event
    p0003.index    a page of words, then where each offset's record begins, and where the last one ends
    p0003.ids-*    which ids were seen lately

A writer holds the log's lock, puts its records behind the end, their places into the index, and only then moves the
end, one word of memory that every process maps. Whatever a writer that dies leaves behind the end is written over. That
word tells a reader all; reading takes no lock.

After a loss of power the kernel may have kept any of it: the first to open the log on a machine that has been started
anew reads it through and cuts it where a checksum is wrong. Not SQLite, because there a small append costs ten times as
much, the write-ahead log's copying included.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import errno
import fcntl
import functools
import itertools
import mmap
import os
import struct
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from streaming.queues.base import NO_HEADERS, Event, NewEvent
from streaming.queues.ids import SeenIds, hash_id
from zaphod.errors import ConfigError, TrimmedError

_PAGE = 4096
_WORD = 8
# Words of the index's first page. SOUND: up to here the log is known to be on the disk, or was read through. FIRST:
# what is before it has been removed.
_END, _SOUND, _BOOT, _IDS, _FIRST = 0, 1, 2, 4, 6
_CHECKSUM = struct.Struct("=I")
# Of fallocate: free the range, keep the length.
_PUNCH_HOLE = 0x02 | 0x01
_LOCK_TIMEOUT_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.00005, 0.005
_READ_AT_ONCE = 1_000


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event as it is kept. appended: when, in seconds since the epoch; the window of ids is built again from it."""

    id: str
    key: str | None
    value: bytes
    headers: dict[str, str] | None
    created: float
    appended: float


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)


class LogReader:
    """A partition's events, by offset. From any thread, and beside any writer; the log has to be there."""

    def __init__(self, folder: Path, name: str) -> None:
        self._log = os.open(folder / f"{name}.log", os.O_RDONLY)
        self._index = os.open(folder / f"{name}.index", os.O_RDONLY)
        self._words = memoryview(mmap.mmap(self._index, _PAGE, access=mmap.ACCESS_READ)).cast("Q")

    @property
    def end(self) -> int:
        """The offset of the next event."""
        return self._words[_END]

    def read(self, offset: int, *, max_events: int) -> list[Event]:
        """From an offset on, in order; empty at the end. Raises: TrimmedError when that has been removed."""
        num = min(self.end - offset, max_events)
        if num <= 0:
            return []
        return [
            Event(offset + i, record.id, record.key, record.value, record.headers or NO_HEADERS, record.created)
            for i, record in enumerate(self.records(offset, num))
        ]

    def records(self, offset: int, num: int) -> Iterator[Record]:
        """So many, which have to be there."""
        places = self.places(offset, num + 1)
        # What was removed reads as zeros: neither its places nor its bytes mean anything.
        if offset < self._words[_FIRST]:
            raise self._removed(offset)
        data = memoryview(_read_all(self._log, places[-1] - places[0], places[0]))
        if offset < self._words[_FIRST]:
            raise self._removed(offset)
        for begin, stop in itertools.pairwise(places):
            yield _decoder.decode(data[begin - places[0] + _CHECKSUM.size : stop - places[0]])

    def places(self, offset: int, num: int) -> tuple[int, ...]:
        """Where so many records begin, as far as the index goes."""
        data = os.pread(self._index, _WORD * num, _PAGE + _WORD * offset)
        return struct.unpack(f"={len(data) // _WORD}Q", data)

    def is_whole(self, offset: int) -> bool:
        """As far as its checksum tells."""
        places = self.places(offset, 2)
        if len(places) < 2 or not places[0] + _CHECKSUM.size < places[1] <= os.fstat(self._log).st_size:
            return False
        data = _read_all(self._log, places[1] - places[0], places[0])
        return _CHECKSUM.unpack_from(data) == (zlib.crc32(memoryview(data)[_CHECKSUM.size :]),)

    def close(self) -> None:
        """Again is fine."""
        if self._log >= 0:
            self._words.release()
            os.close(self._log)
            os.close(self._index)
            self._log = -1

    def _removed(self, offset: int) -> TrimmedError:
        return TrimmedError(
            f"Cannot read event {offset}: those before {self._words[_FIRST]} were removed. Read on from there."
        )


class EventLog:
    """Opened by each process that writes, for itself; `append` is for one thread at a time."""

    def __init__(self, folder: Path, name: str, *, dedupe_window_s: float, disk: bool) -> None:
        """Makes the log when it is new. disk: an append is on the disk when it returns."""
        self._disk = disk
        self._window_s = dedupe_window_s
        self._last = (-1, 0)
        self._log = os.open(folder / f"{name}.log", os.O_RDWR | os.O_CREAT, 0o644)
        self._index = os.open(folder / f"{name}.index", os.O_RDWR | os.O_CREAT, 0o644)
        with self._locked():
            if os.fstat(self._index).st_size < _PAGE + _WORD:
                os.posix_fallocate(self._index, 0, _PAGE + _WORD)
                _sync_folder(folder)
            self._words = memoryview(mmap.mmap(self._index, _PAGE)).cast("Q")
            self._reader = LogReader(folder, name)
            self._ids = SeenIds(folder, name, shared=self._words[_IDS : _IDS + 2], window_s=dedupe_window_s)
            boot = _boot()
            if tuple(self._words[_BOOT : _BOOT + 2]) != boot:
                self._recover()
                self._words[_BOOT], self._words[_BOOT + 1] = boot

    @property
    def end(self) -> int:
        """The offset of the next event."""
        return self._words[_END]

    @property
    def first(self) -> int:
        """The offset of the first event that is kept."""
        return self._words[_FIRST]

    def first_since(self, moment: float, *, end: int) -> int:
        """The first that was appended at that moment (seconds since the epoch) or later, of those before `end`.

        Raises: TrimmedError when some are removed meanwhile.
        """
        return bisect.bisect_left(range(end), moment, lo=self.first, key=self._appended)

    def drop_before(self, offset: int) -> int:
        """From now on nobody reads what is before. Returns the place for `free`. For one caller at a time."""
        (place,) = self._reader.places(offset, 1)
        self._words[_FIRST] = offset
        return place

    def free(self, offset: int, place: int) -> None:
        """Gives the room of what is before an offset that was dropped back to the disk; offsets stay as they are.

        Whoever dies amid it leaves some, which the next one frees. Raises: ConfigError when the file system cannot.
        """
        # Should the power be lost, what was freed must not count again.
        os.fdatasync(self._index)
        _punch(self._log, 0, place)
        _punch(self._index, _PAGE, _WORD * offset)

    def check_freeing(self) -> None:
        """Raises: ConfigError when the file system cannot."""
        _punch(self._index, _PAGE - _WORD, _WORD)  # a word that nobody uses

    def append(self, events: Sequence[NewEvent]) -> int:
        """Returns how many were new: an id that came before, within the window, is dropped."""
        with self._locked():
            self._ids.refresh()
            end, now = self.end, time.time()
            place = self._place_of(end)
            records: list[bytes] = []
            places: list[int] = []
            new: list[str] = []
            for event in events:
                hashed, offset = hash_id(event.id), end + len(new)
                # Before it is written: what is noted counts only for as long as the log says so too.
                if found := self._ids.claim(hashed, offset):
                    if any(self._has(event.id, each, new) for each in found):
                        continue
                    self._ids.put(hashed, offset)
                headers = dict(event.headers) if event.headers else None
                body = _encoder.encode(Record(event.id, event.key, event.value, headers, event.created, now))
                records += (_CHECKSUM.pack(zlib.crc32(body)), body)
                place += _CHECKSUM.size + len(body)
                places.append(place)
                new.append(event.id)
            if new:
                self._write(records, places)
                self._move(end + len(new))
                self._last = (end + len(new), place)
        return len(new)

    def read(self, offset: int, *, max_events: int) -> list[Event]:
        """As `LogReader.read`."""
        return self._reader.read(offset, max_events=max_events)

    def close(self) -> None:
        """Again is fine."""
        if self._log >= 0:
            self._reader.close()
            self._ids.close()
            self._words.release()
            os.close(self._log)
            os.close(self._index)
            self._log = -1

    def _place_of(self, end: int) -> int:
        """Where the log ends: as this writer left it, if no other came in between."""
        last, place = self._last
        return place if last == end else self._reader.places(end, 1)[0]

    def _write(self, records: list[bytes], places: list[int]) -> None:
        """Behind the end, where nobody reads."""
        data = b"".join(records)
        _write_all(self._log, data, places[-1] - len(data))
        _write_all(self._index, struct.pack(f"={len(places)}Q", *places), _PAGE + _WORD * (self.end + 1))
        if self._disk:
            os.fdatasync(self._log)
            os.fdatasync(self._index)

    def _move(self, end: int) -> None:
        """From here on the events are there."""
        self._words[_END] = end
        if self._disk:
            os.fdatasync(self._index)
            self._words[_SOUND] = end

    def _has(self, identifier: str, offset: int, new: Sequence[str]) -> bool:
        """new: ids that come behind the end."""
        if offset >= self.end:
            return offset - self.end < len(new) and new[offset - self.end] == identifier
        # Removed is only what is older than the window.
        return self.first <= offset and next(self._reader.records(offset, 1)).id == identifier

    def _appended(self, offset: int) -> float:
        return next(self._reader.records(offset, 1)).appended

    def _recover(self) -> None:
        """Cuts the log where it is not whole, and gathers the ids of the window again."""
        sound = max(self._words[_SOUND], self.first)
        while sound < self.end and self._reader.is_whole(sound):
            sound += 1
        self._words[_END] = sound
        self._ids.forget()
        self._ids.refresh()
        since, first = time.time() - self._window_s, sound
        while first > self.first and self._appended(first - 1) >= since:
            first = max(self.first, first - _READ_AT_ONCE)
        for start in range(first, sound, _READ_AT_ONCE):
            for i, record in enumerate(self._reader.records(start, min(_READ_AT_ONCE, sound - start))):
                self._ids.put(hash_id(record.id), start + i)
        os.fdatasync(self._log)
        os.fdatasync(self._index)
        self._words[_SOUND] = sound

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Raises: TimeoutError when another writer hangs."""
        deadline, pause_s = time.monotonic() + _LOCK_TIMEOUT_S, _FIRST_PAUSE_S
        while True:
            try:
                fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(errno.ETIMEDOUT, "another producer holds the log and does not go on") from None
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        try:
            yield
        finally:
            fcntl.flock(self._log, fcntl.LOCK_UN)


@functools.cache
def _boot() -> tuple[int, int]:
    """Another one after each start of the machine."""
    number = uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).int
    return number >> 64, number & ((1 << 64) - 1)


def _write_all(descriptor: int, data: bytes, place: int) -> None:
    written = os.pwrite(descriptor, data, place)
    while written < len(data):  # a disk that is nearly full takes a part, then refuses
        written += os.pwrite(descriptor, memoryview(data)[written:], place + written)


def _read_all(descriptor: int, size: int, place: int) -> bytes:
    data = os.pread(descriptor, size, place)
    while len(data) < size:
        more = os.pread(descriptor, size - len(data), place + len(data))
        if not more:
            raise OSError(errno.EIO, "the log ends before its last event")
        data += more
    return data


def _punch(descriptor: int, begin: int, size: int) -> None:
    """Frees a range of a file, which reads as zeros then; its length stays. Raises: ConfigError, OSError."""
    if size == 0:
        return
    if _libc().fallocate(descriptor, _PUNCH_HOLE, ctypes.c_int64(begin), ctypes.c_int64(size)) != 0:
        number = ctypes.get_errno()
        if number in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise ConfigError(
                "Cannot remove old events: the queue's file system cannot free a part of a file. Put queue.path on "
                "ext4, XFS, Btrfs or tmpfs, or set no queue.keep_s."
            )
        raise OSError(number, os.strerror(number))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
