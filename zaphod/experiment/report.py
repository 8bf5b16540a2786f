"""The report: one HTML file that needs nothing else, for readers who may never have seen an A/B test."""

from __future__ import annotations

import datetime

from zaphod.experiment import plots, wording
from zaphod.experiment.findings import MEANINGS, Findings, allowed, sentence
from zaphod.experiment.health import health_checks
from zaphod.experiment.plan import GuardrailPlan, MetricPlan
from zaphod.experiment.results import Effect, GuardrailResult, GuardState, PhaseResult
from zaphod.experiment.spec import Mode
from zaphod.experiment.verdict import Verdict
from zaphod.reporting.interval import Interval
from zaphod.reporting.page import badge, code, figure, p_text, page, table, text, tile

_STATES = {
    Verdict.PROMOTE: "passed",
    Verdict.ROLL_BACK: "failed",
    Verdict.GO_ON: "waiting",
    Verdict.INCONCLUSIVE: "skipped",
}
_WHO = {
    Mode.AB: "Each entity (a customer, an account) is answered by one of the two models, as if picked by lot.",
    Mode.SHADOW: "The champion answers everybody. The challenger scores the same rows unseen, and is only recorded.",
    Mode.INTERLEAVE: "Both models score every row, so that each entity is compared with itself.",
}
_GUARD_BADGES = {
    GuardState.WAITING: ("skipped", "too early"),
    GuardState.HELD: ("passed", "holds"),
    GuardState.BREACHED: ("failed", "breached"),
}


def render_report(findings: Findings) -> str:
    """The whole page."""
    experiment = findings.experiment
    body = "".join(
        [
            _head(findings),
            _tiles(findings),
            _effects(findings),
            _offline(findings),
            _guardrails(findings),
            _segments(findings),
            _exposure(findings),
            _phases(findings),
            _notes(findings),
        ]
    )
    return page(f"Experiment {experiment.id} of {experiment.model}", body)


def _head(findings: Findings) -> str:
    experiment, decision, phase = findings.experiment, findings.decision, findings.analysis.current
    state = _STATES[decision.verdict]
    for_s = findings.analysis.now_s - experiment.phases[0].started_s
    running = (
        f"Version {experiment.challenger} (challenger) against version {experiment.champion} (champion), "
        f"experiment {experiment.id}, read {_when(findings.analysis.now_s)} after {wording.duration(for_s)}. "
    )
    share = "" if experiment.mode is Mode.INTERLEAVE else f" The challenger's share is {phase.share:.0%} in this phase."
    reasons = "".join(f"<li>{code(sentence(reason))}</li>" for reason in decision.reasons)
    warnings = "".join(f"<li>{code(sentence(warning))}</li>" for warning in decision.warnings)
    return (
        f'<div class="top"><h1>{text(experiment.model)}</h1>{badge(state, findings.title)}</div>'
        f'<p class="soft">{text(running)}</p>'
        f'<div class="card verdict {state}"><p><strong>{text(MEANINGS[decision.verdict])}</strong></p>'
        f"<ul>{reasons}</ul>{f'<h3>Take care</h3><ul>{warnings}</ul>' if warnings else ''}</div>"
        f'<p class="soft lead">{text(_WHO[experiment.mode])}{text(share)}</p>'
    )


def _tiles(findings: Findings) -> str:
    phase, decision = findings.analysis.current, findings.decision
    tiles = []
    for metric, effect in list(zip(findings.plan.metrics, phase.effects, strict=True))[:2]:
        found, bounds = wording.difference(metric, effect.effect)
        levels = (
            f"champion {wording.level(metric, effect.champion)}, challenger {wording.level(metric, effect.challenger)}"
        )
        tiles.append(tile(metric.name, found, bounds and f"surely from {bounds}", levels))
    first = phase.effects[0]
    entities = f"{first.n_champion:,} champion, {first.n_challenger:,} challenger"
    if findings.analysis.mode.paired:
        entities = "each scored by both"
    tiles.append(tile("entities with a known outcome", f"{first.n:,}", entities))
    if decision.verdict is Verdict.GO_ON:
        left = "open" if decision.left_s is None else f"about {wording.duration(decision.left_s)}"
        needed = "" if decision.needed is None else f"at {decision.needed:,} entities, if the effect stays"
        tiles.append(tile("time left", left, needed))
    elif decision.verdict is Verdict.PROMOTE:
        tiles.append(tile("chance of this without a difference", _at_most(first.p_value), "however often one looks"))
    else:
        ran_s = findings.analysis.now_s - findings.experiment.phases[0].started_s
        tiles.append(tile("ran for", wording.duration(ran_s)))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _effects(findings: Findings) -> str:
    phase = findings.analysis.current
    cards = []
    for metric, effect in zip(findings.plan.metrics, phase.effects, strict=True):
        if not effect.looks:
            few = f"Nothing to draw yet: {effect.n_champion:,} and {effect.n_challenger:,} entities are complete."
            cards.append(figure(metric.name, few, ""))
            continue
        cards.append(figure(metric.name, _effect_caption(metric, effect), plots.effect_plot(effect.looks, metric)))
    lead = (
        "The line is the measured difference, challenger less champion. The band is where the true one is: it narrows "
        "as outcomes come in. Once the whole band is on one side of 0, the difference is no accident."
    )
    return f'<h2>What difference the challenger makes</h2><p class="soft lead">{lead}</p>{"".join(cards)}'


