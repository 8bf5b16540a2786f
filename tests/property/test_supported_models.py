"""Every pipeline of docs/supported-models.md is served by the engine that the page says."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tests.unit.compiler import catalogue
from tests.unit.compiler.cases import CASES, Case
from zaphod.compiler import NotCompilable, compile_model
from zaphod.compiler.engine import OnnxPredictor
from zaphod.sklearn_predictor import SklearnPredictor

ON_PAGE = catalogue.engines_on_page()


def name_of(case: Case) -> str:
    """The test's id."""
    return f"{case.section}: {case.name}"


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_the_engine_on_the_page_is_the_engine(case: Case) -> None:
    """What the page says is compiled compiles and agrees on the training rows; what has no converter has none."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
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
        nothing = compiled.predict(rows.take(np.zeros(0, dtype=np.int64)))

    for name in ("labels", "probabilities", "values", "scores"):
        answer = getattr(got, name)
        assert answer is None or getattr(nothing, name).shape == (0, *answer.shape[1:])
    assert expected.labels is None or (np.asarray(got.labels) == np.asarray(expected.labels)).all()
    if expected.probabilities is not None:
        np.testing.assert_allclose(got.probabilities, expected.probabilities, atol=1e-9)
    for ours, theirs in ((got.values, expected.values), (got.scores, expected.scores)):
        if theirs is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9 * np.abs(theirs).max())
