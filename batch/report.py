"""The report of a run: one HTML file that needs nothing else, made from what is published."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from batch.manifest import Manifest
from batch.progress import duration
from batch.quality import Comparison, Metrics, Quality
from zaphod.reporting.page import figure, page, table, text, tile
from zaphod.validation import plots
from zaphod.validation.drift import FieldDrift

# Above this index a change is usually taken as a large one (Siddiqi 2006).
_LARGE_PSI = 0.25
_DRIFTED_SHOWN = 4
_FILES_SHOWN = 50
_METRICS = ("accuracy", "log_loss", "rmse", "mae", "r2")


def render_report(manifest: Manifest, *, drift: Sequence[FieldDrift], validation: str | None, note: str) -> str:
    """The whole page. validation: where the offline validation's own report stands; note: why there is none."""
    quality = manifest.quality
    body = "".join(
        [
            _head(manifest),
            _tiles(manifest),
            _rejects(manifest),
            _comparison(manifest, quality, validation=validation, note=note),
            _drift(drift),
            _columns(quality),
            _run(manifest),
        ]
    )
    return page(f"Batch run {manifest.run_id}", body)


def _head(manifest: Manifest) -> str:
    model = manifest.model
    beside = f", beside it version {manifest.challenger.version}" if manifest.challenger is not None else ""
    return (
        f'<div class="top"><h1>{text(manifest.run_id)}</h1><span class="badge passed">published</span></div>'
        f'<p class="soft">{text(model.name)} version {model.version} (engine {text(model.engine)}, '
        f"bundle {text(model.bundle_sha256[:12])}){text(beside)}. "
        f"{text(manifest.timing.finished)}, zaphod {text(manifest.libraries['zaphod'])}.</p>"
    )


