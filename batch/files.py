"""Files of a job, on this machine or in a bucket: written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from zaphod.location import Location


class HashingSink(io.RawIOBase):
    """Passes bytes on and keeps their sha256 and number."""

    def __init__(self, target: pa.NativeFile) -> None:
        super().__init__()
        self._target = target
        self._digest = hashlib.sha256()
        self.num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]  # the buffers that Arrow hands over
        size = memoryview(data).nbytes
        self._target.write(data)
        self._digest.update(data)
        self.num_bytes += size
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
        with pa.OSFile(str(staged), "wb") as file:
            yield HashingSink(file)
        with staged.open("rb") as written:
            os.fsync(written.fileno())
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
