"""Predictions as JSON: structs and dicts give the same bytes."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from zaphod.outputs import RowWriter, to_rows
from zaphod.predictor import Predictions
from zaphod.schema import DType, Field, Output, Schema, Task

FIELDS = (Field(name="x", dtype=DType.FLOAT64),)
CASES = {
    "probabilities": (
        Output(task=Task.CLASSIFICATION, classes=(0, 1), has_probabilities=True),
        Predictions(labels=np.array([0, 1]), probabilities=np.array([[0.9, 0.1], [0.25, 0.75]])),
    ),
    "odd names": (
        Output(task=Task.CLASSIFICATION, classes=('a "b"', "class"), has_probabilities=True),
        Predictions(labels=np.array(['a "b"', "class"], dtype=object), probabilities=np.array([[1, 0], [0.5, 0.5]])),
    ),
    "labels": (Output(task=Task.CLASSIFICATION, classes=(False, True)), Predictions(labels=np.array([True, False]))),
    "value": (Output(task=Task.REGRESSION, targets=("y",)), Predictions(values=np.array([[1.5], [2.0]]))),
    "values": (Output(task=Task.REGRESSION, targets=("a", "b")), Predictions(values=np.array([[1.5, 1], [2, 3.0]]))),
    "scores": (Output(task=Task.OUTLIER), Predictions(labels=np.array([1, -1]), scores=np.array([0.1, -0.1]))),
    "no rows": (Output(task=Task.REGRESSION, targets=("y",)), Predictions(values=np.empty((0, 1)))),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_structs_write_what_dicts_do(case: str) -> None:
    """Both ways of writing predictions give the same JSON, byte for byte."""
    output, predictions = CASES[case]
    schema = Schema(fields=FIELDS, output=output)

    written = msgspec.json.encode(RowWriter(schema).rows(predictions))

    assert written == msgspec.json.encode(to_rows(schema, predictions))
