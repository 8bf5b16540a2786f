"""What of a field may leave the process: keep, a keyed hash, or nothing."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from collections.abc import Mapping

import pyarrow as pa

from zaphod.errors import ConfigError
from zaphod.monitoring.settings import KEY_VARIABLE
from zaphod.schema import Field, LogPolicy
from zaphod.storage import Storage

KEY_FILE = "key"
KEY_METADATA = "zaphod.key"
"""In a file of the log: names the key of its hashes."""
_HASH_BYTES = 16
_MAX_KEPT = 50_000


class Hasher:
    """BLAKE2b keyed with the log's key: without it nobody can test a guess. The newest hashes are kept."""

    def __init__(self, key: bytes) -> None:
        """key: 16 to 64 bytes. Raises: ConfigError."""
        if not 16 <= len(key) <= hashlib.blake2b.MAX_KEY_SIZE:
            raise ConfigError(f"Expected a hash_key of 16 to 64 bytes, got {len(key)}")
        self._keyed = hashlib.blake2b(digest_size=_HASH_BYTES, key=key)
        self._kept: dict[str, str] = {}

    @property
    def key_id(self) -> str:
        """Tells two keys apart and says nothing about either."""
        return self._digest("zaphod")[:8]

    def text(self, value: str) -> str:
        """32 hexadecimal digits."""
        found = self._kept.get(value)
        if found is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            found = self._kept[value] = self._digest(value)
        return found

    def texts(self, values: pa.Array) -> pa.DictionaryArray:
        """Strings, each of them once; null stays null."""
        encoded = values.dictionary_encode()
        hashed = pa.array([self.text(value) for value in encoded.dictionary.to_pylist()], pa.string())
        return pa.DictionaryArray.from_arrays(encoded.indices, hashed)

    def _digest(self, value: str) -> str:
        keyed = self._keyed.copy()
        keyed.update(value.encode())
        return keyed.hexdigest()


def open_hasher(storage: Storage, key: str | None, environ: Mapping[str, str]) -> Hasher:
    """With the key of the settings, of the environment, or of the log's folder, where one is made when there is none.

    Raises: ConfigError, StorageUnavailableError.
    """
    given = key or environ.get(KEY_VARIABLE)
    if given is not None:
        return Hasher(given.encode())
    try:
        return Hasher(storage.read(KEY_FILE))
    except FileNotFoundError:
        return Hasher(_make_key(storage))
    except PermissionError as error:
        raise ConfigError(
            f"Cannot read the hash key of the log {storage.uri}: it is another user's. Give all writers of the log one "
            f"in {KEY_VARIABLE}."
        ) from error


def _make_key(storage: Storage) -> bytes:
    # Of writers that start together one makes the key, and all read that one.
    with contextlib.suppress(FileExistsError):
        storage.create(KEY_FILE, secrets.token_hex(32).encode(), private=True)
    return storage.read(KEY_FILE)


def apply(field: Field, values: pa.Array, hasher: Hasher) -> pa.Array | None:
    """The column as it may be logged, None when it may not. values: in the field's own type."""
    match field.log:
        case LogPolicy.KEEP:
            return values
        case LogPolicy.HASH:
            return hasher.texts(values if field.is_string else values.cast(pa.string()))
        case LogPolicy.DROP:
            return None
