"""Files of a job, on this machine or in a bucket: opened for reading, written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from zaphod.errors import ConfigError

# What Hive, Spark and pyarrow call the folder of a null.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Location:
    """A folder or file: its file system and its path there."""

    uri: str
    filesystem: pafs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def child(self, name: str) -> str:
        """The path of something below, on the file system."""
        return f"{self.path}/{name}" if name else self.path


def locate(uri: str) -> Location:
    """Raises: ConfigError when the address is not understood."""
    scheme, separator, rest = uri.partition("://")
    if not separator or scheme == "file":
        path = Path(rest if separator else uri).absolute()
        return Location(uri=str(path), filesystem=pafs.LocalFileSystem(), path=str(path))
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise ConfigError(f"Cannot open {uri!r}: {error}. Give a folder or an address such as s3://….") from error
    return Location(uri=uri, filesystem=filesystem, path=path.rstrip("/"))


def from_home(uri: str, home: Path) -> str:
    """An address as it is; a path, also that of `sqlite:///<path>`, made absolute from the home."""
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{home / uri.removeprefix(_SQLITE)}"
    return uri if "://" in uri else str(home / uri)


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
