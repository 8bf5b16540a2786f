"""The `zaphod` command: what is in the registry, and who serves."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from zaphod.errors import ConfigError, ModelNotFoundError, ZaphodError
from zaphod.registry import CHAMPION, Change, Reference, Registry

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

_REGISTRY = Annotated[str, typer.Option("--registry", envvar="ZAPHOD_REGISTRY", help="the registry's folder")]


@app.command()
def models(registry: _REGISTRY = "var/registry") -> None:
    """Lists models, their versions and aliases."""
    opened = Registry.open(registry)
    table = Table("model", "version", "aliases", "engine", "task", "packaged")
    for name in opened.models():
        aliases = opened.state(name).aliases
        for version in opened.versions(name):
            bundle = opened.load(name, version)
            names = ", ".join(sorted(alias for alias, target in aliases.items() if target == version))
            table.add_row(
                name, str(version), names, bundle.manifest.engine, bundle.schema.output.task, bundle.manifest.created
            )
    Console().print(table)


@app.command()
def promote(
    reference: Annotated[str, typer.Argument(help="what to promote: name@version")],
    why: Annotated[str, typer.Option(help="the reason, for the journal")],
    alias: Annotated[str, typer.Option(help="the alias to move")] = CHAMPION,
    registry: _REGISTRY = "var/registry",
) -> None:
    """Points an alias at a version; every arm follows within two seconds."""
    parsed = Reference.parse(reference)
    if parsed.version is None:
        raise ConfigError(f"Expected name@version, got {reference!r}")
    change = Registry.open(registry).set_alias(
        parsed.name, alias=alias, version=parsed.version, action="promote", why=why
    )
    _say(parsed.name, change)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="the model")],
    why: Annotated[str, typer.Option(help="the reason, for the journal")],
    alias: Annotated[str, typer.Option(help="the alias to move back")] = CHAMPION,
    registry: _REGISTRY = "var/registry",
) -> None:
    """Points an alias at the version that the journal says it had before."""
    opened = Registry.open(registry)
    version = previous_version(opened.journal(name), alias=alias)
    if version is None:
        raise ModelNotFoundError(f"Cannot roll back {name}@{alias}: the journal has no earlier version. Promote one.")
    _say(name, opened.set_alias(name, alias=alias, version=version, action="rollback", why=why))


@app.command()
def journal(
    name: Annotated[str, typer.Argument(help="the model")],
    registry: _REGISTRY = "var/registry",
) -> None:
    """Shows who changed what, when and why."""
    table = Table("when", "who", "action", "aliases", "why")
    for change in Registry.open(registry).journal(name):
        aliases = ", ".join(f"{alias}={version}" for alias, version in sorted(change.aliases.items()))
        table.add_row(change.at, change.who, change.action, aliases, change.why)
    Console().print(table)


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


def main() -> None:
    """The console script: a ZaphodError is one sentence on standard error and exit code 1."""
    try:
        app(standalone_mode=True)
    except ZaphodError as error:
        Console(stderr=True).print(error.message, style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(1)


def _say(name: str, change: Change) -> None:
    aliases = ", ".join(f"{alias} is version {version}" for alias, version in sorted(change.aliases.items()))
    Console().print(f"{name}: {aliases} (journal entry {change.generation})")
