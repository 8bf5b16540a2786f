"""docs/supported-models.md says what the compiler does."""

from __future__ import annotations

import pytest
from sklearn.pipeline import Pipeline

from tests.unit.compiler import catalogue
from tests.unit.compiler.cases import CASES

ON_PAGE = catalogue.engines_on_page()


def test_the_page_lists_every_pipeline_once() -> None:
    """A pipeline that was added, removed or renamed shows in the page."""
    assert list(ON_PAGE) == [(case.section, case.name) for case in CASES], "run python -m tests.unit.compiler.catalogue"


def test_the_page_keeps_its_promise() -> None:
    """Thirty estimators and fifteen transformers or more are served compiled."""
    served = [case for case in CASES if ON_PAGE[case.section, case.name] == "onnx"]
    estimators = {type(case.estimator.steps[-1][1]) for case in served if isinstance(case.estimator, Pipeline)}
    transformers = {case.name for case in served if "Transformers" in case.section or "Encoders" in case.section}

    assert len(estimators) >= 30
    assert len(transformers) >= 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_page_holds() -> None:
    """Every engine on the page is what proving the pipeline again gives."""
    entries = [catalogue.measure(case, num_rows=3000) for case in CASES]

    assert {(entry.case.section, entry.case.name): entry.engine for entry in entries} == ON_PAGE
