"""`zaphod validate`: runs the gate, stores what it found, says it in a few lines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from zaphod.registry import Registry
from zaphod.settings import load_settings
from zaphod.terminal import plain
from zaphod.validation.verdict import Status

CONFIG = Path("configs/validation.yaml")
_MARKS = {Status.PASSED: "[green]passed[/]", Status.FAILED: "[red]failed[/]", Status.SKIPPED: "[dim]skipped[/]"}


def validate(
    reference: Annotated[str, typer.Argument(help="what to validate: name@version")],
    data: Annotated[Path, typer.Option(help="the holdout: a Parquet or CSV file, or a folder of them")],
    target: Annotated[
        list[str] | None, typer.Option(help="the column with the truth; once for each target, not at all for clusters")
    ] = None,
    champion: Annotated[
        str | None, typer.Option(help="what to compare with; the model's champion by default", show_default=False)
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help=f"the gate's settings; {CONFIG} where there is one", show_default=False)
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="training rows to fit the baselines on; else the holdout itself, cross-fitted")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="also write the report here, .html")] = None,
    registry: Annotated[
        str, typer.Option("--registry", envvar="ZAPHOD_REGISTRY", help="the registry's folder or bucket")
    ] = "var/registry",
) -> None:
    """Measures a version on a holdout and decides whether it may be promoted. Exit code 2 when it may not."""
    from zaphod.validation.card import render_card
    from zaphod.validation.report import render_report
    from zaphod.validation.run import Request, validate_model
    from zaphod.validation.settings import ValidationSettings
    from zaphod.validation.store import ValidationStore

    path = config or (CONFIG if CONFIG.exists() else None)
    settings = load_settings(ValidationSettings, path=path, environ=os.environ)
    opened = Registry.open(registry)
    request = Request(reference=reference, data=data, targets=tuple(target or ()), champion=champion, train=train)
    console = Console()
    with console.status("reading the holdout") as status:
        validated = validate_model(
            opened, request, settings=settings, on_rows=lambda rows: status.update(f"{rows:,} rows read")
        )
    validation = validated.validation
    card = render_card(validation, validated.bundle)
    html = render_report(validation, validated.bundle).encode()
    subject = validation.candidate
    stored = ValidationStore.of(opened).add(
        subject.name, subject.version, json=validation.to_json(), html=html, card=card.encode()
    )
    if report is not None:
        report.write_bytes(html)
    table = Table("check", "", "detail")
    for check in validation.verdict.checks:
        table.add_row(plain(check.name), _MARKS[check.status], plain(check.detail))
    console.print(table)
    verdict = "passed" if validation.verdict.passed else "did not pass"
    console.print(
        f"{subject.name}@{subject.version} {verdict} on {validation.holdout.num_rows:,} rows "
        f"in {validation.seconds:.1f} s",
        highlight=False,
    )
    console.print(f"report: {opened.uri}/{stored.html}", highlight=False, soft_wrap=True)
    if not validation.verdict.passed:
        raise typer.Exit(code=2)
