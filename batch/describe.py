"""Writes the report of a published run, and beside it the offline validation's where the truth is known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from batch.commit import UNITS, Receipt, Staging
from batch.deliver import Load
from batch.manifest import Manifest
from batch.model import Model
from batch.preflight import Preflight
from batch.report import render_report
from batch.settings import BatchSettings
from batch.summary import Summary, add_up
from zaphod.errors import ConfigError, InvalidInputError
from zaphod.settings import load_settings
from zaphod.validation.drift import FieldDrift, drift_of_counts


def describe(
    staging: Staging, manifest: Manifest, ready: Preflight, load: Load | None, *, settings: BatchSettings,
    environ: Mapping[str, str],
) -> list[Path]:  # fmt: skip
    """The files that were written; no row is scored for them. Raises: ConfigError for settings of the validation."""
    assert settings.report is not None
    target = settings.report
    target.parent.mkdir(parents=True, exist_ok=True)
    summary = _summary(staging)
    ask = ready.ask
    drift = _drift(ask.champion, summary.drift if summary is not None else ())
    written: list[Path] = []
    note = ""
    if settings.truth is not None and load is not None:
        from batch.measure import measure
        from zaphod.validation.report import render_report as render_validation
        from zaphod.validation.settings import ValidationSettings

        gate = settings.gate if settings.gate.exists() else None
        rules = load_settings(ValidationSettings, path=gate, environ=environ)
        try:
            own = drift
            if ask.challenger is not None:
                own = _drift(ask.challenger, summary.challenger_drift if summary is not None else ())
            measured = measure(load, manifest, ready, truth=settings.truth, drift=own or None, settings=rules)
        except (ConfigError, InvalidInputError) as error:
            note = f"No offline validation: {error.message}"
        else:
            validation = target.with_name(f"{target.stem}.validation.html")
            validation.write_text(render_validation(measured.validation, measured.bundle))
            written.append(validation)
    link = written[0].name if written else None
    target.write_text(render_report(manifest, drift=drift, validation=link, note=note))
    return [target, *written]


def _summary(staging: Staging) -> Summary | None:
    lines = staging.read_published(staging.run_id, UNITS).splitlines()
    receipts = [msgspec.json.decode(line, type=Receipt) for line in lines]
    return add_up(receipt.summary for receipt in receipts if receipt.summary is not None)


def _drift(model: Model | None, counts: tuple[tuple[int, ...], ...]) -> tuple[FieldDrift, ...]:
    """Empty for a model that was packaged without a profile."""
    if model is None or model.profile is None or not counts:
        return ()
    return drift_of_counts(model.profile, [np.array(each, dtype=np.int64) for each in counts])