def _effect_caption(metric: MetricPlan, effect: Effect) -> str:
    better = "Higher is better" if metric.higher_is_better else "Lower is better"
    parts = [f"{better}."]
    if effect.usable and effect.relative.value is not None:
        parts.append(f"That is about {effect.relative.value:+.1%} of the champion's level.")
    if metric.margin:
        parts.append(f"Up to {wording.amount(metric, metric.margin)} worse is allowed.")
    if effect.variance_kept < 0.999:
        parts.append(f"The covariate explains {1 - effect.variance_kept:.0%} of the spread.")
    parts.append(f"Always-valid p {p_text(effect.p_value)}.")
    return " ".join(parts)


def _offline(findings: Findings) -> str:
    offline = findings.offline
    title = "<h2>What was expected before</h2>"
    if offline is None or not offline.gains:
        why = "no validation that compared this version with a champion was found"
        return f'{title}<div class="card"><p class="soft">Nothing to compare with: {why}.</p></div>'
    rows: list[plots.Row] = []
    for metric, effect in zip(findings.plan.metrics, findings.analysis.current.effects, strict=True):
        like = offline.like(metric)
        if like is None:
            continue
        rows.append(plots.Row(label=f"{like.title}, offline", note=like.gain.text(), interval=like.gain))
        online = _turned(effect.effect) if not metric.higher_is_better else effect.effect
        rows.append(plots.Row(label=f"{metric.name}, online", note=online.text(), interval=online))
    against = "" if offline.champion is None else f" against champion version {offline.champion}"
    text_ = f"The challenger's gains on its holdout{against}, measured {offline.created[:10]}; above 0 is better."
    if rows:
        drawn = plots.forest_plot(rows, title="offline and online", x_label="gain", notes="")
        caption = f"{text_} Where offline and online measure the same thing, they should agree."
        return f"{title}{figure('', caption, drawn)}"
    cells = "".join(
        f'<tr><td class="name">{text(one.title)}</td><td class="number">{text(one.gain.text())}</td></tr>'
        for one in offline.gains
    )
    below = f'<p class="soft">{text(text_)} No metric of this experiment measures the same thing.</p>'
    return f"{title}{table(('offline metric', 'gain'), cells, below=below)}"


def _guardrails(findings: Findings) -> str:
    if not findings.plan.guardrails:
        return ""
    rows = "".join(
        _guardrail_row(plan, result)
        for plan, result in zip(findings.plan.guardrails, findings.analysis.current.guardrails, strict=True)
    )
    lead = "Shares of predictions that must not rise. They are watched from the first minute, outcomes or not."
    head = ("guardrail", "", "champion", "challenger", "surely more by", "allowed")
    return f'<h2>Guardrails</h2><p class="soft lead">{lead}</p>{table(head, rows)}'


def _guardrail_row(plan: GuardrailPlan, result: GuardrailResult) -> str:
    state, label = _GUARD_BADGES[result.state]
    what = "failed predictions" if plan.bad == "failed" else f"slower than {plan.objective_ms:g} ms"
    low = result.difference.low
    more = "too early" if low is None else "nothing" if low <= 0 else f"{low:.2%}"
    return (
        f'<tr><td class="name">{text(plan.name)}<br><span class="soft">{text(what)}</span></td>'
        f"<td>{badge(state, label)}</td>"
        f'<td class="number">{result.champion:.2%}<br><span class="soft">of {result.predictions_champion:,}</span></td>'
        f'<td class="number">{result.challenger:.2%}<br>'
        f'<span class="soft">of {result.predictions_challenger:,}</span></td>'
        f'<td class="number">{more}</td><td>{text(allowed(plan))}</td></tr>'
    )


