"""The model card, filled from the bundle and a validation, so that it cannot go stale.

Sections as in Mitchell et al. 2019, Model Cards for Model Reporting, FAT*.
"""

from __future__ import annotations

from zaphod.bundle import Bundle
from zaphod.schema import Field, LogPolicy, Output
from zaphod.validation.measured import Role
from zaphod.validation.results import Validation
from zaphod.validation.verdict import Status

_WORST_SLICES = 5
_UNSTATED = "Not stated."


def render_card(validation: Validation, bundle: Bundle) -> str:
    """Markdown."""
    parts = [
        f"# Model card: {bundle.name}, version {bundle.version}\n",
        _details(validation, bundle),
        _section("Intended use", bundle.manifest.description or f"{_UNSTATED} Give `zaphod package` a description."),
        _section("Inputs", _inputs(bundle)),
        _section("Evaluation data", _data(validation)),
        _section("Training data", _training(validation, bundle)),
        _section("Metrics", _metrics(validation)),
        _section("Where it is weakest", _slices(validation)),
        _section("Gate", _gate(validation)),
        _section("Ethical considerations", f"{_UNSTATED} Slices above show how answers differ between groups of rows."),
        _section("Caveats", _caveats(validation)),
    ]
    return "\n".join(parts)


def _details(validation: Validation, bundle: Bundle) -> str:
    output = bundle.schema.output
    rows = [
        ("task", _task(output)),
        ("engine", bundle.manifest.engine),
        ("packaged", bundle.manifest.created),
        ("source revision", bundle.manifest.source_revision or "unknown"),
        ("bundle sha256", f"`{bundle.sha256}`"),
        ("size", f"{validation.bundle_bytes / 1e6:.3g} MB"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in bundle.manifest.libraries.items())),
        ("validated", f"{validation.created}, zaphod {validation.zaphod_version}"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"


def _task(output: Output) -> str:
    if output.target_classes:
        return f"{output.task} of {len(output.targets)} targets"
    return f"{output.task}, {len(output.classes)} classes" if output.classes else str(output.task)


def _inputs(bundle: Bundle) -> str:
    lines = ["| field | type | required | domain | description |", "|---|---|---|---|---|"]
    for field in bundle.schema.fields:
        required = "yes" if field.required else "no"
        lines.append(f"| `{field.name}` | {field.dtype} | {required} | {domain(field)} | {field.description or ''} |")
    return "\n".join(lines)


def domain(field: Field) -> str:
    """The values a field is known to take, in a few words; no categories of a field that may not be logged."""
    if field.categories is not None:
        shown = ", ".join(field.categories[:6]) if field.log is LogPolicy.KEEP else "not shown"
        more = (
            f" and {len(field.categories) - 6} more"
            if len(field.categories) > 6 and field.log is LogPolicy.KEEP
            else ""
        )
        return f"{len(field.categories)} categories: {shown}{more}"
    if field.minimum is not None and field.maximum is not None:
        return f"{field.minimum:g} to {field.maximum:g}"
    return ""


def _data(validation: Validation) -> str:
    holdout = validation.holdout
    names = ", ".join(f"`{name}`" for name in holdout.targets)
    return (
        f"{holdout.num_rows:,} rows of {holdout.data.num_files} file(s), sha256 `{holdout.data.sha256}`, "
        f"{f'truth in {names}' if names else 'without a truth'}. {holdout.num_rejected:,} rows broke the schema and "
        f"{holdout.num_unlabelled:,} had no label; they were not measured."
    )


def _training(validation: Validation, bundle: Bundle) -> str:
    if validation.drift is None:
        return f"{_UNSTATED} The bundle has no profile of it."
    worst = max(validation.drift, key=lambda one: one.psi)
    return (
        f"Its histograms are in `profile.json` of the bundle. The evaluation data differs most in `{worst.name}`: "
        f"PSI {worst.psi:.3f}, where chance alone stays under {worst.noise:.3f}."
    )


def _metrics(validation: Validation) -> str:
    candidate, champion = validation.models[0], validation.model(Role.CHAMPION)
    head = "| metric | this version |" + (
        f" champion (version {validation.champion.version}) |" if champion and validation.champion else ""
    )
    lines = [head, "|---|---|" + ("---|" if champion else "")]
    for i, one in enumerate(candidate.metrics):
        line = f"| {one.metric.title} | {one.interval.text()} |"
        lines.append(line + (f" {champion.metrics[i].interval.text()} |" if champion else ""))
    confidence = "Intervals are bootstrap intervals at the confidence of the gate's settings."
    return "\n".join([*lines, "", f"{confidence} Baselines: {validation.baseline_note}."])


def _slices(validation: Validation) -> str:
    report = validation.slices
    if not report.slices:
        return f"No slice has {report.min_rows} rows."
    lines = [f"| slice | rows | {report.metric.title} | worse than other rows by |", "|---|---|---|---|"]
    for one in report.slices[:_WORST_SLICES]:
        drop = f"{one.drop:+.3g} ({one.drop_low:.3g} to {one.drop_high:.3g})"
        lines.append(f"| `{one.field}` {one.label} | {one.num_rows:,} | {one.value:.4g} | {drop} |")
    return "\n".join([*lines, "", f"The worst of {len(report.slices)} slices; intervals hold for all together."])


def _gate(validation: Validation) -> str:
    verdict = validation.verdict
    num_passed = sum(check.status is Status.PASSED for check in verdict.checks)
    head = f"{'Passed' if verdict.passed else 'Did not pass'}: {num_passed} of {len(verdict.checks)} checks passed."
    return "\n".join([head, *(f"- {reason}" for reason in verdict.reasons)])


def _caveats(validation: Validation) -> str:
    caveats = [
        "The figures hold for rows like those of the evaluation data; nothing here tests other populations.",
        f"Latency was measured on the machine that validated ({validation.latency.machine}): "
        f"p50 {validation.latency.p50_ms:.3g} ms, p99 {validation.latency.p99_ms:.3g} ms a row.",
    ]
    if validation.champion_note:
        caveats.append(f"No comparison with a champion: {validation.champion_note}.")
    return "\n".join(f"- {line}" for line in caveats)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}\n"
