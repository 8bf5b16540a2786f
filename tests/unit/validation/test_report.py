"""The report and the card: whole, self-contained, and safe to open whatever a model's author wrote."""

from __future__ import annotations

import html.parser
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from tests import models
from zaphod.bundle import Bundle
from zaphod.packaging import package
from zaphod.registry import Registry
from zaphod.schema import LogPolicy
from zaphod.validation.card import render_card
from zaphod.validation.report import render_report
from zaphod.validation.results import Validation
from zaphod.validation.run import Request, Validated, validate_model
from zaphod.validation.settings import ValidationSettings

_VOID = {"meta", "br", "line", "rect", "circle", "polyline", "polygon", "link", "img"}
HOSTILE = '<script>alert("x")</script>'


class Page(html.parser.HTMLParser):
    """Headings, elements and attributes; whether every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.headings: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(data)
        self.text += data


@pytest.fixture(scope="module")
def validations(
    validated_registry: Registry, holdout: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Validated]:
    """One of each task, by model."""
    path = tmp_path_factory.mktemp("data") / "holdout.parquet"
    holdout.assign(odd=np.where((holdout["amount"] - 100).abs() > 60, -1, 1)).to_parquet(path)
    settings = ValidationSettings(replicates=100, latency_calls=20)
    return {
        reference: validate_model(
            validated_registry, Request(reference=reference, data=path, targets=targets), settings=settings
        )
        for reference, targets in (
            ("binary@2", ("binary",)), ("multiclass@1", ("multiclass",)), ("several@1", ("multiclass", "answer")),
            ("regressor@1", ("value",)), ("outlier@1", ("odd",)),
        )
    }  # fmt: skip


def page_of(validated: Validated) -> Page:
    """The report, parsed."""
    return Page(render_report(validated.validation, validated.bundle))


@pytest.mark.parametrize(
    ("reference", "pictures"),
    [
        ("binary@2", ("ROC curve", "Precision and recall", "Calibration", "Scores", "Thresholds", "Confusion matrix")),
        ("multiclass@1", ("Calibration", "Scores", "Confusion matrix", "Per class")),
        ("several@1", ("Scores of target_0", "Confusion matrix of target_0", "Per class of target_1")),
        ("regressor@1", ("Truth and prediction", "Error tolerance", "Residuals by prediction", "Residuals")),
        ("outlier@1", ("ROC curve", "Precision and recall", "Scores", "Confusion matrix")),
    ],
)
def test_each_task_has_the_pictures_people_expect(
    validations: dict[str, Validated], reference: str, pictures: tuple[str, ...]
) -> None:
    """In one well-formed page that asks nobody for anything: no script, no address."""
    page = page_of(validations[reference])

    assert page.open == []
    assert {*pictures, "Checks", "Metrics", "Slices", "Drift from training", "Model card"} <= set(page.headings)
    assert page.headings[0] == reference
    assert page.tags.count("svg") >= len(pictures) + 2
    assert page.addresses == []
    assert not {"script", "iframe", "link", "img"} & set(page.tags)


def test_the_page_and_the_card_say_the_verdict_and_each_reason(validations: dict[str, Validated]) -> None:
    """For those who read no table."""
    for validated in validations.values():
        verdict = validated.validation.verdict
        page, card = page_of(validated), render_card(validated.validation, validated.bundle)
        assert ("did not pass" in page.text) == (not verdict.passed)
        assert f"{'Passed' if verdict.passed else 'Did not pass'}: " in card
        for reason in verdict.reasons:
            assert reason.replace("`", "") in page.text
            assert f"- {reason}" in card


def test_the_card_has_the_sections_of_a_model_card(validations: dict[str, Validated]) -> None:
    """As Mitchell et al. name them, filled from the bundle and the validation."""
    validated = validations["binary@2"]

    card = render_card(validated.validation, validated.bundle)

    sections = [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")]
    assert sections == [
        "Intended use", "Inputs", "Evaluation data", "Training data", "Metrics", "Where it is weakest", "Gate",
        "Ethical considerations", "Caveats",
    ]  # fmt: skip
    for fact in (validated.bundle.sha256, validated.validation.holdout.data.sha256, "`amount`", "ROC AUC"):
        assert fact in card


def hostile(bundle: Bundle) -> Bundle:
    """The bundle with markup wherever an author may write."""
    fields = tuple(
        msgspec.structs.replace(field, description=HOSTILE, **({"categories": (HOSTILE,)} if field.is_string else {}))
        for field in bundle.schema.fields
    )
    return replace(
        bundle,
        schema=msgspec.structs.replace(bundle.schema, fields=fields),
        manifest=msgspec.structs.replace(bundle.manifest, description=HOSTILE, source_revision=HOSTILE),
    )


def test_markup_in_a_model_is_text(validations: dict[str, Validated]) -> None:
    """Descriptions, categories, slices and paths are shown, not run."""
    validated = validations["binary@2"]
    validation = msgspec.json.decode(
        validated.validation.to_json().replace(b': "kind"', b": " + msgspec.json.encode(HOSTILE)), type=Validation
    )

    page = Page(render_report(validation, hostile(validated.bundle)))

    assert "script" not in page.tags
    assert HOSTILE in page.text


def test_the_report_shows_no_value_of_a_field_that_may_not_be_logged(
    validated_registry: Registry, holdout: pd.DataFrame, tmp_path: Path
) -> None:
    """Neither its categories, nor slices by them, nor drift of each."""
    bundle = validated_registry.load("binary", 2)
    fields = tuple(
        msgspec.structs.replace(field, log=LogPolicy.DROP) if field.name == "kind" else field
        for field in bundle.schema.fields
    )
    private = Registry.open(str(tmp_path / "registry"))
    secret = holdout.assign(kind=holdout["kind"].map({"a": "secret-a", "b": "secret-b", "c": "secret-c"}))
    X = secret[["amount", "balance", "count", "kind"]]
    fitted = models.pipeline(LogisticRegression()).fit(X, secret["binary"])
    package(fitted, name="m", sample=X, registry=private, schema=msgspec.structs.replace(bundle.schema, fields=fields))
    secret.to_parquet(tmp_path / "h.parquet")

    done = validate_model(
        private,
        Request(reference="m@1", data=tmp_path / "h.parquet", targets=("binary",)),
        settings=ValidationSettings(replicates=100, latency_calls=20),
    )

    for text in (
        render_report(done.validation, done.bundle),
        render_card(done.validation, done.bundle),
        done.validation.to_json().decode(),
    ):
        assert "secret" not in text
