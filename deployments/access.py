"""Who may ask: API keys, kept as hashes, each with the models it covers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import msgspec

from zaphod.errors import ConfigError, ForbiddenError, UnauthenticatedError

_log = logging.getLogger("ray.serve")

KEYS_ENV = "ZAPHOD_API_KEYS"
_PREFIX = "zk_"
# A changed file takes effect within so many seconds; a look costs two microseconds.
_LOOK_INTERVAL_S = 1.0
_MAX_KEY_BYTES = 512


class Key(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One key as it is kept: it cannot be found from this.

    models: names that it covers; none means all. manage: it may also call the management routes.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    models: tuple[str, ...] = ()
    manage: bool = False
    created: str = ""

    def covers(self, model: str) -> bool:
        return not self.models or model in self.models


class Keys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the file, or the variable, holds."""

    keys: tuple[Key, ...]

    @classmethod
    def read(cls, data: bytes | str, *, source: str) -> Keys:
        """Raises: ConfigError, without quoting the document."""
        try:
            keys = msgspec.json.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ConfigError(f"Cannot read the API keys in {source}: {error}. See docs/online.md.") from error
        names = [key.name for key in keys.keys]
        if len(set(names)) < len(names):
            raise ConfigError(f"Cannot use the API keys in {source}: two have the same name. Rename one.")
        return keys


def make_key() -> str:
    """A new key with 256 bits of chance in it."""
    return _PREFIX + secrets.token_urlsafe(32)


def digest(key: str) -> str:
    """What is kept of a key. Keys are random, so a plain hash is enough: there is nothing to guess."""
    return hashlib.sha256(key.encode()).hexdigest()


class Access:
    """Decides by a request's headers. Without a file and without the variable everybody may predict, nobody manage.

    A file that becomes unreadable changes nothing: the keys that were known stay, and the log says so.
    """

    def __init__(self, path: Path | None, *, environ_keys: str | None = None) -> None:
        """Raises: ConfigError when the keys cannot be read: a server that should be closed never starts open."""
        self._path = path
        self._fixed = Keys.read(environ_keys, source=KEYS_ENV).keys if environ_keys else ()
        self._stamp = self._look()
        self._keys = (*self._fixed, *self._load())
        self._next_look_s = time.monotonic() + _LOOK_INTERVAL_S
        self.required = path is not None or environ_keys is not None

    def predict(self, headers: Iterable[tuple[bytes, bytes]], model: str) -> None:
        """Raises: UnauthenticatedError, ForbiddenError."""
        if self.required and not self._known(headers).covers(model):
            raise ForbiddenError("Cannot ask this model: the API key does not cover it. Use another key.")

    def covered(self, headers: Iterable[tuple[bytes, bytes]]) -> Key | None:
        """The key of the caller, to show what it covers; None where no key is needed. Raises: UnauthenticatedError."""
        return self._known(headers) if self.required else None

    def all_models(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """For what cannot be told apart by model. Raises: UnauthenticatedError, ForbiddenError."""
        if self.required:
            key = self._known(headers)
            if key.models and not key.manage:
                raise ForbiddenError(
                    "Cannot do this with an API key for some models: it concerns all of them. Use one made without "
                    "--model, or with --manage."
                )

    def manage(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        """Never open: where there are no keys, nobody may. Raises: UnauthenticatedError, ForbiddenError."""
        if not self.required:
            raise ForbiddenError(
                "Cannot manage this server: it has no API keys. Make one with `zaphod keys add` and set `keys_file`."
            )
        key = self._known(headers)
        if not key.manage:
            raise ForbiddenError("Cannot manage this server: the API key is not for that. Use one made with --manage.")
        return key

    def _known(self, headers: Iterable[tuple[bytes, bytes]]) -> Key:
        presented = _presented(headers)
        if presented is None:
            raise UnauthenticatedError(
                "Cannot answer without an API key: this server wants one. Send it as `Authorization: Bearer <key>`."
            )
        self._refresh()
        hashed = hashlib.sha256(presented).hexdigest()
        found: Key | None = None
        # All are compared, each in constant time: how long it takes tells nothing about which one fits.
        for key in self._keys:
            if hmac.compare_digest(key.sha256, hashed):
                found = key
        if found is None:
            raise UnauthenticatedError("Cannot answer: the API key is not known. Use one that this server was given.")
        return found

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._path is None or now < self._next_look_s:
            return
        self._next_look_s = now + _LOOK_INTERVAL_S
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return
            self._keys = (*self._fixed, *self._load())
            self._stamp = stamp
            _log.info("API keys read again", extra={"num_keys": len(self._keys)})
        except ConfigError:
            _log.exception("cannot read the API keys; those known before stay in force")

    def _look(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            stat = self._path.stat()
        except OSError as error:
            raise ConfigError(f"Cannot read the API keys {self._path}: {error.strerror}. Make the file.") from error
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _load(self) -> tuple[Key, ...]:
        if self._path is None:
            return ()
        try:
            return Keys.read(self._path.read_bytes(), source=str(self._path)).keys
        except OSError as error:
            raise ConfigError(f"Cannot read the API keys {self._path}: {error.strerror}. Make the file.") from error


def open_access(keys_file: str | None) -> Access:
    """By the setting and the environment. Raises: ConfigError."""
    return Access(Path(keys_file) if keys_file else None, environ_keys=os.environ.get(KEYS_ENV))


def challenges(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """What a 401 asks for: a browser is offered its own dialogue, in which the key is the password."""
    bearer = (b"www-authenticate", b'Bearer realm="zaphod"')
    if any(name == b"accept" and b"text/html" in value for name, value in headers):
        return (bearer, (b"www-authenticate", b'Basic realm="zaphod: any user, the API key as password"'))
    return (bearer,)


def _presented(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The key of `x-api-key`, `Authorization: Bearer`, or the password of Basic, which a browser asks for."""
    for name, value in headers:
        if name == b"x-api-key":
            return value[:_MAX_KEY_BYTES]
        if name == b"authorization":
            scheme, _, rest = value[:_MAX_KEY_BYTES].partition(b" ")
            match scheme.lower():
                case b"bearer":
                    return rest.strip()
                case b"basic":
                    return _password(rest.strip())
    return None


def _password(encoded: bytes) -> bytes | None:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return None
