"""The verdict: which facts pass and which rule each broken one fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zaphod.reporting.interval import Interval
from zaphod.validation import metrics
from zaphod.validation.calibration import Calibration
from zaphod.validation.compatibility import SchemaChange
from zaphod.validation.drift import FieldDrift
from zaphod.validation.gate import Facts, judge
from zaphod.validation.latency import Latency
from zaphod.validation.measured import Comparison, Measured, ModelMetrics, Role
from zaphod.validation.settings import MetricRule, ValidationSettings
from zaphod.validation.slices import Slice, SliceReport
from zaphod.validation.verdict import Status


def interval(value: float, *, half_width: float = 0.01) -> Interval:
    """Symmetric."""
    return Interval(value=value, low=value - half_width, high=value + half_width)


def model(*, auc: float = 0.9, half_width: float = 0.01) -> ModelMetrics:
    """A binary classifier's metrics that the default rules ask for."""
    return ModelMetrics(
        role=Role.CANDIDATE,
        metrics=(
            Measured(metric=metrics.ROC_AUC, interval=interval(auc, half_width=half_width)),
            Measured(metric=metrics.LOG_LOSS, interval=interval(0.3)),
        ),
    )


def against(role: Role, *, auc: float = 0.05, log_loss: float = 0.05, half_width: float = 0.01) -> Comparison:
    """How much better than another model."""
    return Comparison(
        role=role,
        gains=(
            Measured(metric=metrics.ROC_AUC, interval=interval(auc, half_width=half_width)),
            Measured(metric=metrics.LOG_LOSS, interval=interval(log_loss)),
        ),
    )


def slices(*, drop_low: float = -0.02, champion_gain_high: float | None = 0.05) -> SliceReport:
    """One slice."""
    worst = Slice(
        field="kind", label="a", num_rows=500, value=0.8, low=0.75, high=0.85, drop=drop_low + 0.04, drop_low=drop_low,
        drop_high=drop_low + 0.08, p_value=0.2, champion_gain=0.0, champion_gain_high=champion_gain_high,
    )  # fmt: skip
    return SliceReport(metric=metrics.ROC_AUC, overall=0.85, slices=(worst,), num_small=0, min_rows=100)


def calibration(*, ece: float, noise: float = 0.01) -> Calibration:
    """With no bins: the verdict does not look at them."""
    return Calibration(
        ece=ece,
        ece_noise=noise,
        spiegelhalter_z=0.0,
        spiegelhalter_p=1.0,
        mean_predicted=0.4,
        mean_observed=0.4,
        bins=(),
    )


def drift(*, psi: float, noise: float = 0.01) -> tuple[FieldDrift, ...]:
    """One field."""
    return (FieldDrift(name="amount", is_output=False, psi=psi, noise=noise, bins=()),)


def latency(*, p99_ms: float) -> Latency:
    """Of one row."""
    return Latency(p50_ms=p99_ms / 3, p99_ms=p99_ms, num_calls=1000, engine="onnx", machine="test")


GOOD = Facts(
    num_rows=5000,
    num_rejected=0,
    candidate=model(),
    against_champion=against(Role.CHAMPION),
    has_champion=True,
    champion_note="",
    against_dummy=against(Role.DUMMY, auc=0.4),
    against_linear=against(Role.LINEAR),
    slices=slices(),
    calibration=calibration(ece=0.02),
    drift=drift(psi=0.02),
    latency=latency(p99_ms=0.3),
    bundle_bytes=1_000_000,
    schema_changes=(),
)
SETTINGS = ValidationSettings()


def failed(facts: Facts, settings: ValidationSettings = SETTINGS) -> list[str]:
    """Names of the checks that failed; the verdict agrees with them."""
    verdict = judge(facts, settings)
    names = [check.name for check in verdict.checks if check.status is Status.FAILED]
    assert verdict.passed == (not names)
    assert len(verdict.reasons) == len(names)
    return names


