"""The `zaphod` command."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
from collections.abc import Sequence

import typer
from rich.console import Console

from zaphod.commands import experiments, packages, versions
from zaphod.errors import ZaphodError
from zaphod.validation.command import validate

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

for command in (
    packages.package,
    packages.schema,
    packages.inspect,
    validate,
    versions.models,
    versions.promote,
    versions.rollback,
    versions.pin,
    versions.unpin,
    versions.delete,
    versions.gc,
    versions.journal,
):
    app.command()(command)
app.add_typer(experiments.app, name="experiment")


@app.callback()
def zaphod() -> None:
    """Packages models, keeps their versions, and says who serves."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: a ZaphodError is one sentence on standard error and exit code 1. arguments: of the shell."""
    try:
        _with_arms()(args=arguments, standalone_mode=True)
    except ZaphodError as error:
        Console(stderr=True).print(error.message, style="red", soft_wrap=True, highlight=False, markup=False)
        sys.exit(1)


@functools.cache
def _with_arms() -> typer.Typer:
    """Arms add commands of their own by name (`dlq`): the core does not know them."""
    for entry in importlib.metadata.entry_points(group="zaphod.commands"):
        app.add_typer(entry.load(), name=entry.name)
    return app