def _segments(findings: Findings) -> str:
    phase, metric = findings.analysis.current, findings.plan.metrics[0]
    if not findings.plan.segments:
        return ""
    title = "<h2>Is it the same for everyone?</h2>"
    if not phase.segments:
        text_ = f"No segment has {findings.plan.min_entities:,} complete entities of each variant yet."
        return f'{title}<div class="card"><p class="soft">{text_}</p></div>'
    caption = (
        "The difference within each segment; the dashed line is that of all. Among many segments some look "
        f"different by accident, so these intervals are wider: all {len(phase.segments)} hold together."
    )
    return title + figure("", caption, plots.segment_plot(phase.segments, phase.effects[0].effect, metric))


def _exposure(findings: Findings) -> str:
    phase = findings.analysis.current
    checks = health_checks(findings.plan, phase)
    rows = "".join(
        f'<tr><td class="name">{text(check.name)}</td><td>{badge(check.state, check.label)}</td>'
        f"<td>{code(check.detail)}</td></tr>"
        for check in checks
    )
    drawn = ""
    if len(phase.exposure) > 1:
        caption = "Entities that each variant has answered in this phase, counted once each."
        if findings.analysis.mode.paired:
            caption = "Entities that the champion has answered, and those that the challenger has scored too."
        drawn = figure("Who got what", caption, plots.exposure_plot(phase.exposure))
    lead = "Numbers are only worth as much as the experiment behind them: was the split right, did the outcomes arrive?"
    return (
        f'<h2>Is the experiment sound?</h2><p class="soft lead">{lead}</p><div class="grid">{drawn}'
        f"{table(('check', '', 'what was found'), rows)}</div>"
    )


def _phases(findings: Findings) -> str:
    phases = findings.analysis.phases
    if len(phases) < 2:
        return ""
    metric = findings.plan.metrics[0]
    rows = "".join(_phase_row(metric, phase) for phase in phases)
    lead = "The challenger's share was changed on the way. Each phase is judged for itself: mixed, they would mislead."
    head = ("phase", "from", "challenger's share", "entities", f"difference in {metric.name}", "decides")
    return f'<h2>Phases</h2><p class="soft lead">{lead}</p>{table(head, rows)}'


def _phase_row(metric: MetricPlan, phase: PhaseResult) -> str:
    effect = phase.effects[0]
    found, bounds = wording.difference(metric, effect.effect)
    return (
        f"<tr><td>{phase.number}</td><td>{text(_when(phase.started_s))}</td><td>{phase.share:.0%}</td>"
        f'<td class="number">{effect.n_champion:,} / {effect.n_challenger:,}</td>'
        f'<td class="number">{text(found)}<br><span class="soft">{text(bounds or "too early to say")}</span></td>'
        f"<td>{'about promotion' if phase.decides else 'may only roll back'}</td></tr>"
    )


def _notes(findings: Findings) -> str:
    plan = findings.plan
    return (
        f'<p class="note">“Surely” means: an experiment without any difference is called different in at most '
        f"{plan.alpha:.0%} of cases, however often one looks and whenever one stops (asymptotic confidence sequences, "
        f"normal mixture, tightest near {plan.planned_entities:,} entities). One observation is one entity: its "
        f"predictions in {wording.duration(plan.entity_window_s)} from the first, with outcomes that came within "
        f"{wording.duration(plan.outcome_window_s)}. No metric decides before {plan.min_entities:,} entities of each "
        "variant are complete. The same entity meets the same variant by HTTP, stream and batch.</p>"
    )


def _turned(one: Interval) -> Interval:
    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    return Interval(value=minus(one.value), low=minus(one.high), high=minus(one.low))


def _at_most(p_value: float) -> str:
    return f"at most {p_value:.1%}" if p_value >= 0.001 else "under 0.1%"


def _when(at_s: float) -> str:
    return f"{datetime.datetime.fromtimestamp(at_s, tz=datetime.UTC):%Y-%m-%d %H:%M} UTC"
