"""The control plane: names, versions, aliases and their history, as files.

    <model>/<version>/…                  a bundle, immutable; visible once its bundle.json is there
    <model>/journal/<generation>.json    one change each: who, when, why, and all aliases after it
    <model>/aliases.json                 a copy of the newest change, for people and other tools

The journal is the truth. A change is made by creating the file of the next generation, which succeeds for exactly one
of several racing writers, so an alias cannot move without its journal entry.
"""

from __future__ import annotations

import datetime
import getpass
import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from zaphod.bundle import MANIFEST, SCHEMA, Bundle, Manifest, verify
from zaphod.errors import ConfigError, ModelLoadError, ModelNotFoundError, RegistryConflictError, ZaphodError
from zaphod.experiment.spec import Experiment
from zaphod.schema import Schema, check_name
from zaphod.storage import Storage, open_storage

_log = logging.getLogger(__name__)

CHAMPION = "champion"
CHALLENGER = "challenger"
_CLAIM = "claim"


@dataclass(frozen=True, slots=True)
class Reference:
    """`name`, `name@alias` or `name@7`. A number is a pin: it stays, whatever is promoted."""

    name: str
    alias: str | None
    version: int | None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises: ConfigError."""
        name, _, selector = text.partition("@")
        check_name(name)
        if not selector:
            return cls(name=name, alias=CHAMPION, version=None)
        if selector.isascii() and selector.isdigit():
            return cls(name=name, alias=None, version=int(selector))
        return cls(name=name, alias=check_name(selector, what="alias"), version=None)


class Change(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One journal entry. `aliases` and `pins` are the whole state after the change; at is ISO 8601 in UTC.

    id: tells two changes apart that are alike in all else. pins: versions that are kept though no alias names them.
    experiment: the one that runs after the change.
    """

    id: str
    generation: int
    at: str
    who: str
    action: str
    why: str
    aliases: dict[str, int]
    pins: tuple[int, ...] = ()
    experiment: Experiment | None = None

    @property
    def kept(self) -> frozenset[int]:
        """Versions that may not be deleted."""
        running = () if self.experiment is None else (self.experiment.champion, self.experiment.challenger)
        return frozenset((*self.aliases.values(), *self.pins, *running))


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who takes a version number, and when (ISO 8601 in UTC)."""

    id: str
    at: str


_NOTHING_YET = Change(id="", generation=0, at="", who="", action="none", why="", aliases={})


class Registry:
    """Reads and changes a registry. Cheap to make; holds nothing open."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @classmethod
    def open(cls, uri: str) -> Registry:
        """A folder's path, or a bucket's address (`s3://…`, `gs://…`). Raises: ConfigError."""
        return cls(open_storage(uri))

    @property
    def uri(self) -> str:
        return self._storage.uri

    def models(self) -> list[str]:
        return [name for name in self._storage.names("") if self.versions(name)]

    def versions(self, name: str) -> list[int]:
        """Complete versions, ascending."""
        check_name(name)
        return [number for number in self._numbers(name) if self._storage.exists(f"{name}/{number}/{MANIFEST}")]

    def publish(self, name: str, files: Mapping[str, bytes]) -> int:
        """Stores sealed files as the next version and returns its number. No alias moves.

        Racing publishers get different numbers; a publisher that dies leaves a number unused.
        """
        check_name(name)
        version = self._claim(name)
        for file_name, data in files.items():
            if file_name != MANIFEST:
                self._storage.create(f"{name}/{version}/{check_name(file_name, what='file name')}", data)
        self._storage.create(f"{name}/{version}/{MANIFEST}", files[MANIFEST])
        return version

    def load(self, name: str, version: int) -> Bundle:
        """Raises: ModelNotFoundError; ModelLoadError when a byte is not what bundle.json says."""
        folder = f"{check_name(name)}/{version}"
        names = [entry for entry in self._storage.names(folder) if entry != _CLAIM]
        if MANIFEST not in names:
            raise ModelNotFoundError(
                f"Cannot load {name}@{version}: the registry {self.uri} has no such version. "
                f"It has {self.versions(name) or 'none of this model'}."
            )
        try:
            files = {entry: self._storage.read(f"{folder}/{entry}") for entry in names}
        except (OSError, ConfigError) as error:
            raise ModelLoadError(f"Cannot load {name}@{version}: {error}") from error
        bundle = verify(files, version=version, where=f"{name}@{version}")
        if bundle.name != name:
            raise ModelLoadError(
                f"Cannot load {name}@{version}: its {MANIFEST} is of another model. Restore the bundle."
            )
        return bundle

    def describe(self, name: str, version: int) -> tuple[Manifest, Schema]:
        """Manifest and schema without the model itself, and unverified: for lists. Raises: ModelNotFoundError."""
        folder = f"{check_name(name)}/{version}"
        try:
            manifest = msgspec.json.decode(self._storage.read(f"{folder}/{MANIFEST}"), type=Manifest)
            return manifest, Schema.from_json(self._storage.read(f"{folder}/{SCHEMA}"), source=f"{folder}/{SCHEMA}")
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ModelNotFoundError(f"Cannot describe {name}@{version}: it is not whole ({error}).") from error

    def state(self, name: str) -> Change:
        """The newest change: the aliases now."""
        check_name(name)
        generation = self._copied_generation(name)
        change = self._change(name, generation) if generation else None
        while (newer := self._change(name, generation + 1)) is not None:
            generation, change = generation + 1, newer
        return change or _NOTHING_YET

    def journal(self, name: str) -> list[Change]:
        """Every change, oldest first."""
        changes: list[Change] = []
        while (change := self._change(name, len(changes) + 1)) is not None:
            changes.append(change)
        return changes

    def resolve(self, reference: Reference) -> int:
        """The version a reference means now. Raises: ModelNotFoundError."""
        if reference.version is not None:
            return reference.version
        aliases = self.state(reference.name).aliases
        if reference.alias is None or reference.alias not in aliases:
            known = ", ".join(sorted(aliases)) or "none"
            raise ModelNotFoundError(
                f"Cannot find {reference.name}@{reference.alias}: the model has no such alias (it has {known}). "
                "Package the model, or promote a version."
            )
        return aliases[reference.alias]

    def set_alias(self, name: str, *, alias: str, version: int, action: str, why: str) -> Change:
        """Points an alias at a version. Another champion than the running experiment's ends the experiment with it.

        Raises: ModelNotFoundError; RegistryConflictError when another writer changed the model meanwhile.
        """
        check_name(alias, what="alias")
        if alias.isdigit():
            raise ConfigError(f"Cannot name an alias {alias!r}: a number means a version. Use a word.")
        before = self.state(name)
        self.check_version(name, version, before=before)
        running = before.experiment
        if running is not None and alias == CHAMPION and version != running.champion:
            why = f"{why} (this ends experiment {running.id})"
            running = None
        return self.append(
            name,
            before=before,
            aliases={**before.aliases, alias: version},
            experiment=running,
            action=action,
            why=why,
        )

    def pin(self, name: str, *, version: int, why: str) -> Change:
        """Keeps a version from being deleted, as long as somebody refers to it by number.

        Raises: ModelNotFoundError, RegistryConflictError.
        """
        before = self.state(name)
        self.check_version(name, version, before=before)
        pins = tuple(sorted({*before.pins, version}))
        return self.append(name, before=before, pins=pins, action=f"pin {version}", why=why)

    def unpin(self, name: str, *, version: int, why: str) -> Change:
        """Raises: RegistryConflictError."""
        before = self.state(name)
        pins = tuple(pin for pin in before.pins if pin != version)
        return self.append(name, before=before, pins=pins, action=f"unpin {version}", why=why)

    def delete(self, name: str, *, version: int, why: str) -> Change:
        """Removes a version for good; its number is not used again.

        Raises: ModelNotFoundError; ConfigError when an alias or a pin holds it; RegistryConflictError.
        """
        before = self.state(name)
        self._check_files(name, version)
        if version in before.kept:
            holders = [f"@{alias}" for alias, target in sorted(before.aliases.items()) if target == version]
            holders += ["a pin"] if version in before.pins else []
            raise ConfigError(
                f"Cannot delete {name}@{version}: {', '.join(holders) or 'an experiment'} holds it. "
                "Promote another version, unpin it or stop the experiment first."
            )
        # The journal first: a writer that pointed an alias here meanwhile makes this one lose.
        change = self.append(name, before=before, action=_deletion(version), why=why)
        self._remove(name, version)
        return change

    def check_version(self, name: str, version: int, *, before: Change) -> None:
        """That a version is there to be named by a change on top of `before`, which is read first: if the version is
        deleted from then on, that change loses.

        Raises: ModelNotFoundError; also while the files of a version that the journal calls deleted are still there.
        """
        self._check_files(name, version)
        change: Change | None = before
        # What was held at some time had not been deleted until then.
        while change is not None and change.generation and version not in change.kept:
            if change.action == _deletion(version):
                raise ModelNotFoundError(
                    f"Cannot find {name}@{version}: it was deleted ({change.why}). Package the model again."
                )
            change = self._change(name, change.generation - 1)

    def abandoned(self, name: str, *, before: datetime.datetime) -> list[int]:
        """Numbers that were claimed before a moment and whose bundle is still not whole: their publishers died."""
        whole = set(self.versions(name))
        return [
            number
            for number in self._numbers(name)
            if number not in whole and self._files(name, number) and self._claimed(name, number) < before
        ]

    def remove_abandoned(self, name: str, *, version: int) -> None:
        """Removes what a dead publisher left. The caller knows that it is dead."""
        if version in self.versions(name):
            raise ConfigError(f"Cannot remove {name}@{version}: its bundle is whole. Use delete.")
        self._remove(name, version)

    def append(
        self,
        name: str,
        *,
        before: Change,
        action: str,
        why: str,
        aliases: dict[str, int] | None = None,
        pins: tuple[int, ...] | None = None,
        experiment: Experiment | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> Change:
        """Makes one change on top of the state it was decided on; what is not given stays.

        It is in force once its journal entry is there, whatever becomes of the copy. Raises: RegistryConflictError.
        """
        change = Change(
            id=_id(),
            generation=before.generation + 1,
            at=_now(),
            who=getpass.getuser(),
            action=action,
            why=why,
            aliases=before.aliases if aliases is None else aliases,
            pins=before.pins if pins is None else pins,
            experiment=before.experiment if isinstance(experiment, msgspec.UnsetType) else experiment,
        )
        data = msgspec.json.encode(change)
        try:
            self._storage.create(_journal_path(name, change.generation), data)
        except FileExistsError as error:
            raise RegistryConflictError(
                f"Cannot {action} {name}: somebody else changed it at the same time. Look at it again, then retry."
            ) from error
        try:
            self._storage.replace(f"{name}/aliases.json", data)
        except (ZaphodError, OSError):
            _log.exception(
                "cannot copy a change to aliases.json: it is in force, for readers find it in the journal, and the "
                "copy is made good with the next change",
                extra={"model": name, "generation": change.generation},
            )
        return change

    def _claim(self, name: str) -> int:
        version = max(self._numbers(name), default=0) + 1
        while True:
            try:
                self._storage.create(f"{name}/{version}/{_CLAIM}", msgspec.json.encode(Claim(at=_now(), id=_id())))
            except FileExistsError:
                version += 1
            else:
                return version

    def _numbers(self, name: str) -> list[int]:
        return sorted(int(entry) for entry in self._storage.names(name) if entry.isascii() and entry.isdigit())

    def _check_files(self, name: str, version: int) -> None:
        """Raises: ModelNotFoundError."""
        versions = self.versions(name)
        if version not in versions:
            raise ModelNotFoundError(
                f"Cannot find {name}@{version}: the registry {self.uri} has {versions or 'nothing'} of this model."
            )

    def _claimed(self, name: str, version: int) -> datetime.datetime:
        claim = msgspec.json.decode(self._storage.read(f"{name}/{version}/{_CLAIM}"), type=Claim)
        return datetime.datetime.fromisoformat(claim.at)

    def _files(self, name: str, version: int) -> list[str]:
        return [entry for entry in self._storage.names(f"{name}/{version}") if entry != _CLAIM]

    def _remove(self, name: str, version: int) -> None:
        # bundle.json first: without it the version is gone, whatever happens to the rest. The claim keeps the number.
        for entry in sorted(self._files(name, version), key=lambda entry: entry != MANIFEST):
            self._storage.delete(f"{name}/{version}/{entry}")

    def _copied_generation(self, name: str) -> int:
        """How far aliases.json got: a writer may have died before copying its change there."""
        try:
            return msgspec.json.decode(self._storage.read(f"{name}/aliases.json"), type=Change).generation
        except (FileNotFoundError, msgspec.MsgspecError, UnicodeDecodeError):
            return 0

    def _change(self, name: str, generation: int) -> Change | None:
        try:
            return msgspec.json.decode(self._storage.read(_journal_path(name, generation)), type=Change)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ModelLoadError(
                f"Cannot read the journal of {name}: entry {generation} is broken ({error})."
            ) from error


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def _id() -> str:
    return uuid.uuid4().hex


def _deletion(version: int) -> str:
    """The action of a change."""
    return f"delete {version}"


def _journal_path(name: str, generation: int) -> str:
    return f"{name}/journal/{generation:010d}.json"
