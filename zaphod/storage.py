"""Where a registry's files live: a few operations that a folder and an object store can both keep atomic."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import obstore
import obstore.exceptions
import obstore.store

from zaphod.errors import ConfigError, EnvironmentNotReadyError, StorageUnavailableError

_OBJECT_SCHEMES = ("s3", "gs", "az")
_STAGED = ".staged-"
# A file is staged for as long as it is written. One that is so old has lost its writer.
_ABANDONED_S = 24 * 3600.0


class Storage(Protocol):
    """Small files by relative path, `/` between parts. A reader never sees half a file."""

    uri: str

    def read(self, path: str) -> bytes:
        """Raises: FileNotFoundError."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names directly inside, sorted; empty when the folder is missing. The folder "" is the root."""
        ...

    def create(self, path: str, data: bytes | memoryview, *, private: bool = False) -> None:
        """Raises: FileExistsError when the path is taken; of racing writers exactly one succeeds.

        private: in a folder nobody but this user may read it; who may read a bucket's objects is the bucket's to say.
        """
        ...

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Creates or replaces; the last writer wins.

        durable: on disk when this returns. Else it may be missing or empty after the machine has lost its power.
        """
        ...

    def exists(self, path: str) -> bool: ...

    def delete(self, path: str) -> None:
        """Nothing there is fine."""
        ...


class LocalStorage:
    """A folder on this machine. Symbolic links inside it are refused: a bundle must not reach out of its folder."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.uri = str(self._root)

    def read(self, path: str) -> bytes:
        return self._inside(path).read_bytes()

    def names(self, folder: str) -> list[str]:
        try:
            entries = list(os.scandir(self._inside(folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        for entry in entries:
            if entry.name.startswith(_STAGED):
                _drop_abandoned(entry)
        return sorted(entry.name for entry in entries if not entry.name.startswith("."))

    def exists(self, path: str) -> bool:
        return self._inside(path).exists()

    def delete(self, path: str) -> None:
        self._inside(path).unlink(missing_ok=True)

    def create(self, path: str, data: bytes | memoryview, *, private: bool = False) -> None:
        target = self._inside(path)
        staged = _stage(target, data, mode=0o600 if private else 0o644)
        try:
            os.link(staged, target)
        except FileExistsError:
            # Over a network, a request that succeeded but whose answer was lost is sent again and meets its own link.
            if staged.stat().st_nlink == 1:
                raise
        finally:
            staged.unlink()

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        target = self._inside(path)
        staged = _stage(target, data, durable=durable)
        try:
            staged.replace(target)
        except OSError:
            staged.unlink(missing_ok=True)
            raise

    def _inside(self, path: str) -> Path:
        target = self._root
        for part in _checked(path).split("/") if path else ():
            target = target / part
            if target.is_symlink():
                raise ConfigError(f"Cannot use {path!r}: {part!r} is a symbolic link. Put the file itself there.")
        return target


class ObjectStorage:
    """A prefix of a bucket. Credentials and endpoint come from the environment, as the cloud's own tools read them.

    Needs a store with conditional writes (`If-None-Match: *`): S3, Google Cloud Storage, Azure and most S3 look-alikes.
    """

    def __init__(self, uri: str, *, store: obstore.store.ObjectStore) -> None:
        self.uri = uri
        self._store = store

    @classmethod
    def open(cls, uri: str) -> ObjectStorage:
        """Raises: ConfigError when the address or the configuration is not understood."""
        try:
            return cls(uri, store=obstore.store.from_url(uri))
        except (obstore.exceptions.BaseError, ValueError) as error:
            raise ConfigError(f"Cannot open the registry {uri!r}: {_first_line(error)}") from error

    def read(self, path: str) -> bytes:
        with _translated(self.uri):
            return bytes(obstore.get(self._store, _checked(path)).bytes())

    def names(self, folder: str) -> list[str]:
        with _translated(self.uri):
            listing = obstore.list_with_delimiter(self._store, _checked(folder) or None)
        paths = [*listing["common_prefixes"], *(found["path"] for found in listing["objects"])]
        return sorted(path.rsplit("/", 1)[-1] for path in paths)

    def exists(self, path: str) -> bool:
        try:
            with _translated(self.uri):
                obstore.head(self._store, _checked(path))
        except FileNotFoundError:
            return False
        return True

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError), _translated(self.uri):
            obstore.delete(self._store, _checked(path))

    def create(self, path: str, data: bytes | memoryview, *, private: bool = False) -> None:
        try:
            with _translated(self.uri):
                obstore.put(self._store, _checked(path), data, mode="create")
        except FileExistsError:
            # A request that succeeded but whose answer was lost is sent again and meets its own object.
            if not data or self.read(path) != data:
                raise

    def replace(self, path: str, data: bytes, *, durable: bool = True) -> None:
        with _translated(self.uri):
            obstore.put(self._store, _checked(path), data)


def open_storage(uri: str) -> Storage:
    """A folder by its path, or a bucket by `s3://`, `gs://` or `az://`. Raises: ConfigError for another scheme."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalStorage(Path(uri))
    if scheme == "file":
        return LocalStorage(Path(rest))
    if scheme in _OBJECT_SCHEMES:
        return ObjectStorage.open(uri)
    raise ConfigError(
        f"Cannot open the registry {uri!r}: expected a folder or one of {', '.join(_OBJECT_SCHEMES)}, got {scheme!r}."
    )


@contextlib.contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except obstore.exceptions.NotFoundError as error:
        raise FileNotFoundError(_first_line(error)) from error
    except obstore.exceptions.AlreadyExistsError as error:
        raise FileExistsError(_first_line(error)) from error
    except obstore.exceptions.BaseError as error:
        raise StorageUnavailableError(f"Cannot reach the registry {uri}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    # obstore appends the whole exchange with the server.
    return str(error).split("\n", 1)[0][:300]


def _checked(path: str) -> str:
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise ConfigError(f"Cannot use the path {path!r}: it has an empty or relative part. Name it plainly.")
    return path


def _stage(target: Path, data: bytes | memoryview, *, durable: bool = True, mode: int = 0o644) -> Path:
    """The data, on disk to stay if so wanted, in a hidden file beside its target."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_STAGED, dir=target.parent)
    except PermissionError as error:
        raise EnvironmentNotReadyError(
            f"Cannot write to {target.parent}: permission denied. Give this user the right, or name another folder."
        ) from error
    staged = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        staged.chmod(mode)
    except BaseException:
        # A full disk must not fill with what could not be written.
        staged.unlink(missing_ok=True)
        raise
    return staged


def _drop_abandoned(entry: os.DirEntry[str]) -> None:
    """What a writer staged that has died since, as far as this process may."""
    with contextlib.suppress(OSError):
        if entry.stat(follow_symlinks=False).st_mtime < time.time() - _ABANDONED_S:
            os.unlink(entry.path)  # noqa: PTH108  # what was listed
