"""May this version be promoted? Pure: what was measured and the rules in, the verdict out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from zaphod.validation.calibration import Calibration
from zaphod.validation.compatibility import SchemaChange
from zaphod.validation.drift import FieldDrift
from zaphod.validation.latency import Latency
from zaphod.validation.measured import Comparison, ModelMetrics
from zaphod.validation.settings import MetricRule, ValidationSettings
from zaphod.validation.slices import Slice, SliceReport
from zaphod.validation.verdict import Check, Status, Verdict

_BYTES_PER_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the verdict rests on.

    against_champion is None when there is nothing to compare with, and champion_note says why; has_champion tells a
    champion that could not be compared, which is a failure, from none at all.
    """

    num_rows: int
    num_rejected: int
    candidate: ModelMetrics
    against_champion: Comparison | None
    has_champion: bool
    champion_note: str
    against_dummy: Comparison | None
    against_linear: Comparison | None
    slices: SliceReport
    calibration: Calibration | None
    drift: tuple[FieldDrift, ...] | None
    latency: Latency
    bundle_bytes: int
    schema_changes: tuple[SchemaChange, ...] | None


def judge(facts: Facts, settings: ValidationSettings) -> Verdict:
    """Applies every rule; never stops at the first."""
    checks = tuple(_checks(facts, settings))
    failed = [check for check in checks if check.status is Status.FAILED]
    return Verdict(passed=not failed, reasons=tuple(f"{one.name}: {one.detail}" for one in failed), checks=checks)


def _checks(facts: Facts, settings: ValidationSettings) -> Iterator[Check]:
    yield _check("enough rows", f"{facts.num_rows:,} rows, at least {settings.min_rows:,}",
                 passed=facts.num_rows >= settings.min_rows, value=facts.num_rows, limit=settings.min_rows)  # fmt: skip
    yield _rejects(facts, settings)
    for rule in settings.metrics:
        yield from _metric_checks(facts, rule)
    if settings.better_than_baseline:
        yield from _baseline_checks(facts)
    if settings.worst_slice_drop_at_most is not None:
        yield _slice_drop(facts.slices, limit=settings.worst_slice_drop_at_most)
    if settings.no_slice_worse_than_champion:
        yield _slice_champion(facts)
    if settings.ece_at_most is not None:
        yield _calibration(facts.calibration, limit=settings.ece_at_most)
    if settings.psi_at_most is not None:
        yield _drift(facts.drift, limit=settings.psi_at_most)
    if settings.latency_p99_ms_at_most is not None:
        p99, limit = facts.latency.p99_ms, settings.latency_p99_ms_at_most
        detail = f"p99 of one row {p99:.3g} ms, at most {limit:g} ms"
        yield _check("latency", detail, passed=p99 <= limit, value=p99, limit=limit)
    if settings.bundle_mb_at_most is not None:
        size, limit = facts.bundle_bytes / _BYTES_PER_MB, settings.bundle_mb_at_most
        yield _check(
            "bundle size", f"{size:.3g} MB, at most {limit:g} MB", passed=size <= limit, value=size, limit=limit
        )
    if settings.schema_compatible:
        yield _schema(facts)


def _rejects(facts: Facts, settings: ValidationSettings) -> Check:
    total = facts.num_rows + facts.num_rejected
    share, limit = facts.num_rejected / max(total, 1), settings.max_rejected_share
    detail = f"{facts.num_rejected:,} of {total:,} rows break the schema, at most {limit:.3g} of all"
    return _check("rows fit the schema", detail, passed=share <= limit, value=share, limit=limit)


def _metric_checks(facts: Facts, rule: MetricRule) -> Iterator[Check]:
    measured = next((one for one in facts.candidate.metrics if one.metric.name == rule.metric), None)
    if measured is None:
        return
    title, interval = measured.metric.title, measured.interval
    if rule.at_least is not None:
        detail = f"{interval.text()}; its lower bound must reach {rule.at_least:g}"
        yield _bound(f"{title} at least", detail, bound=interval.low, limit=rule.at_least, above=True)
    if rule.at_most is not None:
        detail = f"{interval.text()}; its upper bound must stay under {rule.at_most:g}"
        yield _bound(f"{title} at most", detail, bound=interval.high, limit=rule.at_most, above=False)
    if rule.not_worse_than_champion_by is not None:
        yield _against_champion(facts, rule.metric, title, margin=rule.not_worse_than_champion_by)


def _against_champion(facts: Facts, name: str, title: str, *, margin: float) -> Check:
    label = f"{title} against the champion"
    if facts.against_champion is None:
        return _uncompared(label, facts)
    gain = facts.against_champion.gain(name)
    if gain is None:
        return _skipped(label, "the champion does not have this metric")
    low = gain.interval.low
    passed = low is not None and low >= -margin
    detail = f"gain {gain.interval.text()}, must not be worse by more than {margin:g}"
    if not passed and (gain.interval.high or 0.0) >= 0:
        detail += "; too close to tell: more rows would narrow the interval"
    return _check(label, detail, passed=passed, value=low, limit=-margin)


