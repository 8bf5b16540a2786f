"""Which of the served models a caller means. Nothing is loaded for a caller: what is not held here is not found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from deployments.access import Access
from zaphod.errors import ModelNotFoundError
from zaphod.registry import CHAMPION
from zaphod.served import ServedModel, Snapshot


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which model a path names. version, alias: as the caller wrote them; None leaves the choice to the server."""

    name: str
    version: str | None = None
    alias: str | None = None

    @classmethod
    def of(cls, name: str, selector: str | None) -> Wanted:
        """A selector of digits is a version, another an alias."""
        if selector is not None and selector.isascii() and selector.isdigit():
            return cls(name=name, version=selector)
        return cls(name=name, alias=selector)


class Catalogue:
    """The models of a replica, by the references they are served under."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self.models = dict(models)

    def snapshots(self) -> dict[str, Snapshot]:
        return {reference: served.snapshot() for reference, served in self.models.items()}

    def named(self, name: str) -> list[Snapshot]:
        return [served.snapshot() for served in self.models.values() if served.reference.name == name]

    def only(self, covers: Callable[[str], bool]) -> Catalogue:
        """What a caller may know of."""
        return Catalogue({key: served for key, served in self.models.items() if covers(served.reference.name)})

    def first(self) -> Wanted:
        """The model that answers where a protocol has no room for a name: the first in the settings."""
        reference = next(iter(self.models.values())).reference
        version = None if reference.version is None else str(reference.version)
        return Wanted(name=reference.name, version=version, alias=reference.alias)

    def find(self, wanted: Wanted) -> ServedModel:
        """The model under this very reference, or one of this name that follows the alias or holds the version now.

        Without alias and version: the champion of this name, or the only one. Raises: ModelNotFoundError.
        """
        named = [served for served in self.models.values() if served.reference.name == wanted.name]
        if wanted.version is not None:
            named = [served for served in named if str(served.snapshot().stamp.version) == wanted.version]
        elif wanted.alias is not None:
            named = [served for served in named if served.reference.alias == wanted.alias]
        elif len(named) > 1:
            named = [served for served in named if served.reference.alias == CHAMPION]
        if not named:
            raise ModelNotFoundError(f"Expected one of the served models {sorted(self.models)}, got another")
        return named[0]


def find_for(
    headers: Iterable[tuple[bytes, bytes]], wanted: Wanted, *, catalogue: Catalogue, access: Access
) -> ServedModel:
    """As `Catalogue.find`, and tells a caller of no model that its key does not cover.

    Whether the caller may ask what was found is still open. Raises: UnauthenticatedError, ForbiddenError;
    ModelNotFoundError when the key covers the name.
    """
    try:
        return catalogue.find(wanted)
    except ModelNotFoundError:
        access.predict(headers, wanted.name)
        key = access.covered(headers)
        return (catalogue if key is None else catalogue.only(key.covers)).find(wanted)
