"""Scores a table with a packaged model: `python -m batch --config configs/batch.yaml`."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pydantic
import typer
from pydantic.fields import FieldInfo
from rich.console import Console

from batch.execution import join_ahead, ray_executor
from batch.settings import BatchSettings, from_home
from zaphod.errors import ZaphodError
from zaphod.settings import Settings, load_settings

if typing.TYPE_CHECKING:
    from batch.job import Execute, Outcome, RejectLimitError
    from batch.preflight import Preflight
    from batch.tasks import TaskPool


def run(
    *, config: Path, dry_run: bool, flags: dict[str, object], leave: Callable[[int], None] = lambda code: None
) -> int:
    """The exit code: 0 published, 1 an error, 2 too many rows rejected.

    leave: ends the process with that code, if it does, while it is still part of a cluster that stays.
    """
    console = Console()
    home = Path(os.environ.get("ZAPHOD_HOME") or Path.cwd())
    run_dir = home / "var" / "run"
    try:
        settings = load_settings(BatchSettings, path=config, flags=flags, environ=os.environ)
        settings = _at_home(settings, home)
        with contextlib.nullcontext() if dry_run else join_ahead(settings, run_dir=run_dir) as joined:
            code = _run(settings, dry_run=dry_run, run_dir=run_dir, joined=joined, console=console)
            if joined is not None:
                # The cluster sees it go and ends its workers. To take leave takes a quarter of a second.
                leave(code)
            return code
    except ZaphodError as error:
        return _complain(error)


def _run(
    settings: BatchSettings,
    *,
    dry_run: bool,
    run_dir: Path,
    joined: Callable[[], TaskPool] | None,
    console: Console,
) -> int:
    # Half a second of imports that `--help` and a wrong setting need not wait for.
    from batch.job import Job, RejectLimitError

    job = Job(
        settings,
        open_executor=lambda seconds: _executor(settings, seconds, run_dir=run_dir, joined=joined, console=console),
        console=console,
    )
    try:
        ready = job.check()
        show_plan(console, ready, settings)
        if not dry_run:
            show_outcome(console, job.run(ready))
    except RejectLimitError as error:
        return _complain(error, code=2)
    except ZaphodError as error:
        # At once: leaving a cluster that does not answer may take a while.
        return _complain(error)
    return 0


def _at_home(settings: BatchSettings, home: Path) -> BatchSettings:
    """With absolute paths."""
    changes: dict[str, object] = {
        name: from_home(getattr(settings, name), home) for name in ("input", "output", "registry")
    }
    changes |= {
        "ray_env": home / settings.ray_env,
        "gate": home / settings.gate,
        "monitoring": settings.monitoring.below(home),
    }
    if settings.report is not None:
        changes["report"] = home / settings.report
    if settings.delta is not None:
        changes["delta"] = from_home(settings.delta, home)
    if settings.sql is not None:
        changes["sql"] = pydantic.SecretStr(from_home(settings.sql.get_secret_value(), home))
    return settings.model_copy(update=changes)


def _executor(
    settings: BatchSettings,
    seconds: float | None,
    *,
    run_dir: Path,
    joined: Callable[[], TaskPool] | None,
    console: Console,
) -> contextlib.AbstractContextManager[Execute]:
    """seconds: what is left to do, on one core."""
    from batch.inline import inline_executor

    if seconds is not None and seconds < settings.in_process_s:
        return inline_executor()

    def warn(text: str) -> None:
        console.print(text, style="yellow", highlight=False, soft_wrap=True, markup=False)

    return ray_executor(settings, run_dir=run_dir, seconds=seconds, joined=joined, warn=warn)


def show_plan(console: Console, ready: Preflight, settings: BatchSettings) -> None:
    """Two lines: what will be scored, and how long that may take."""
    plan, work = ready.plan, ready.work
    beside = f" and {work.challenger} beside it" if work.challenger is not None else ""
    about = "" if plan.num_rows is not None else "about "
    console.print(
        f"{about}{ready.num_rows:,} rows in {len(plan.files):,} files ({plan.size_bytes / 1e6:,.1f} MB, "
        f"{len(plan.units):,} units) with {work.champion}{beside} (engine {ready.ask.champion.predictor.engine}, "
        f"bundle {work.champion.bundle_sha256[:12]})",
        highlight=False,
        soft_wrap=True,
    )
    if ready.ask.shadow and ready.ask.trial is not None:
        experiment = ready.ask.trial.experiment
        console.print(
            f"{experiment.model}@{experiment.challenger} in the shadow scores {experiment.phase.share:.0%} of the rows "
            f"too, for the log alone (experiment {experiment.id})",
            highlight=False,
            soft_wrap=True,
        )
    if ready.left_out is not None:
        console.print(f"without the challenger in the shadow: {ready.left_out}", highlight=False, soft_wrap=True)
    if ready.estimate is not None:
        from batch.preflight import num_cores
        from batch.progress import duration

        num_tasks = settings.max_tasks or num_cores()
        seconds = ready.estimate.seconds(num_rows=ready.num_rows, num_tasks=num_tasks)
        size = ready.num_rows * ready.estimate.bytes_per_row / 1e6
        free = f" of {ready.free_bytes / 1e9:,.0f} GB free" if ready.free_bytes is not None else ""
        console.print(
            f"a sample scored at {ready.estimate.rows_per_s:,.0f} rows/s: about {duration(seconds)} on {num_tasks} "
            f"cores, and at most {size:,.1f} MB{free}",
            highlight=False,
            soft_wrap=True,
        )


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Where the predictions are, and the counts."""
    manifest = outcome.manifest
    if outcome.unchanged:
        said = "nothing has changed, nothing was done"
        if outcome.instead_of is not None:
            said = f"nothing was scored, and it is current now in place of {outcome.instead_of}"
        console.print(f"finished before: {said}", highlight=False, soft_wrap=True)
    console.print(
        f"rows in {manifest.rows_in:,}  out {manifest.rows_out:,}  rejected {manifest.rows_rejected:,}  "
        f"at {manifest.timing.rows_per_s:,.0f} rows/s",
        highlight=False,
    )
    if manifest.timing.rows_unlogged:
        console.print(
            f"not logged   {manifest.timing.rows_unlogged:,} rows: the prediction log had no room for them, or its "
            "storage was away",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    console.print(f"predictions  {outcome.predictions}", highlight=False, soft_wrap=True)
    for report in outcome.reports:
        console.print(f"report       {report}", highlight=False, soft_wrap=True)
    for target in outcome.delivered:
        console.print(f"delivered to {target}", highlight=False, soft_wrap=True)
    if manifest.rows_rejected or manifest.corrupt_files:
        console.print(f"rejects      {outcome.rejects}", highlight=False, soft_wrap=True)
        for problem in manifest.rejected:
            where = f" - at `{problem.field}`" if problem.field else ""
            rows = f"{problem.rows:,} rows" if problem.rows else "nobody knows how many rows"
            console.print(f"  {rows}: {problem.reason}{where}", highlight=False, markup=False)


def _command() -> Any:  # what typer inspects
    """A command with a flag for every setting."""

    def command(**values: Any) -> None:
        config, dry_run = values.pop("config"), values.pop("dry_run")
        flags: dict[str, object] = {name: None if value == [] else value for name, value in values.items()}
        for group, names in groups.items():
            given = {name: flags.pop(f"{group}_{name}") for name in names}
            flags[group] = {name: value for name, value in given.items() if value is not None} or None
        _leave(run(config=config, dry_run=dry_run, flags=flags, leave=_leave))

    parameters = [
        _option("config", Path, Path("configs/batch.yaml"), help_text="the file of settings"),
        _option("dry_run", bool, default=False, help_text="check everything and score nothing"),
    ]
    groups: dict[str, list[str]] = {}
    for name, field in BatchSettings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            groups[name] = list(field.annotation.model_fields)
            parameters += [_flag_of(f"{name}_{part}", each) for part, each in field.annotation.model_fields.items()]
        else:
            parameters.append(_flag_of(name, field))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    command.__doc__ = __doc__
    return command


def _flag_of(name: str, field: FieldInfo) -> inspect.Parameter:
    kind: type = bool if field.annotation is bool else str
    if field.annotation == tuple[str, ...]:
        kind = list[str]
    return _option(name, kind, None, help_text=field.description or "")


def _leave(code: int) -> None:
    """A Ray of the job's own is shut down by now: to take down its modules as well would take another half second."""
    if "ray" not in sys.modules:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _option(name: str, kind: type, default: object, *, help_text: str) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    if kind is bool and default is None:
        # A switch that a file has set can be taken back.
        flag = f"{flag}/--no{flag.removeprefix('-')}"
    annotation = Annotated[kind if default is not None else kind | None, typer.Option(flag, help=help_text)]  # type: ignore[valid-type]  # made at run time
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _complain(error: ZaphodError | RejectLimitError, *, code: int = 1) -> int:
    """The exit code."""
    Console(stderr=True).print(error.message, style="red", soft_wrap=True, highlight=False, markup=False)
    return code


if __name__ == "__main__":
    typer.run(_command())
