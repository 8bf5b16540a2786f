"""The report for a terminal: the verdict, the metrics, the guardrails and whether the experiment is sound."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from zaphod.experiment import wording
from zaphod.experiment.findings import MEANINGS, Findings, allowed, sentence
from zaphod.experiment.health import health_checks
from zaphod.experiment.plan import MetricPlan
from zaphod.experiment.results import Effect, GuardState
from zaphod.experiment.verdict import Verdict
from zaphod.reporting.interval import Interval

_COLOURS = {
    Verdict.PROMOTE: "green",
    Verdict.ROLL_BACK: "red",
    Verdict.GO_ON: "yellow",
    Verdict.INCONCLUSIVE: "bright_black",
}
_HEALTH_COLOURS = {"passed": "green", "failed": "red", "waiting": "yellow", "skipped": "bright_black"}
_GUARD_COLOURS = {GuardState.HELD: "green", GuardState.BREACHED: "red", GuardState.WAITING: "bright_black"}
_BAR = 31


def render_terminal(findings: Findings) -> Group:
    """To be printed with rich. Names are shown as they are, never as markup."""
    parts: list[RenderableType] = [_verdict(findings), _metrics(findings)]
    if findings.plan.guardrails:
        parts.append(_guardrails(findings))
    parts.append(_health(findings))
    return Group(*parts)


def _verdict(findings: Findings) -> Panel:
    experiment, decision, phase = findings.experiment, findings.decision, findings.analysis.current
    colour = _COLOURS[decision.verdict]
    lines = Text(MEANINGS[decision.verdict])
    for reason in decision.reasons:
        lines.append(f"\n• {sentence(reason)}")
    for warning in decision.warnings:
        lines.append(f"\n! {sentence(warning)}", style="yellow")
    if decision.left_s is not None:
        lines.append(f"\nAbout {wording.duration(decision.left_s)} left", style="bold")
        lines.append(f" (at {decision.needed:,} entities, if the effect stays).")
    who = (
        f"{experiment.model}@{experiment.challenger} against @{experiment.champion}, {experiment.mode}, "
        f"phase {phase.number} at {phase.share:.0%}"
    )
    return Panel(
        lines,
        title=Text(findings.title, style=f"bold {colour}"),
        title_align="left",
        subtitle=Text(f"{experiment.id}: {who}"),
        subtitle_align="left",
        border_style=colour,
    )


def _metrics(findings: Findings) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("metric", "champion", "challenger", "difference", "surely between", "0 is |", "p", "entities"):
        table.add_column(name, justify="left" if name in ("metric", "0 is |") else "right")
    for metric, effect in zip(findings.plan.metrics, findings.analysis.current.effects, strict=True):
        found, bounds = wording.difference(metric, effect.effect)
        table.add_row(
            Text(f"{metric.name} {'↑' if metric.higher_is_better else '↓'}"),
            wording.level(metric, effect.champion),
            wording.level(metric, effect.challenger),
            Text(found, style=_colour(metric, effect)),
            bounds or "too early",
            _bar(effect.effect, style=_colour(metric, effect)),
            f"{effect.p_value:.2g}",
            f"{effect.n:,}",
        )
    return table


def _bar(interval: Interval, *, style: str) -> Text:
    """The interval on a line with 0 in the middle."""
    if interval.value is None or interval.low is None or interval.high is None:
        return Text("")
    size = max(abs(interval.low), abs(interval.high)) or 1.0
    middle = _BAR // 2

    def place(value: float) -> int:
        return middle + round(value / size * middle)

    cells = [" "] * _BAR
    for i in range(place(interval.low), place(interval.high) + 1):
        cells[i] = "─"
    cells[middle] = "│"
    cells[place(interval.value)] = "●"
    return Text("".join(cells), style=style)


def _colour(metric: MetricPlan, effect: Effect) -> str:
    low, high = effect.effect.low, effect.effect.high
    if low is None or high is None or low <= 0 <= high:
        return ""
    return "green" if (low > 0) is metric.higher_is_better else "red"


def _guardrails(findings: Findings) -> Table:
    table = Table("guardrail", "", "champion", "challenger", "allowed", box=box.SIMPLE_HEAD, pad_edge=False)
    for plan, result in zip(findings.plan.guardrails, findings.analysis.current.guardrails, strict=True):
        table.add_row(
            Text(plan.name),
            Text(str(result.state), style=_GUARD_COLOURS[result.state]),
            _of(result.champion, result.predictions_champion),
            _of(result.challenger, result.predictions_challenger),
            allowed(plan),
        )
    return table


def _of(share: float, count: int) -> str:
    return f"{share:.2%} of {count:,}"


def _health(findings: Findings) -> Table:
    table = Table("check", "", "what was found", box=box.SIMPLE_HEAD, pad_edge=False)
    for check in health_checks(findings.plan, findings.analysis.current):
        table.add_row(check.name, Text(check.label, style=_HEALTH_COLOURS[check.state]), Text(check.detail))
    return table
