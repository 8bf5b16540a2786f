"""`zaphod experiment`: champion against challenger on live traffic, from the start to what follows."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from zaphod.commands.options import DEFAULT_REGISTRY, NAME, RegistryOption, WhyOption, parse_version
from zaphod.errors import ConfigError
from zaphod.experiment.spec import Experiment, Mode
from zaphod.registry import CHALLENGER, Registry
from zaphod.settings import load_settings

if TYPE_CHECKING:
    # Half a second to import, and `start` and `stop` do without.
    from zaphod.experiment.auto import Look
    from zaphod.experiment.findings import Findings

app = typer.Typer(no_args_is_help=True, help=__doc__)

CONFIG = Path("configs/experiment.yaml")
REPORT = Path("experiment.html")
DEFAULT_LOG = "var/monitoring"
# As a shell tells of a process that SIGTERM ended.
_ENDED = 128 + signal.SIGTERM
LogOption = Annotated[
    str, typer.Option("--log", envvar="ZAPHOD_LOG", help="where the arms log: their `monitoring.uri`")
]
ShareOption = Annotated[
    float | None, typer.Option(help="the challenger's share; the next step of the ramp by default", min=0.0, max=1.0)
]
IdOption = Annotated[str | None, typer.Option("--id", help="an experiment of the past; the newest by default")]

_Auto = Annotated[bool, typer.Option("--auto", help="look again and again, and roll back when it must be")]
_Promote = Annotated[bool, typer.Option("--promote", help="with --auto: also promote, when the numbers say so")]


@app.command()
def start(
    challenger: Annotated[str, typer.Argument(help="name@version, or name@challenger")],
    why: WhyOption,
    mode: Annotated[
        Mode, typer.Option(help="ab: split the traffic; shadow: score copies, only record; interleave: batch, both")
    ] = Mode.AB,
    share: ShareOption = None,
    entity: Annotated[
        str | None, typer.Option(help="the model's field that names whom a row is about, where no header or key does")
    ] = None,
    plan: Annotated[Path, typer.Option(help="what is measured, and what it takes to decide")] = CONFIG,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Starts an experiment of the champion against this version; every arm follows within two seconds."""
    from zaphod.experiment.lifecycle import start as start_experiment
    from zaphod.experiment.plan import Plan

    opened = Registry.open(registry)
    name, version = parse_version(challenger if "@" in challenger else f"{challenger}@{CHALLENGER}", opened)
    settings = load_settings(Plan, path=plan, environ=os.environ)
    made = start_experiment(
        opened, name, challenger=version, plan=settings, why=why, mode=mode, share=share, entity=entity
    )
    phase = made.phase
    Console().print(
        f"experiment {made.id}: {name}@{made.challenger} against {name}@{made.champion} ({mode}), phase {phase.number} "
        f"at {phase.share:.0%}",
        highlight=False,
    )


@app.command()
def ramp(name: NAME, why: WhyOption, share: ShareOption = None, registry: RegistryOption = DEFAULT_REGISTRY) -> None:
    """Begins the next phase: who has the challenger keeps it when its share grows."""
    from zaphod.experiment.lifecycle import ramp as ramp_experiment

    phase = ramp_experiment(Registry.open(registry), name, why=why, share=share)
    Console().print(f"{name}: phase {phase.number} at {phase.share:.0%}", highlight=False)


@app.command()
def stop(name: NAME, why: WhyOption, registry: RegistryOption = DEFAULT_REGISTRY) -> None:
    """Ends the experiment: the champion answers all again."""
    from zaphod.experiment.lifecycle import stop as stop_experiment

    ended = stop_experiment(Registry.open(registry), name, why=why)
    Console().print(f"experiment {ended.id} is stopped; {name}@{ended.champion} answers all", highlight=False)


