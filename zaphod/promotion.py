"""Who may become champion: a version that has passed the gate, or one that somebody takes the blame for."""

from __future__ import annotations

from zaphod.errors import GateError
from zaphod.registry import CHAMPION, Change, Registry
from zaphod.validation.store import check_gate


def promote(
    registry: Registry, name: str, *, version: int, why: str, alias: str = CHAMPION, override: str | None = None
) -> Change:
    """Points an alias at a version. Champion becomes only what passed its newest validation.

    override: the reason for promoting what has not; it is journalled.

    Raises: GateError; ModelNotFoundError; RegistryConflictError when another writer came first.
    """
    if alias == CHAMPION:
        reason = refusal(registry, name, version)
        if reason is not None:
            if override is None:
                raise GateError(
                    f"Cannot promote {name}@{version}: {reason} Run `zaphod validate {name}@{version} --data … "
                    "--target …`, or promote it with --override and the reason."
                )
            why = f"{why} (gate overridden: {override})"
    return registry.set_alias(name, alias=alias, version=version, action="promote", why=why)


def refusal(registry: Registry, name: str, version: int) -> str | None:
    """Why the version has not passed the gate; None when it has."""
    if version not in registry.versions(name):
        return None  # the registry says so itself
    verdict = check_gate(registry, name, version=version)
    if verdict is None:
        return "it was never validated."
    return None if verdict.passed else f"its validation did not pass: {'; '.join(verdict.reasons)}."
