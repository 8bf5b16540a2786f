"""The reports: whole in themselves, escaped, and saying what was decided."""

from __future__ import annotations

import html.parser
import json

import msgspec
import pytest
from rich.console import Console

from tests.experiments import CONVERTED, PLAN, SLOW, START_S, experiment, pairs, phase
from zaphod.experiment.analysis import analyse
from zaphod.experiment.findings import Findings
from zaphod.experiment.offline import Offline
from zaphod.experiment.plan import MetricPlan, Plan
from zaphod.experiment.report import render_report
from zaphod.experiment.samples import PhaseData
from zaphod.experiment.spec import Mode
from zaphod.experiment.terminal import render_terminal
from zaphod.experiment.verdict import decide

HOSTILE = '<script>alert("x")</script>[bold]&'
VALIDATION = msgspec.json.encode(
    {
        "created": "2026-11-20T10:00:00+00:00",
        "champion": {"name": "churn", "version": 7},
        "comparisons": [
            {
                "role": "champion",
                "gains": [
                    {
                        "metric": {"name": "accuracy", "title": "accuracy", "higher_is_better": True},
                        "interval": {"value": 0.012, "low": 0.004, "high": 0.02, "standard_error": 0.004},
                    }
                ],
            },
            {"role": "dummy", "gains": []},
        ],
    }
)
RIGHT = Plan(metrics=(MetricPlan(name="right answers", kind="ratio", measure="correct"),))


def findings(
    plan: Plan,
    *phases: PhaseData,
    mode: Mode = Mode.AB,
    shares: tuple[float, ...] = (0.5,),
    offline: Offline | None = None,
) -> Findings:
    """Judged as the commands do it."""
    analysis = analyse(plan, mode, phases, now_s=START_S + 20_000)
    return Findings(experiment(plan, mode=mode, shares=shares), plan, analysis, decide(plan, analysis), offline)


def printed(found: Findings) -> str:
    """What the terminal shows."""
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render_terminal(found))
    return console.export_text()


class _Tags(html.parser.HTMLParser):
    """Collects what a browser would open and close, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


ALL = {
    "promoted after a ramp": (
        findings(PLAN, phase(share=0.05), phase(number=2, challenger=0.135), shares=(0.05, 0.5)),
        "promote the challenger",
    ),
    "rolled back": (
        findings(Plan(metrics=(CONVERTED,), guardrails=(SLOW,)), phase(bad=((0.03, 0.12),))),
        "roll back the challenger",
    ),
    "waiting": (findings(PLAN, phase()), "go on"),
    "at its start": (findings(PLAN, phase(entities=0)), "go on"),
    "given up": (findings(PLAN.model_copy(update={"max_entities": 6_000}), phase()), "inconclusive"),
    "in the shadow": (
        findings(RIGHT, pairs(champion=0.82, challenger=0.835), mode=Mode.SHADOW, offline=Offline.read(VALIDATION)),
        "promote the challenger",
    ),
}


@pytest.mark.parametrize("name", ALL)
def test_a_page_needs_nothing_else_and_says_the_verdict(name: str) -> None:
    """Well-formed, without a script or anything to fetch, with the verdict and each reason."""
    found, title = ALL[name]
    page = render_report(found)
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.fetched == []
    assert not {"script", "link", "img", "iframe"} & tags.seen
    assert "nan" not in page.replace("finance", "")
    assert title in page
    for reason in found.decision.reasons:
        assert reason[1:].split("`")[-1].rstrip(".") in page.replace("&#x27;", "'")


@pytest.mark.parametrize("name", ALL)
def test_the_terminal_says_the_same(name: str) -> None:
    """The verdict, each reason's beginning and each metric."""
    found, title = ALL[name]
    text = " ".join(printed(found).split())
    assert title in text
    for metric in found.plan.metrics:
        assert metric.name in text
    for guardrail in found.plan.guardrails:
        assert guardrail.name in text


def test_names_given_by_users_are_shown_and_never_run() -> None:
    """In metrics, guardrails and segments; on the page escaped, in the terminal without markup."""
    plan = Plan(
        metrics=(CONVERTED.model_copy(update={"name": HOSTILE}),),
        guardrails=(SLOW.model_copy(update={"name": HOSTILE}),),
        segments=("country",),
    )
    data = phase(entities=6_000, bad=((0.03, 0.2),))
    found = findings(plan, data)
    hostile = msgspec.structs.replace(
        found.analysis.current,
        segments=tuple(
            msgspec.structs.replace(one, field=HOSTILE, label=HOSTILE) for one in found.analysis.current.segments
        ),
    )
    analysis = msgspec.structs.replace(found.analysis, phases=(hostile,))
    page = render_report(Findings(found.experiment, plan, analysis, found.decision))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert HOSTILE in printed(found)


def test_the_offline_expectation_stands_beside_what_was_measured() -> None:
    """Accuracy on the holdout beside right answers online; without a validation the page says so."""
    page = render_report(ALL["in the shadow"][0])
    assert "accuracy, offline" in page
    assert "0.0120 (0.0040 to 0.0200)" in page
    assert "right answers, online" in page
    assert "no validation that compared this version" in render_report(ALL["waiting"][0])


def test_machines_get_all_of_it() -> None:
    """The numbers alone, as JSON, with the plan in the experiment."""
    written = json.loads(ALL["promoted after a ramp"][0].to_json())
    assert written["decision"]["verdict"] == "promote"
    assert written["experiment"]["plan"]["metrics"][0]["name"] == "converted"
    assert [one["decides"] for one in written["analysis"]["phases"]] == [False, True]
