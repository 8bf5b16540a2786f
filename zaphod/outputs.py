"""Predictions as the arms give them out: JSON-able rows (HTTP, events) and an Arrow table (batch)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec
import pyarrow as pa

from zaphod.predictor import Predictions
from zaphod.schema import Schema

JsonScalar: TypeAlias = int | float | bool | str | None
PredictionRow: TypeAlias = dict[str, "JsonScalar | dict[str, JsonScalar]"]


def to_rows(schema: Schema, predictions: Predictions) -> list[PredictionRow]:
    """One dict a row, what the task has: `label`, `probabilities` by class, `value` (`values` by target), `score`."""
    parts: list[list[tuple[str, JsonScalar | dict[str, JsonScalar]]]] = []
    if predictions.labels is not None:
        parts.append([("label", label) for label in predictions.labels.tolist()])
    if predictions.probabilities is not None:
        classes = [str(label) for label in schema.output.classes]
        parts.append(
            [("probabilities", dict(zip(classes, row, strict=True))) for row in predictions.probabilities.tolist()]
        )
    if predictions.values is not None:
        targets = schema.output.targets
        if len(targets) == 1:
            parts.append([("value", row[0]) for row in predictions.values.tolist()])
        else:
            parts.append([("values", dict(zip(targets, row, strict=True))) for row in predictions.values.tolist()])
    if predictions.scores is not None:
        parts.append([("score", score) for score in predictions.scores.tolist()])
    return [dict(row) for row in zip(*parts, strict=True)]


class RowWriter:
    """What `to_rows` gives, as structs generated from the schema: the same JSON, several times sooner."""

    def __init__(self, schema: Schema) -> None:
        self._single = len(schema.output.targets) == 1
        self._probabilities = _struct("Probabilities", [str(label) for label in schema.output.classes])
        self._values = _struct("Values", list(schema.output.targets))
        self._rows: dict[tuple[str, ...], type[msgspec.Struct]] = {}

    def rows(self, predictions: Predictions) -> list[msgspec.Struct]:
        """One struct a row, for msgspec's encoder."""
        parts: dict[str, Iterable[object]] = {}
        if predictions.labels is not None:
            parts["label"] = predictions.labels.tolist()
        if predictions.probabilities is not None:
            parts["probabilities"] = itertools.starmap(self._probabilities, predictions.probabilities.tolist())
        if predictions.values is not None:
            if self._single:
                parts["value"] = predictions.values[:, 0].tolist()
            else:
                parts["values"] = itertools.starmap(self._values, predictions.values.tolist())
        if predictions.scores is not None:
            parts["score"] = predictions.scores.tolist()
        names = tuple(parts)
        row = self._rows.get(names)
        if row is None:
            row = self._rows[names] = msgspec.defstruct("Row", names, gc=False)
        return list(map(row, *parts.values()))


def _struct(name: str, fields: Sequence[str]) -> Callable[..., object]:
    """Makes an object of one value a field, in their order."""
    rename = {f"f{i}": field for i, field in enumerate(fields)}
    try:
        return msgspec.defstruct(name, [(attribute, object) for attribute in rename], rename=rename, gc=False)
    except ValueError:  # a name with a quotation mark or the like
        return lambda *values: dict(zip(fields, values, strict=True))


def to_arrow(schema: Schema, predictions: Predictions) -> pa.Table:
    """Columns `label`, `probability_<class>`, `value` (or `value_<target>`), `score`: what the task has."""
    arrays: dict[str, pa.Array] = {}
    if predictions.labels is not None:
        arrays["label"] = pa.array(predictions.labels)
    if predictions.probabilities is not None:
        for i, label in enumerate(schema.output.classes):
            arrays[f"probability_{label}"] = pa.array(predictions.probabilities[:, i])
    if predictions.values is not None:
        targets = schema.output.targets
        for i, target in enumerate(targets):
            arrays["value" if len(targets) == 1 else f"value_{target}"] = pa.array(predictions.values[:, i])
    if predictions.scores is not None:
        arrays["score"] = pa.array(predictions.scores)
    return pa.table(arrays)
