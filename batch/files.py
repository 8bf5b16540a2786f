"""Files of a job, on this machine or in a bucket: written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pyarrow as pa

from zaphod.location import Location

_WRITEBACK_BYTES = 4 * 1024 * 1024


class HashingSink(io.RawIOBase):
    """Passes bytes on and keeps their sha256 and number. on_bytes: told how many there are after each write."""

    def __init__(self, target: IO[bytes] | pa.NativeFile, *, on_bytes: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self._target = target
        self._on_bytes = on_bytes
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]  # the buffers that Arrow hands over
        size = memoryview(data).nbytes
        self._target.write(data)
        self._digest.update(data)
        self.num_bytes += size
        if self._on_bytes is not None:
            self._on_bytes(self.num_bytes)
        return size

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


@contextlib.contextmanager
def write_whole(folder: Location, name: str, *, temporary: str) -> Iterator[HashingSink]:
    """A sink for one file below the folder, which appears there complete, when the block ends without an error.

    temporary: a folder on the same file system where a local file grows. An object appears complete by itself.
    """
    target = folder.child(name)
    if not folder.is_local:
        with folder.filesystem.open_output_stream(target) as stream:
            yield HashingSink(stream)
        return
    staged = Path(temporary) / f"{uuid.uuid4().hex}.part"
    staged.parent.mkdir(parents=True, exist_ok=True)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        with staged.open("wb") as file:
            yield HashingSink(file, on_bytes=_Writeback(file.fileno()).begin)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)


class _Writeback:
    """Has the kernel bring a growing file to the disk while more of it is made: `fsync` finds little left to wait for.

    And what is written does not heap up in memory, until every process that writes is made to wait.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begun = 0

    def begin(self, num_bytes: int) -> None:
        """num_bytes: the length of the file so far."""
        if num_bytes - self._begun >= _WRITEBACK_BYTES:
            # Of pages that have yet to be written it drops none. A file system may know no such advice.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, self._begun, num_bytes - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = num_bytes
