"""Where tables stand: a folder of this machine or a bucket, through Arrow's file systems."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from zaphod.errors import ConfigError

# What Hive, Spark and pyarrow call the folder of a null.
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"

# File systems that several machines see, as Linux names them.
_SHARED = (
    "nfs",
    "cifs",
    "smb",
    "ceph",
    "fuse",
    "lustre",
    "gluster",
    "gpfs",
    "beegfs",
    "9p",
    "virtiofs",
    "afs",
    "ocfs",
    "gfs",
)


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


def on_own_disk(uri: str, *, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """The path of a folder on a disk of this machine, as far as its mounts tell: elsewhere it is another folder.

    One that this machine lends to others looks the same.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme != "file":
        return False
    path = Path(rest if separator else uri).absolute()
    try:
        lines = [line.split() for line in mounts.read_text().splitlines()]
    except OSError:
        return True
    above = [(len(Path(line[1]).parts), line[2]) for line in lines if path.is_relative_to(line[1])]
    return not max(above, default=(0, ""))[1].startswith(_SHARED)


def partitions_of(path: str) -> dict[str, str | None]:
    """Columns that stand in the folders' names: `country=DE/part-0.parquet` has `country`."""
    named = [part.split("=", 1) for part in path.split("/")[:-1] if "=" in part]
    return {name: None if value == HIVE_NULL else urllib.parse.unquote(value) for name, value in named}