def test_good_facts_pass_every_check() -> None:
    """And each check says what was found."""
    verdict = judge(GOOD, SETTINGS)

    assert failed(GOOD) == []
    assert all(check.detail and check.status is Status.PASSED for check in verdict.checks)


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"num_rows": 199}, "enough rows"),
        ({"num_rejected": 60}, "rows fit the schema"),
        ({"candidate": model(auc=0.705)}, "ROC AUC at least"),
        ({"against_champion": against(Role.CHAMPION, auc=-0.005)}, "ROC AUC against the champion"),
        ({"against_champion": against(Role.CHAMPION, log_loss=-0.011)}, "log loss against the champion"),
        ({"against_dummy": against(Role.DUMMY, auc=0.005)}, "better than a guess"),
        ({"against_linear": against(Role.LINEAR, auc=-0.011)}, "worth its complexity"),
        ({"slices": slices(drop_low=0.16)}, "worst slice"),
        ({"slices": slices(champion_gain_high=-0.001)}, "no slice worse than the champion"),
        ({"calibration": calibration(ece=0.06)}, "calibration"),
        ({"drift": drift(psi=0.26)}, "drift from training"),
        ({"latency": latency(p99_ms=51.0)}, "latency"),
        ({"bundle_bytes": 500_000_001}, "bundle size"),
        ({"schema_changes": (SchemaChange(where="age", what="removed", breaks=True),)}, "schema fits the champion's"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_rule_fails_what_breaks_it_alone(change: dict[str, object], check: str) -> None:
    """The bounds of intervals decide, not their middles."""
    assert failed(replace(GOOD, **change)) == [check]


def test_noise_is_not_held_against_a_model() -> None:
    """Calibration error and drift that chance explains pass, however small the table."""
    facts = replace(GOOD, calibration=calibration(ece=0.08, noise=0.09), drift=drift(psi=0.4, noise=0.5))

    assert failed(facts) == []


def test_too_few_rows_to_tell_are_not_a_pass() -> None:
    """A wide interval fails a comparison with the champion, and the reason says that more rows would help."""
    facts = replace(GOOD, against_champion=against(Role.CHAMPION, auc=0.02, half_width=0.2))

    verdict = judge(facts, SETTINGS)

    assert failed(facts) == ["ROC AUC against the champion"]
    assert "more rows would narrow" in verdict.reasons[0]


def test_the_first_version_has_nothing_to_compare_with() -> None:
    """Those checks are skipped with the reason, and do not fail it."""
    facts = replace(
        GOOD, against_champion=None, has_champion=False, champion_note="the model has no champion yet",
        schema_changes=None, slices=slices(champion_gain_high=None),
    )  # fmt: skip

    skipped = [check for check in judge(facts, SETTINGS).checks if check.status is Status.SKIPPED]

    assert failed(facts) == []
    assert {check.detail for check in skipped} == {"the model has no champion yet"}
    assert len(skipped) == 4


def test_a_champion_that_cannot_be_compared_fails_the_version() -> None:
    """A change of task or classes must not slip by the comparison."""
    facts = replace(GOOD, against_champion=None, champion_note="the champion tells other classes apart")

    assert set(failed(facts)) == {
        "ROC AUC against the champion",
        "log loss against the champion",
        "no slice worse than the champion",
    }


def test_rules_can_be_switched_off_and_added() -> None:
    """Null switches a limit off; a rule on a metric that the task does not have is left out."""
    broken = replace(
        GOOD, calibration=calibration(ece=0.5), drift=drift(psi=9.0), slices=slices(drop_low=0.9), bundle_bytes=10**12
    )
    lenient = ValidationSettings(
        metrics=(MetricRule(metric="r2", at_least=0.9), MetricRule(metric="log_loss", at_most=0.305)),
        ece_at_most=None, psi_at_most=None, worst_slice_drop_at_most=None, bundle_mb_at_most=None,
    )  # fmt: skip

    assert failed(broken, lenient) == ["log loss at most"]


def test_what_was_not_measured_is_skipped() -> None:
    """A regressor has no calibration, a ready ONNX model of old has no profile, a small table has no slices."""
    nothing = SliceReport(metric=metrics.MAE, overall=None, slices=(), num_small=9, min_rows=100)
    facts = replace(GOOD, calibration=None, drift=None, slices=nothing, against_dummy=None, against_linear=None)

    skipped = {check.name for check in judge(facts, SETTINGS).checks if check.status is Status.SKIPPED}

    assert failed(facts) == []
    assert skipped == {
        "calibration", "drift from training", "worst slice", "no slice worse than the champion", "better than a guess",
        "worth its complexity",
    }  # fmt: skip
