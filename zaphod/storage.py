"""Where a registry's files live: a few operations that a folder and an object store can both keep atomic."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Protocol

from zaphod.errors import ConfigError, EnvironmentNotReadyError


class Storage(Protocol):
    """Small files by relative path, `/` between parts. A reader never sees half a file."""

    uri: str

    def read(self, path: str) -> bytes:
        """Raises: FileNotFoundError."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names directly inside, sorted; empty when the folder is missing. The folder "" is the root."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Raises: FileExistsError when the path is taken; of racing writers exactly one succeeds."""
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Creates or replaces; the last writer wins."""
        ...

    def exists(self, path: str) -> bool: ...


class LocalStorage:
    """A folder on this machine. Symbolic links inside it are refused: a bundle must not reach out of its folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.uri = str(self._root)

    def read(self, path: str) -> bytes:
        return self._inside(path).read_bytes()

    def names(self, folder: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self._inside(folder)) if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def exists(self, path: str) -> bool:
        return self._inside(path).exists()

    def create(self, path: str, data: bytes) -> None:
        target = self._inside(path)
        staged = _stage(target, data)
        try:
            os.link(staged, target)
        finally:
            staged.unlink()

    def replace(self, path: str, data: bytes) -> None:
        target = self._inside(path)
        _stage(target, data).replace(target)

    def _inside(self, path: str) -> Path:
        target = self._root
        for part in path.split("/") if path else ():
            if part in ("", ".", ".."):
                raise ConfigError(f"Cannot use the path {path!r}: it has an empty or relative part. Name it plainly.")
            target = target / part
            if target.is_symlink():
                raise ConfigError(f"Cannot use {path!r}: {part!r} is a symbolic link. Put the file itself there.")
        return target


def open_storage(uri: str) -> Storage:
    """A folder by its path. Raises: ConfigError for a scheme that is not known."""
    scheme, separator, _ = uri.partition("://")
    if separator and scheme != "file":
        raise ConfigError(f"Cannot open the registry {uri!r}: the scheme is not known. Use a folder.")
    return LocalStorage(Path(uri.removeprefix("file://")))


def _stage(target: Path, data: bytes) -> Path:
    """The data, on disk to stay, in a hidden file beside its target."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".staged-", dir=target.parent)
    except PermissionError as error:
        raise EnvironmentNotReadyError(
            f"Cannot write to {target.parent}: permission denied. Give this user the right, or name another folder."
        ) from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    staged = Path(name)
    staged.chmod(0o644)
    return staged
