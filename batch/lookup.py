"""`zaphod predictions`: what was published, and the newest prediction of an entity."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from batch.settings import BatchSettings, from_home
from zaphod.lookup import PublishedPredictions
from zaphod.settings import load_settings

app = typer.Typer(no_args_is_help=True, help="Lists published batch runs and looks predictions up in them.")

_DEFAULT_CONFIG = Path("configs/batch.yaml")
_Config = Annotated[Path, typer.Option("--config", help="the settings of the batch job, for its output")]
_Output = Annotated[str | None, typer.Option("--output", help="the job's output: a folder or a bucket's address")]


@app.command()
def get(
    entity: Annotated[str, typer.Option("--id", help="the entity, as the key column has it")],
    key: Annotated[str | None, typer.Option("--key", help="the key column; the first of `keep` if left out")] = None,
    output: _Output = None,
    config: _Config = _DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,  # noqa: FBT002  # a flag
) -> None:
    """Shows the newest published prediction of one entity."""
    found = PublishedPredictions.open(_output(output, config), key=key).newest(entity)
    if as_json:
        sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        return
    table = Table(show_header=False)
    for name, value in found.row.items():
        table.add_row(name, "" if value is None else str(value))
    table.caption = f"{found.model}@{found.version}, published {found.published} in {found.run_id}"
    Console().print(table)


@app.command()
def runs(output: _Output = None, config: _Config = _DEFAULT_CONFIG) -> None:
    """Lists published runs, the current one first."""
    table = Table("run", "model", "rows", "published")
    for run in PublishedPredictions.open(_output(output, config)).runs():
        table.add_row(run.run_id, f"{run.model}@{run.version}", f"{run.rows:,}", run.published)
    Console().print(table)


def _output(output: str | None, config: Path) -> str:
    home = Path(os.environ.get("ZAPHOD_HOME") or Path.cwd())
    if output is None:
        output = load_settings(BatchSettings, path=config, flags={}, environ=os.environ).output
    return from_home(output, home)
