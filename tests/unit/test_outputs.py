"""Predictions as JSON and as tables."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from zaphod.errors import ConfigError
from zaphod.outputs import RowWriter, to_arrow, to_rows
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
    "labels of several": (
        Output(task=Task.CLASSIFICATION, targets=("a", "b"), target_classes=((0, 1), ("x", "y"))),
        Predictions(labels=np.array([[0, "y"], [1, "x"]], dtype=object)),
    ),
    "probabilities of several": (
        Output(task=Task.CLASSIFICATION, targets=("a", 'b "'), target_classes=((0, 1), (2, 3, 4)),
               has_probabilities=True),
        Predictions(labels=np.array([[0, 4]]), probabilities=np.array([[0.9, 0.1, 0.25, 0.25, 0.5]])),
    ),
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


@pytest.mark.parametrize("case", CASES)
def test_a_table_has_what_rows_have(case: str) -> None:
    """Column by column, under names that say target and class."""
    output, predictions = CASES[case]
    schema = Schema(fields=FIELDS, output=output)

    table = to_arrow(schema, predictions).to_pylist()

    flat = [dict(flatten(row)) for row in to_rows(schema, predictions)]
    assert table == flat


def flatten(row: dict[str, object]) -> list[tuple[str, object]]:
    """Names as in tables."""
    found: list[tuple[str, object]] = []
    for part, given in row.items():
        name = {"labels": "label", "values": "value", "probabilities": "probability"}.get(part, part)
        for key, value in given.items() if isinstance(given, dict) else [("", given)]:
            inner = value.items() if isinstance(value, dict) else [("", value)]
            found += [("_".join(filter(None, (name, key, last))), number) for last, number in inner]
    return found


@pytest.mark.parametrize(
    ("output", "what"),
    [
        ({"targets": ("a", "b"), "classes": (0, 1)}, "target_classes"),
        ({"targets": ("a", "b"), "target_classes": ((0, 1),)}, "classes of 1"),
        ({"targets": ("a", "b"), "target_classes": ((0, 1), ())}, "target_classes"),
        ({"targets": ("a",), "target_classes": ((0, 1),)}, "several"),
        ({"targets": ("a", "a"), "target_classes": ((0, 1), (0, 1))}, "different names"),
        ({"targets": ("a", "a_b"), "target_classes": (("b_c", "d"), ("c", "e"))}, "different names"),
        ({"task": Task.REGRESSION, "target_classes": ((0, 1),)}, "no target_classes"),
    ],
)
def test_targets_and_classes_have_to_fit(output: dict[str, object], what: str) -> None:
    """A schema that a person edited says what is wrong with it."""
    with pytest.raises(ConfigError, match=what):
        Schema(fields=FIELDS, output=Output(**{"task": Task.CLASSIFICATION} | output))  # type: ignore[arg-type]
