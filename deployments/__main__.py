"""Serves the models of configs/serve.yaml on this machine: `python -m deployments up`, and `stop` to end it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from deployments.launcher import Launch, Launcher, stop
from zaphod.errors import ZaphodError

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def up(
    config: Annotated[Path, typer.Option(help="the Serve configuration")] = Path("configs/serve.yaml"),
    ray_env: Annotated[Path, typer.Option(help="Ray's environment")] = Path("configs/ray.env"),
    dashboard_port: Annotated[int, typer.Option(help="where Ray's dashboard and job server listen")] = 8265,
) -> None:
    """Starts Ray and the models, and blocks until Ctrl-C or SIGTERM."""
    console = Console()
    launch = Launch(config=config.absolute(), ray_env=ray_env, home=Path.cwd(), dashboard_port=dashboard_port)
    try:
        code = Launcher(launch, console=console).run()
    except ZaphodError as error:
        Console(stderr=True).print(error.message, style="red", soft_wrap=True, highlight=False, markup=False)
        code = 1
    sys.exit(code)


@app.command(name="stop")
def stop_command() -> None:
    """Ends everything that `up` started in this folder."""
    names = stop(Path.cwd() / "var" / "run")
    typer.echo(f"stopped {', '.join(sorted(set(names)))}" if names else "nothing left to stop")


if __name__ == "__main__":
    app()
