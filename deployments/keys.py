"""`zaphod keys`: makes, lists and withdraws API keys in a file that a running server reads again."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from deployments.access import Key, Keys, digest, make_key
from zaphod.errors import ConfigError

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)

_File = Annotated[Path, typer.Option("--file", help="the file that `keys_file` in configs/serve.yaml names")]
_FILE = Path("var/keys.json")


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="whom the key is for")],
    file: _File = _FILE,
    model: Annotated[
        list[str] | None, typer.Option(help="a model it covers; may be given again; none means all")
    ] = None,
    manage: Annotated[bool, typer.Option("--manage", help="it may also call the management routes")] = False,  # noqa: FBT002
) -> None:
    """Makes a key and shows it once: the file keeps its hash only."""
    keys = _read(file)
    if any(key.name == name for key in keys):
        raise ConfigError(f"Cannot add a key {name!r} to {file}: there is one of this name. Withdraw it first.")
    secret = make_key()
    created = datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds")
    made = Key(name=name, sha256=digest(secret), models=tuple(model or ()), manage=manage, created=created)
    _write(file, (*keys, made))
    typer.echo(secret)
    typer.echo(f"kept its hash in {file}; this is the only time it is shown", err=True)


@app.command(name="list")
def list_keys(file: _File = _FILE) -> None:
    """Names, models and ages of the keys."""
    for key in _read(file):
        covers = ", ".join(key.models) or "all models"
        typer.echo(f"{key.name}\t{covers}{', manages' if key.manage else ''}\t{key.created}")


@app.command()
def withdraw(name: Annotated[str, typer.Argument(help="whose key")], file: _File = _FILE) -> None:
    """Takes a key out: a running server refuses it within a second."""
    keys = _read(file)
    kept = tuple(key for key in keys if key.name != name)
    if len(kept) == len(keys):
        raise ConfigError(f"Cannot withdraw {name!r}: {file} has no key of this name. See `keys list`.")
    _write(file, kept)
    typer.echo(f"withdrew {name}")


def _read(file: Path) -> tuple[Key, ...]:
    return Keys.read(file.read_bytes(), source=str(file)).keys if file.exists() else ()


def _write(file: Path, keys: tuple[Key, ...]) -> None:
    """Replaces the file at once, so that a server never reads half of it; only its owner may read it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    staged = file.with_name(f".{file.name}.{os.getpid()}")
    staged.touch(mode=0o600)
    staged.write_bytes(msgspec.json.format(msgspec.json.encode(Keys(keys=keys)), indent=2) + b"\n")
    staged.replace(file)
