"""docs/supported-models.md says what the compiler does."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import threadpoolctl
from sklearn.pipeline import Pipeline

from tests.unit.compiler import catalogue
from tests.unit.compiler.cases import CASES, Case
from zaphod.compiler import NotCompilable, compile_model
from zaphod.compiler.engine import OnnxPredictor
from zaphod.sklearn_predictor import SklearnPredictor

ON_PAGE = catalogue.engines_on_page()


def name_of(case: Case) -> str:
    """The test's id."""
    return f"{case.section}: {case.name}"


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


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_engine_on_the_page_is_the_engine(case: Case) -> None:
    """What the page says is compiled compiles and agrees on the training rows; what has no converter has none."""
    with threadpoolctl.threadpool_limits(1), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        model, schema, rows = catalogue.fit(case, 300)
        try:
            compiled = OnnxPredictor(compile_model(model, schema).model, schema)
        except NotCompilable:
            assert ON_PAGE[case.section, case.name] == "sklearn"
            return
        if ON_PAGE[case.section, case.name] == "sklearn":
            return  # it compiles, and parity refuses it: on more rows than are compared here
        got, expected = compiled.predict(rows), SklearnPredictor(model, schema).predict(rows)

    assert expected.labels is None or (np.asarray(got.labels) == np.asarray(expected.labels)).all()
    if expected.probabilities is not None:
        np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-9)
    for ours, theirs in ((got.values, expected.values), (got.scores, expected.scores)):
        if theirs is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_page_holds() -> None:
    """Every engine on the page is what proving the pipeline again gives."""
    with threadpoolctl.threadpool_limits(1):
        entries = [catalogue.measure(case, num_rows=3000) for case in CASES]

    assert {(entry.case.section, entry.case.name): entry.engine for entry in entries} == ON_PAGE
