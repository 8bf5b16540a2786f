"""What is in the registry, and who serves."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from zaphod.commands.options import (
    DEFAULT_ALIAS,
    DEFAULT_REGISTRY,
    NAME,
    VERSION,
    AliasOption,
    RegistryOption,
    WhyOption,
    parse_version,
)
from zaphod.errors import ModelNotFoundError
from zaphod.registry import Change, Registry
from zaphod.terminal import plain


def models(registry: RegistryOption = DEFAULT_REGISTRY) -> None:
    """Lists models, their versions, aliases and pins."""
    opened = Registry.open(registry)
    table = Table("model", "version", "aliases", "engine", "task", "packaged", "from")
    for name in opened.models():
        state = opened.state(name)
        for version in opened.versions(name):
            manifest, schema = opened.describe(name, version)
            names = sorted(alias for alias, target in state.aliases.items() if target == version)
            names += ["(pinned)"] if version in state.pins else []
            table.add_row(
                name, str(version), ", ".join(names), manifest.engine, schema.output.task, manifest.created,
                manifest.origin,
            )  # fmt: skip
    Console().print(table)


def promote(
    reference: VERSION,
    why: WhyOption,
    alias: AliasOption = DEFAULT_ALIAS,
    override: Annotated[
        str | None, typer.Option(help="the reason to promote a version whose gate has not passed; journalled")
    ] = None,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Points an alias at a version that has passed its gate; every arm follows within two seconds."""
    from zaphod.promotion import promote as promote_version

    name, version = parse_version(reference)
    opened = Registry.open(registry)
    _say(name, promote_version(opened, name, version=version, why=why, alias=alias, override=override))


def rollback(
    name: NAME, why: WhyOption, alias: AliasOption = DEFAULT_ALIAS, registry: RegistryOption = DEFAULT_REGISTRY
) -> None:
    """Points an alias at the version that the journal says it had before."""
    opened = Registry.open(registry)
    version = previous_version(opened.journal(name), alias=alias)
    if version is None:
        raise ModelNotFoundError(f"Cannot roll back {name}@{alias}: the journal has no earlier version. Promote one.")
    _say(name, opened.set_alias(name, alias=alias, version=version, action="rollback", why=why))


def pin(reference: VERSION, why: WhyOption, registry: RegistryOption = DEFAULT_REGISTRY) -> None:
    """Keeps a version that somebody refers to by number from being deleted."""
    name, version = parse_version(reference)
    Registry.open(registry).pin(name, version=version, why=why)
    Console().print(f"{name}@{version} is pinned")


def unpin(reference: VERSION, why: WhyOption, registry: RegistryOption = DEFAULT_REGISTRY) -> None:
    """Lets a pinned version be deleted again."""
    name, version = parse_version(reference)
    Registry.open(registry).unpin(name, version=version, why=why)
    Console().print(f"{name}@{version} is no longer pinned")


def delete(reference: VERSION, why: WhyOption, registry: RegistryOption = DEFAULT_REGISTRY) -> None:
    """Removes a version for good. One that an alias or a pin holds is refused."""
    name, version = parse_version(reference)
    Registry.open(registry).delete(name, version=version, why=why)
    Console().print(f"{name}@{version} is deleted; its number is not used again")


def gc(
    keep: Annotated[int, typer.Option(help="the newest versions of each model to keep", min=0)] = 10,
    older_than_days: Annotated[float, typer.Option(help="delete nothing younger than this", min=0.0)] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run/--delete", help="only say what would go")] = True,  # noqa: FBT002
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Deletes old versions that no alias and no pin holds, and what dead publishers left."""
    opened = Registry.open(registry)
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=older_than_days)
    console = Console()
    for name in opened.models():
        for version in garbage(opened, name, keep=keep, before=before):
            console.print(f"{'would delete' if dry_run else 'deleting'} {name}@{version}")
            if not dry_run:
                opened.delete(name, version=version, why=f"gc: older than {older_than_days:g} days")
        for version in opened.abandoned(name, before=before):
            console.print(f"{name}@{version} was never finished{'' if dry_run else ': removing it'}")
            if not dry_run:
                opened.remove_abandoned(name, version=version)


def journal(name: NAME, registry: RegistryOption = DEFAULT_REGISTRY) -> None:
    """Shows who changed what, when and why."""
    table = Table("when", "who", "action", "aliases", "why")
    for change in Registry.open(registry).journal(name):
        aliases = ", ".join(f"{alias}={version}" for alias, version in sorted(change.aliases.items()))
        table.add_row(change.at, plain(change.who), plain(change.action), aliases, plain(change.why))
    Console().print(table)


def garbage(registry: Registry, name: str, *, keep: int, before: datetime.datetime) -> list[int]:
    """Versions that nobody holds, older than the moment, apart from the `keep` newest."""
    kept = registry.state(name).kept
    versions = registry.versions(name)
    candidates = versions[: len(versions) - keep] if keep else versions
    return [
        version
        for version in candidates
        if version not in kept and datetime.datetime.fromisoformat(registry.describe(name, version)[0].created) < before
    ]


def previous_version(changes: list[Change], *, alias: str) -> int | None:
    """The version an alias had before the one it has, undoing rollbacks too: each promote is one step on a stack."""
    stack: list[int] = []
    for change in changes:
        version = change.aliases.get(alias)
        if version is None or (stack and stack[-1] == version):
            continue
        if change.action == "rollback" and len(stack) > 1 and stack[-2] == version:
            stack.pop()
        else:
            stack.append(version)
    return stack[-2] if len(stack) > 1 else None


def _say(name: str, change: Change) -> None:
    aliases = ", ".join(f"{alias} is version {version}" for alias, version in sorted(change.aliases.items()))
    Console().print(f"{name}: {aliases} (journal entry {change.generation})")
