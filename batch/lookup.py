"""`zaphod predictions`: what was published, and the newest prediction of an entity."""

from __future__ import annotations

import datetime
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
from zaphod.terminal import plain

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
        table.add_row(name, "" if value is None else plain(value))
    table.caption = f"{found.model}@{found.version}, published {found.published} in {found.run_id}"
    Console().print(table)


@app.command()
def runs(output: _Output = None, config: _Config = _DEFAULT_CONFIG) -> None:
    """Lists published runs, the current one first."""
    table = Table("run", "model", "rows", "published")
    for run in PublishedPredictions.open(_output(output, config)).runs():
        table.add_row(run.run_id, f"{run.model}@{run.version}", f"{run.rows:,}", run.published)
    Console().print(table)


@app.command()
def gc(
    keep: Annotated[int, typer.Option(help="the newest runs to keep, at least one", min=0)] = 10,
    older_than_days: Annotated[float, typer.Option(help="remove nothing younger than this", min=0.0)] = 30.0,
    dry_run: Annotated[bool, typer.Option("--dry-run/--delete", help="only say what would go")] = True,  # noqa: FBT002
    output: _Output = None,
    config: _Config = _DEFAULT_CONFIG,
) -> None:
    """Removes old runs, and what jobs have left that were killed and never finished; never the current run."""
    from batch.retention import find_garbage, remove  # half a second that other commands need not wait for

    place = _output(output, config)
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=older_than_days)
    console = Console()
    for garbage in find_garbage(place, keep=keep, before=before):
        what = "published" if garbage.is_published else "never finished, last written"
        said = f"{garbage.run_id} ({what} {garbage.since.isoformat(timespec='seconds')})"
        if dry_run:
            console.print(f"would remove {said}", highlight=False, soft_wrap=True)
        else:
            gone = remove(place, garbage)
            console.print(f"{'removed' if gone else 'in use, kept'} {said}", highlight=False, soft_wrap=True)


def _output(output: str | None, config: Path) -> str:
    home = Path(os.environ.get("ZAPHOD_HOME") or Path.cwd())
    if output is None:
        output = load_settings(BatchSettings, path=config, flags={}, environ=os.environ).output
    return from_home(output, home)