@app.command()
def status(
    name: NAME,
    identity: IdOption = None,
    auto: _Auto = False,  # noqa: FBT002  # a flag of the command line
    may_promote: _Promote = False,  # noqa: FBT002  # as above
    interval_s: Annotated[float, typer.Option("--every", help="with --auto: seconds between two looks", min=0.1)] = 2.0,
    log: LogOption = DEFAULT_LOG,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Shows how an experiment stands, and with --auto acts until it has ended. Exit code 2 when it rolled back."""
    from zaphod.experiment.auto import End, watch

    console = Console()
    if not auto:
        _show(console, _find(Registry.open(registry), name, identity, log))
        return
    ended = False

    def end_now(*_: object) -> None:
        nonlocal ended
        ended = True
        sys.exit(_ENDED)

    def pause(seconds: float) -> None:
        if ended:
            sys.exit(_ENDED)
        time.sleep(seconds)

    # So that what a service manager ends leaves no files behind: the joined log may be large.
    signal.signal(signal.SIGTERM, end_now)
    opened = Registry.open(registry)
    running = opened.state(name).experiment
    if running is None:
        raise ConfigError(f"Cannot watch {name}: no experiment runs. Start one with `zaphod experiment start`.")
    try:
        end = watch(
            opened, running, log_uri=log, may_promote=may_promote, interval_s=interval_s,
            on_look=lambda look: _say(console, look), pause=pause,
        )  # fmt: skip
    except RuntimeError:
        # DuckDB makes one of whatever a signal's handler raises amid a query.
        if ended:
            sys.exit(_ENDED)
        raise
    console.print(f"experiment {running.id}: {end}", highlight=False)
    if end is End.ROLLED_BACK:
        raise typer.Exit(code=2)


@app.command()
def report(
    name: NAME,
    out: Annotated[Path, typer.Option(help="the page to write, .html; or the numbers alone, .json")] = REPORT,
    identity: IdOption = None,
    log: LogOption = DEFAULT_LOG,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Writes what an experiment found as one page that needs nothing else."""
    from zaphod.experiment.report import render_report

    if out.suffix not in (".html", ".json"):
        raise ConfigError(f"Expected a report's name that ends in .html or .json, got {out}")
    console = Console()
    findings = _find(Registry.open(registry), name, identity, log)
    data = findings.to_json() if out.suffix == ".json" else render_report(findings).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(data)
    _show(console, findings)
    console.print(f"report: {out}", highlight=False, soft_wrap=True)


@app.command("import")
def import_outcomes(
    path: Annotated[Path, typer.Argument(help="a Parquet file, or a folder of them")],
    id_column: Annotated[str, typer.Option(help="the column with the predictions' ids")] = "prediction_id",
    value_column: Annotated[str, typer.Option(help="the column with what came of them")] = "outcome",
    field: Annotated[str, typer.Option(help="the field of the outcome that this is")] = "outcome",
    time_column: Annotated[
        str | None, typer.Option(help="the column with when it happened, a timestamp; now by default")
    ] = None,
    log: LogOption = DEFAULT_LOG,
) -> None:
    """Adds outcomes from a table to the log."""
    from zaphod.monitoring.outcomes import import_outcomes as import_table

    added = import_table(
        log, path, id_column=id_column, value_column=value_column, field=field, time_column=time_column
    )
    Console().print(f"imported {added:,} outcomes", highlight=False)


def _find(registry: Registry, name: str, identity: str | None, log: str) -> Findings:
    """Of the running experiment now, of a past one when it ended."""
    from zaphod.experiment.auto import watcher
    from zaphod.experiment.findings import Findings
    from zaphod.experiment.lifecycle import find
    from zaphod.experiment.offline import Offline
    from zaphod.validation.store import ValidationStore

    found = find(registry, name, identity)
    experiment = found if isinstance(found, Experiment) else found.experiment
    with watcher(registry, experiment, log_uri=log) as opened:
        look = opened.look(now_s=None if isinstance(found, Experiment) else found.at_s)
    validation = ValidationStore.of(registry).newest_json(name, experiment.challenger)
    return Findings(
        experiment=experiment,
        plan=look.plan,
        analysis=look.analysis,
        decision=look.decision,
        offline=None if validation is None else Offline.read(validation),
    )


def _show(console: Console, findings: Findings) -> None:
    from zaphod.experiment.terminal import render_terminal

    console.print(render_terminal(findings))


def _say(console: Console, look: Look) -> None:
    """One line a look."""
    phase = look.analysis.current
    exposed = phase.exposure[-1]
    console.print(
        f"phase {phase.number} at {phase.share:.0%}: {exposed.champion:,} and {exposed.challenger:,} entities; "
        f"{look.decision.verdict}: {'; '.join(look.decision.reasons)}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
