"""Predictions as the arms give them out: JSON-able rows (HTTP, events) and an Arrow table (batch)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.predictor import Predictions
from zaphod.schema import Output, Schema

JsonScalar: TypeAlias = int | float | bool | str | None
ByName: TypeAlias = "dict[str, JsonScalar]"
PredictionRow: TypeAlias = "dict[str, JsonScalar | ByName | dict[str, ByName]]"


def to_rows(schema: Schema, predictions: Predictions) -> list[PredictionRow]:
    """One dict a row, what the task has: `label`, `probabilities` by class, `value`, `score`.

    Of several targets `labels`, `probabilities` and `values`, each by target.
    """
    output = schema.output
    several = len(output.targets) > 1
    parts: list[Iterable[tuple[str, JsonScalar | ByName | dict[str, ByName]]]] = []
    if predictions.labels is not None:
        if several:
            parts.append(
                [("labels", dict(zip(output.targets, row, strict=True))) for row in predictions.labels.tolist()]
            )
        else:
            parts.append([("label", label) for label in predictions.labels.tolist()])
    if predictions.probabilities is not None:
        by_target = [
            [dict(zip(map(str, classes), row, strict=True)) for row in part.tolist()]
            for classes, part in zip(output.classes_by_target, split(output, predictions.probabilities), strict=True)
        ]
        if several:
            rows = zip(*by_target, strict=True)
            parts.append([("probabilities", dict(zip(output.targets, row, strict=True))) for row in rows])
        else:
            parts.append([("probabilities", row) for row in by_target[0]])
    if predictions.values is not None:
        if several:
            parts.append(
                [("values", dict(zip(output.targets, row, strict=True))) for row in predictions.values.tolist()]
            )
        else:
            parts.append([("value", row[0]) for row in predictions.values.tolist()])
    if predictions.scores is not None:
        parts.append([("score", score) for score in predictions.scores.tolist()])
    return [dict(row) for row in zip(*parts, strict=True)]


def split(output: Output, probabilities: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The probabilities of each target, shape (n_rows, n_classes) each."""
    ends = itertools.accumulate(len(classes) for classes in output.classes_by_target)
    return [probabilities[:, end - len(c) : end] for end, c in zip(ends, output.classes_by_target, strict=True)]


class RowWriter:
    """What `to_rows` gives, as structs generated from the schema: the same JSON, several times sooner."""

    def __init__(self, schema: Schema) -> None:
        self._output = schema.output
        self._single = len(schema.output.targets) == 1
        self._probabilities = [
            maker("Probabilities", [str(label) for label in classes]) for classes in schema.output.classes_by_target
        ]
        self._by_target = maker("Targets", list(schema.output.targets))
        self._rows: dict[tuple[str, ...], type[msgspec.Struct]] = {}

    def rows(self, predictions: Predictions) -> list[msgspec.Struct]:
        """One struct a row, for msgspec's encoder."""
        parts: dict[str, Iterable[object]] = {}
        if predictions.labels is not None:
            if self._single:
                parts["label"] = predictions.labels.tolist()
            else:
                parts["labels"] = itertools.starmap(self._by_target, predictions.labels.tolist())
        if predictions.probabilities is not None:
            parts["probabilities"] = self._probabilities_of(predictions.probabilities)
        if predictions.values is not None:
            if self._single:
                parts["value"] = predictions.values[:, 0].tolist()
            else:
                parts["values"] = itertools.starmap(self._by_target, predictions.values.tolist())
        if predictions.scores is not None:
            parts["score"] = predictions.scores.tolist()
        names = tuple(parts)
        row = self._rows.get(names)
        if row is None:
            row = self._rows[names] = msgspec.defstruct("Row", names, gc=False)
        return list(map(row, *parts.values()))

    def _probabilities_of(self, probabilities: NDArray[np.float64]) -> Iterable[object]:
        if self._single:
            return itertools.starmap(self._probabilities[0], probabilities.tolist())
        parts = split(self._output, probabilities)
        made = [itertools.starmap(one, part.tolist()) for one, part in zip(self._probabilities, parts, strict=True)]
        return map(self._by_target, *made)


def maker(name: str, fields: Sequence[str]) -> Callable[..., object]:
    """Makes of one value a field, in their order, what msgspec writes as a dictionary of them, several times sooner."""
    rename = {f"f{i}": field for i, field in enumerate(fields)}
    try:
        return msgspec.defstruct(name, [(attribute, object) for attribute in rename], rename=rename, gc=False)
    except ValueError:  # a name with a quotation mark or the like
        return lambda *values: dict(zip(fields, values, strict=True))


def to_arrow(schema: Schema, predictions: Predictions) -> pa.Table:
    """Columns `label`, `probability_<class>`, `value`, `score`: what the task has.

    Of several targets `label_<target>`, `probability_<target>_<class>`, `value_<target>`.
    """
    return pa.table({name: pa.array(values) for name, values in columns_of(schema.output, predictions)})


def columns_of(output: Output, predictions: Predictions) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """The columns of `to_arrow`, shape (n_rows,) each."""
    if predictions.labels is not None:
        yield from zip(output.label_names, label_columns(predictions.labels), strict=True)
    if predictions.probabilities is not None:
        yield from zip(output.probability_names, predictions.probabilities.T, strict=True)
    if predictions.values is not None:
        yield from zip(output.value_names, predictions.values.T, strict=True)
    if predictions.scores is not None:
        yield "score", predictions.scores


def label_columns(labels: NDArray[np.generic]) -> Iterable[NDArray[np.generic]]:
    """The labels of each target, shape (n_rows,) each."""
    return (labels,) if labels.ndim == 1 else labels.T
