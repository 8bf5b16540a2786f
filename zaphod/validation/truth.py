"""What really happened, read from the target column, and what models answered, in the same terms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.errors import InvalidInputError, SchemaMismatchError
from zaphod.outputs import label_columns
from zaphod.predictor import Predictions
from zaphod.schema import Label, Output, Schema, Task
from zaphod.validation.rows import Answers, Kind, Shape


def read_truth(table: pa.Table, *, targets: Sequence[str], output: Output) -> NDArray[np.float64]:
    """Shape (n_rows, n_targets): positions in the target's classes, 1 for an outlier (-1 in the table), or values.

    Empty for a clusterer. A null is NaN.

    Raises: SchemaMismatchError for a column of another type; InvalidInputError for an unknown label.
    """
    if output.task is Task.REGRESSION:
        return np.stack([_numbers(table.column(name), name=name) for name in targets], axis=1)
    if output.task is Task.CLUSTERING:
        return np.empty((table.num_rows, 0))
    name = targets[0]
    if output.task is Task.OUTLIER:
        values = _numbers(table.column(name), name=name)
        if not (np.isnan(values) | (np.abs(values) == 1)).all():
            raise InvalidInputError(
                f"Expected -1 for an outlier and 1 for all others, got another - at column `{name}`"
            )
        return np.where(np.isnan(values), np.nan, values == -1)[:, None]
    pairs = zip(targets, output.classes_by_target, strict=True)
    return np.stack([_codes(table.column(one), classes=classes, name=one) for one, classes in pairs], axis=1)


def to_answers(shape: Shape, schema: Schema, predictions: Predictions) -> Answers:
    """A model's predictions in the terms of the truth."""
    if shape.kind is Kind.REGRESSION:
        return Answers(values=predictions.values)
    assert predictions.labels is not None
    if shape.kind is Kind.OUTLIER:
        assert predictions.scores is not None
        return Answers(labels=(predictions.labels == -1).astype(np.float64), scores=-predictions.scores)
    scores = predictions.probabilities
    by_target = zip(label_columns(predictions.labels), schema.output.classes_by_target, strict=True)
    columns = [_positions(column, classes) for column, classes in by_target]
    if shape.kind is Kind.SEVERAL:
        return Answers(labels=np.stack(columns, axis=1), scores=scores)
    (labels,) = columns
    if scores is None:
        return Answers(labels=labels)
    return Answers(labels=labels, scores=scores[:, 1] if shape.kind is Kind.BINARY else scores)


def _positions(labels: NDArray[np.generic], classes: Sequence[Label]) -> NDArray[np.float64]:
    position = {_key(label): float(i) for i, label in enumerate(classes)}
    distinct, inverse = np.unique(labels, return_inverse=True)
    return np.array([position[_key(label)] for label in distinct.tolist()])[inverse]


def reorder(shape: Shape, answers: Answers, order: Sequence[int]) -> Answers:
    """A classifier's answers with its classes in another order. order: of each of its classes, the new position."""
    positions = np.array(order)
    if shape.kind not in (Kind.BINARY, Kind.MULTICLASS) or (positions == np.arange(len(order))).all():
        return answers
    assert answers.labels is not None
    labels = positions[answers.labels.astype(np.int64)].astype(np.float64)
    if answers.scores is None:
        return Answers(labels=labels)
    if shape.kind is Kind.BINARY:
        return Answers(labels=labels, scores=1.0 - answers.scores)
    scores = np.empty_like(answers.scores)
    scores[:, positions] = answers.scores
    return Answers(labels=labels, scores=scores)


def class_order(candidate: Output, other: Output) -> list[int] | None:
    """Of each class of the other model, its position in the candidate's; None when their classes differ.

    Empty of several targets, whose classes have to be in the same order.
    """
    if candidate.target_classes or other.target_classes:
        ours, theirs = ([list(map(_key, one)) for one in output.target_classes] for output in (candidate, other))
        return [] if ours == theirs else None
    position = {_key(label): i for i, label in enumerate(candidate.classes)}
    found = [position.get(_key(label)) for label in other.classes]
    order = [i for i in found if i is not None]
    return order if len(order) == len(found) == len(position) else None


def _key(label: Label) -> float | str:
    """Labels that are equal have equal keys: 1, 1.0 and true are one label, "1" is another."""
    return label if isinstance(label, str) else float(label)


def _codes(column: pa.ChunkedArray, *, classes: Sequence[Label], name: str) -> NDArray[np.float64]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    encoded = column.combine_chunks().dictionary_encode()
    position = {_key(label): float(i) for i, label in enumerate(classes)}
    try:
        found = [position.get(_key(label), -1.0) for label in encoded.dictionary.to_pylist()]
    except (TypeError, ValueError) as error:
        raise SchemaMismatchError(f"Expected labels, got {column.type} - at column `{name}`") from error
    indices = encoded.indices.to_numpy(zero_copy_only=False).astype(np.float64)
    null = np.isnan(indices)
    codes = np.array([*found, np.nan])[np.where(null, len(found), indices).astype(np.int64)]
    if (codes == -1).any():
        raise InvalidInputError(
            f"Expected one of the model's {len(position)} classes, got another in {int((codes == -1).sum())} rows - "
            f"at column `{name}`"
        )
    return codes


def _numbers(column: pa.ChunkedArray, *, name: str) -> NDArray[np.float64]:
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise SchemaMismatchError(f"Expected numbers, got {kind} - at column `{name}`")
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    # An infinite truth has no error; it counts as none.
    return np.where(np.isfinite(values), values, np.nan)