def _baseline_checks(facts: Facts) -> Iterator[Check]:
    primary = facts.candidate.metrics[0].metric
    for comparison, title in (
        (facts.against_dummy, "better than a guess"),
        (facts.against_linear, "worth its complexity"),
    ):
        if comparison is None:
            yield _skipped(title, "no baseline for this task")
            continue
        gain = comparison.gain(primary.name)
        assert gain is not None
        if title == "better than a guess":
            low = gain.interval.low
            detail = f"{primary.title} gain over the dummy {gain.interval.text()}, must be surely above 0"
            yield _check(title, detail, passed=low is not None and low > 0, value=low, limit=0.0)
        else:
            high = gain.interval.high
            detail = f"{primary.title} gain over the linear baseline {gain.interval.text()}, must not be surely below 0"
            yield _check(title, detail, passed=high is not None and high >= 0, value=high, limit=0.0)


def _slice_drop(report: SliceReport, *, limit: float) -> Check:
    if not report.slices:
        return _skipped("worst slice", f"no slice has {report.min_rows} rows")
    worst = report.slices[0]
    detail = (
        f"{_named(worst)}: {report.metric.title} {worst.value:.4g}, worse than the other rows by {worst.drop:.3g} "
        f"({worst.drop_low:.3g} to {worst.drop_high:.3g}), not surely by more than {limit:g}"
    )
    return _check("worst slice", detail, passed=worst.drop_low <= limit, value=worst.drop_low, limit=limit)


def _slice_champion(facts: Facts) -> Check:
    title = "no slice worse than the champion"
    if facts.against_champion is None:
        return _uncompared(title, facts)
    compared = [one for one in facts.slices.slices if one.champion_gain_high is not None]
    if not compared:
        return _skipped(title, "no slice is large enough to compare")
    worst = min(compared, key=lambda one: one.champion_gain_high or 0.0)
    high = worst.champion_gain_high or 0.0
    detail = f"{_named(worst)}: {facts.slices.metric.title} gain {worst.champion_gain:.3g}, at best {high:.3g}"
    return _check(title, detail, passed=high >= 0, value=high, limit=0.0)


def _calibration(calibration: Calibration | None, *, limit: float) -> Check:
    if calibration is None:
        return _skipped("calibration", "the model does not give one probability a row")
    allowed = max(limit, calibration.ece_noise)
    detail = (
        f"expected calibration error {calibration.ece:.4f}, at most {limit:g} or chance ({calibration.ece_noise:.4f})"
    )
    return _check("calibration", detail, passed=calibration.ece <= allowed, value=calibration.ece, limit=allowed)


def _drift(drift: tuple[FieldDrift, ...] | None, *, limit: float) -> Check:
    if drift is None:
        return _skipped("drift from training", "the bundle has no profile.json")
    worst = max(drift, key=lambda one: one.psi - max(limit, one.noise))
    allowed = max(limit, worst.noise)
    detail = f"`{worst.name}` has the largest PSI, {worst.psi:.3f}, at most {limit:g} or chance ({worst.noise:.3f})"
    return _check("drift from training", detail, passed=worst.psi <= allowed, value=worst.psi, limit=allowed)


def _schema(facts: Facts) -> Check:
    if facts.schema_changes is None:
        return _skipped("schema fits the champion's", facts.champion_note)
    breaking = [change for change in facts.schema_changes if change.breaks]
    harmless = len(facts.schema_changes) - len(breaking)
    detail = "; ".join(f"`{change.where}` {change.what}" for change in breaking)
    detail = detail or f"{harmless or 'no'} changes, none breaks a caller"
    return _check("schema fits the champion's", detail, passed=not breaking)


def _bound(name: str, detail: str, *, bound: float | None, limit: float, above: bool) -> Check:
    passed = bound is not None and (bound >= limit if above else bound <= limit)
    return _check(name, detail, passed=passed, value=bound, limit=limit)


def _check(name: str, detail: str, *, passed: bool, value: float | None = None, limit: float | None = None) -> Check:
    status = Status.PASSED if passed else Status.FAILED
    return Check(name=name, status=status, detail=detail, value=value, limit=limit)


def _uncompared(name: str, facts: Facts) -> Check:
    if not facts.has_champion:
        return _skipped(name, facts.champion_note)
    return _check(name, f"cannot be compared: {facts.champion_note}", passed=False)


def _skipped(name: str, why: str) -> Check:
    return Check(name=name, status=Status.SKIPPED, detail=why)


def _named(one: Slice) -> str:
    return f"`{one.field}` {one.label} ({one.num_rows:,} rows)"
