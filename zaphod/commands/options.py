"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from zaphod.errors import ConfigError
from zaphod.registry import CHAMPION, Reference, Registry

RegistryOption = Annotated[
    str, typer.Option("--registry", envvar="ZAPHOD_REGISTRY", help="the registry: a folder or a bucket's address")
]
WhyOption = Annotated[str, typer.Option("--why", help="the reason, for the journal")]
AliasOption = Annotated[str, typer.Option("--alias", help="the alias to move")]
NAME = Annotated[str, typer.Argument(help="the model")]
VERSION = Annotated[str, typer.Argument(help="name@version")]
DEFAULT_REGISTRY = "var/registry"
DEFAULT_ALIAS = CHAMPION


def parse_version(text: str, registry: Registry | None = None) -> tuple[str, int]:
    """`name@7`; with a registry also `name` and `name@alias`. Raises: ConfigError, ModelNotFoundError."""
    reference = Reference.parse(text)
    if reference.version is not None:
        return reference.name, reference.version
    if registry is None:
        raise ConfigError(f"Expected name@version, got {text!r}")
    return reference.name, registry.resolve(reference)
