"""Where validations live: beside the sealed versions, never inside them.

<model>/validations/<version>/<number>.html    the report, whose creation claims the number
<model>/validations/<version>/<number>.md      the model card
<model>/validations/<version>/<number>.json    validation.json; a validation exists once it is there
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from zaphod.bundle import MANIFEST
from zaphod.errors import ModelLoadError
from zaphod.registry import CHAMPION, Registry
from zaphod.schema import check_name
from zaphod.storage import Storage, open_storage
from zaphod.validation.verdict import Verdict


class _Version(msgspec.Struct, frozen=True):
    name: str
    version: int
    bundle_sha256: str


class _Record(msgspec.Struct, frozen=True):
    """The part of validation.json that a promotion asks for."""

    created: str
    candidate: _Version
    champion: _Version | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Stored:
    """Paths inside the registry."""

    json: str
    html: str
    card: str


class ValidationStore:
    """Reads and adds validations. Nothing is ever replaced."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @classmethod
    def of(cls, registry: Registry) -> ValidationStore:
        return cls(open_storage(registry.uri))

    def add(self, name: str, version: int, *, json: bytes, html: bytes, card: bytes) -> Stored:
        """Racing writers get different numbers; one that dies leaves a number without a validation."""
        folder = _folder(name, version)
        taken = [entry.partition(".")[0] for entry in self._storage.names(folder)]
        number = max((int(entry) for entry in taken if entry.isdigit()), default=0) + 1
        while True:
            stored = Stored(*(f"{folder}/{number:04d}.{suffix}" for suffix in ("json", "html", "md")))
            try:
                self._storage.create(stored.html, html)
            except FileExistsError:
                number += 1
                continue
            self._storage.create(stored.card, card)
            self._storage.create(stored.json, json)
            return stored

    def newest(self, name: str, version: int) -> _Record | None:
        """Raises: ModelLoadError when the newest validation cannot be read."""
        path = self._newest_path(name, version)
        if path is None:
            return None
        try:
            return msgspec.json.decode(self._storage.read(path), type=_Record)
        except msgspec.MsgspecError as error:
            raise ModelLoadError(f"Cannot read {path}: {error}. Validate the version again.") from error

    def newest_json(self, name: str, version: int) -> bytes | None:
        """The whole newest validation.json; None when the version was never validated."""
        path = self._newest_path(name, version)
        return None if path is None else self._storage.read(path)

    def _newest_path(self, name: str, version: int) -> str | None:
        folder = _folder(name, version)
        found = [entry for entry in self._storage.names(folder) if entry.endswith(".json")]
        return f"{folder}/{max(found)}" if found else None

    def bundle_sha256(self, name: str, version: int) -> str:
        """Raises: FileNotFoundError."""
        return hashlib.sha256(self._storage.read(f"{check_name(name)}/{version}/{MANIFEST}")).hexdigest()


def check_gate(registry: Registry, name: str, *, version: int) -> Verdict | None:
    """The newest verdict on these very bytes of a version; None when it was never validated.

    A version that was compared with another champion than the one that serves now has not passed.
    """
    store = ValidationStore.of(registry)
    record = store.newest(name, version)
    if record is None or record.candidate.bundle_sha256 != store.bundle_sha256(name, version):
        return None
    champion = registry.state(name).aliases.get(CHAMPION)
    other = record.champion
    compared = None if other is None or other.name != name else other.version
    if champion in (None, compared, version):
        return record.verdict
    reason = (
        f"the champion is version {champion} now; this version was compared with "
        f"{'none' if compared is None else f'version {compared}'}; validate it again"
    )
    return msgspec.structs.replace(record.verdict, passed=False, reasons=(reason, *record.verdict.reasons))


def _folder(name: str, version: int) -> str:
    return f"{check_name(name)}/validations/{version}"