def _tiles(manifest: Manifest) -> str:
    timing = manifest.timing
    share = manifest.rows_rejected / manifest.rows_in if manifest.rows_in else 0.0
    size = sum(file.size_bytes for file in manifest.inputs)
    seconds = _seconds_between(timing.started, timing.finished)
    taken_over = timing.resumed_units + timing.carried_units
    tiles = [
        tile("rows in", f"{manifest.rows_in:,}", f"{len(manifest.inputs):,} files, {size / 1e6:,.1f} MB"),
        tile("predictions", f"{manifest.rows_out:,}", f"{len(manifest.files):,} files written"),
        tile("rejected", f"{manifest.rows_rejected:,}", f"{share:.2%} of the rows"),
        tile("rows a second", f"{timing.rows_per_s:,.0f}", "while scoring, all tasks together"),
        tile("took", duration(seconds), f"{taken_over:,} units taken over" if taken_over else ""),
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _rejects(manifest: Manifest) -> str:
    if not manifest.rejected:
        return ""
    ordered = sorted(manifest.rejected, key=lambda problem: -problem.rows)
    rows = "".join(
        f'<tr><td class="name"><code>{text(problem.field or "the file")}</code></td>'
        f'<td>{text(problem.reason)}</td><td class="number">{problem.rows:,}</td></tr>'
        for problem in ordered
    )
    corrupt = "".join(f"<li><code>{text(path)}</code></li>" for path in manifest.corrupt_files)
    below = f'<p class="soft">Files rejected whole:</p><ul>{corrupt}</ul>' if corrupt else ""
    return f"<h2>Rejected rows</h2>{table(('field', 'reason', 'rows'), rows, below=below)}"


def _comparison(manifest: Manifest, quality: Quality | None, *, validation: str | None, note: str) -> str:
    if quality is None or (quality.metrics is None and quality.comparison is None):
        return ""
    parts: list[str] = []
    found = quality.comparison
    if found is not None:
        parts.append(_agreement(manifest, found))
        parts.append(_measured([("champion", found.champion), ("challenger", found.challenger)]))
    else:
        parts.append(_measured([("model", quality.metrics)]))
    if validation is not None:
        link = text(validation)
        parts.append(
            f'<p>Intervals, paired tests, curves, calibration and the verdict: <a href="{link}">{link}</a>.</p>'
        )
    elif note:
        parts.append(f'<p class="soft">{text(note)}</p>')
    return f"<h2>How good</h2>{''.join(parts)}"


def _agreement(manifest: Manifest, found: Comparison) -> str:
    label = "" if found.same_label_share is None else f"the same label on {found.same_label_share:.3%} of them, and "
    challenger = manifest.challenger.version if manifest.challenger is not None else 0
    return (
        f"<p>Version {challenger} beside version {manifest.model.version}, on the {found.rows:,} rows that both "
        f"scored: {label}a mean distance of {found.mean_distance:.3g}, the largest {found.largest_distance:.3g}.</p>"
    )


def _measured(models: Sequence[tuple[str, Metrics | None]]) -> str:
    known = [(name, metrics) for name, metrics in models if metrics is not None]
    if not known:
        return ""
    rows = []
    for metric in _METRICS:
        values = [getattr(metrics, metric) for _, metrics in known]
        if any(value is not None for value in values):
            cells = "".join(f'<td class="number">{"" if value is None else f"{value:.5g}"}</td>' for value in values)
            rows.append(f'<tr><td class="name">{metric.replace("_", " ")}</td>{cells}</tr>')
    below = f'<p class="soft">Of {known[0][1].rows:,} rows whose truth is known.</p>'
    return table(("", *(name for name, _ in known)), "".join(rows), below=below)


def _drift(drift: Sequence[FieldDrift]) -> str:
    if not drift:
        return ""
    caption = (
        "How far the rows of this run are from those the model was trained on, by a fixed part of every batch. The "
        "black tick is what chance alone stays under in 99 of 100 runs, all fields together."
    )
    bars = figure("", caption, plots.drift_plot(drift, limit=_LARGE_PSI, current="this run"))
    worst = sorted(drift, key=lambda one: one.noise - one.psi)[:_DRIFTED_SHOWN]
    details = "".join(figure(one.name, f"PSI {one.psi:.3f}", plots.bins_plot(one, current="this run")) for one in worst)
    return f'<h2>Drift from training</h2>{bars}<div class="grid" style="margin-top:14px">{details}</div>'


def _columns(quality: Quality | None) -> str:
    if quality is None:
        return ""
    rows = "".join(
        f'<tr><td class="name"><code>{text(column.name)}</code></td>'
        f'<td class="number">{column.null_share:.2%}</td>'
        + "".join(
            f'<td class="number">{_number(value)}</td>' for value in (column.mean, column.minimum, column.maximum)
        )
        + "</tr>"
        for column in quality.columns
    )
    return f"<h2>Fields and outputs</h2>{table(('', 'null', 'mean', 'least', 'largest'), rows)}"


def _run(manifest: Manifest) -> str:
    timing = manifest.timing
    total = sum(timing.task_seconds.values())
    phases = "".join(
        f'<tr><td class="name">{text(phase)}</td><td class="number">{seconds:,.1f} s</td>'
        f'<td class="number">{seconds / total if total else 0.0:.0%}</td></tr>'
        for phase, seconds in timing.task_seconds.items()
    )
    inputs = "".join(
        f'<tr><td class="name"><code>{text(file.path)}</code></td><td class="number">{file.size_bytes:,}</td>'
        f'<td class="number">{"" if file.num_rows is None else f"{file.num_rows:,}"}</td></tr>'
        for file in manifest.inputs[:_FILES_SHOWN]
    )
    more = len(manifest.inputs) - _FILES_SHOWN
    below = f'<p class="soft">and {more:,} more, in manifest.json</p>' if more > 0 else ""
    libraries = ", ".join(f"{name} {version}" for name, version in manifest.libraries.items())
    return (
        f"<h2>Where the tasks' time went</h2>{table(('', 'seconds of all tasks', 'share'), phases)}"
        f"<h2>Input</h2>{table(('file', 'bytes', 'rows'), inputs, below=below)}"
        f'<p class="note">{text(libraries)}. Every setting and the sha256 of every file: manifest.json.</p>'
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _seconds_between(started: str, finished: str) -> float:
    begin, end = (datetime.datetime.fromisoformat(when) for when in (started, finished))
    return (end - begin).total_seconds()
