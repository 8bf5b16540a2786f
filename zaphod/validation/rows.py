"""What validation keeps of each row: the truth, every model's answer and the slices it is in. Never the row itself."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zaphod.schema import Output, Task


class Kind(enum.StrEnum):
    """What there is to measure."""

    BINARY = "binary"
    MULTICLASS = "multiclass"
    REGRESSION = "regression"
    OUTLIER = "outlier"
    SEVERAL = "several"
    CLUSTERING = "clustering"


@dataclass(frozen=True, slots=True)
class Shape:
    """num_outputs: classes of a classifier, targets of a regressor, 1 of an outlier detector.

    Of a classifier of several targets num_outputs counts these; targets and num_classes say what each is.
    """

    kind: Kind
    has_scores: bool
    num_outputs: int
    targets: tuple[str, ...] = ()
    num_classes: tuple[int, ...] = ()

    @classmethod
    def of(cls, output: Output) -> Shape:
        match output.task:
            case Task.CLASSIFICATION if output.target_classes:
                return cls(
                    kind=Kind.SEVERAL,
                    has_scores=output.has_probabilities,
                    num_outputs=len(output.targets),
                    targets=output.targets,
                    num_classes=tuple(map(len, output.target_classes)),
                )
            case Task.CLASSIFICATION:
                kind = Kind.BINARY if len(output.classes) == 2 else Kind.MULTICLASS
                return cls(kind=kind, has_scores=output.has_probabilities, num_outputs=len(output.classes))
            case Task.REGRESSION:
                return cls(kind=Kind.REGRESSION, has_scores=False, num_outputs=len(output.targets))
            case Task.OUTLIER:
                return cls(kind=Kind.OUTLIER, has_scores=True, num_outputs=1)
            case Task.CLUSTERING:
                return cls(kind=Kind.CLUSTERING, has_scores=True, num_outputs=1)

    @property
    def num_truths(self) -> int:
        if self.kind is Kind.CLUSTERING:
            return 0
        return self.num_outputs if self.kind in (Kind.REGRESSION, Kind.SEVERAL) else 1

    @property
    def num_labels(self) -> int:
        return self.num_outputs if self.kind is Kind.SEVERAL else 1

    @property
    def num_score_columns(self) -> int:
        if not self.has_scores:
            return 0
        if self.kind is Kind.SEVERAL:
            return sum(self.num_classes)
        return self.num_outputs if self.kind is Kind.MULTICLASS else 1

    @property
    def width(self) -> int:
        """Numbers that one model's answer takes."""
        return self.num_outputs if self.kind is Kind.REGRESSION else self.num_labels + self.num_score_columns

    def by_target(self) -> tuple[Shape, ...]:
        """Each target of several as a classifier of its own."""
        return tuple(
            Shape(kind=Kind.MULTICLASS, has_scores=self.has_scores, num_outputs=count) for count in self.num_classes
        )


@dataclass(frozen=True, slots=True)
class Answers:
    """One model's answers to n_rows rows.

    labels: float64, shape (n_rows,): a classifier's position in `schema.output.classes`; 1 for an outlier, 0 for none;
        (n_rows, n_targets) of several; a cluster's number.
    scores: float64: probability of the second class (n_rows,); of each class (n_rows, n_classes), of several targets
        side by side; abnormality, larger is more abnormal (n_rows,); silhouette (n_rows,).
    values: float64, shape (n_rows, n_targets).
    """

    labels: NDArray[np.float64] | None = None
    scores: NDArray[np.float64] | None = None
    values: NDArray[np.float64] | None = None

    def by_target(self, shape: Shape) -> tuple[Answers, ...]:
        """Of several targets: the answers to each, contiguous."""
        assert self.labels is not None
        ends = np.cumsum(shape.num_classes).tolist()
        return tuple(
            Answers(
                labels=np.ascontiguousarray(self.labels[:, i]),
                scores=None if self.scores is None else np.ascontiguousarray(self.scores[:, end - count : end]),
            )
            for i, (end, count) in enumerate(zip(ends, shape.num_classes, strict=True))
        )


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of the holdout, reduced to what statistics need.

    truth: float64, shape (n_rows, n_truths), in the terms of `Answers.labels` or `.values`.
    answers: one per model, the candidate first.
    codes: int16, shape (n_rows, n_axes): which slice of each axis the row is in; -1 for none.
    """

    truth: NDArray[np.float64]
    answers: tuple[Answers, ...]
    codes: NDArray[np.int16]

    @property
    def num_rows(self) -> int:
        return int(self.truth.shape[0])

    def by_target(self, shape: Shape) -> tuple[Rows, ...]:
        """Of several targets: the rows as each sees them, with the first model's answers."""
        parts = enumerate(self.answers[0].by_target(shape))
        return tuple(Rows(truth=self.truth[:, i : i + 1], answers=(part,), codes=self.codes) for i, part in parts)


def pack(shape: Shape, rows: Rows) -> NDArray[np.float64]:
    """Truth and answers side by side, shape (n_rows, n_truths + n_models * width)."""
    parts = [rows.truth]
    for answers in rows.answers:
        if shape.kind is Kind.REGRESSION:
            assert answers.values is not None
            parts.append(answers.values)
            continue
        assert answers.labels is not None
        parts.append(answers.labels.reshape(rows.num_rows, shape.num_labels))
        if shape.has_scores:
            assert answers.scores is not None
            parts.append(answers.scores.reshape(rows.num_rows, shape.num_score_columns))
    return np.concatenate(parts, axis=1)


def unpack(shape: Shape, numbers: NDArray[np.float64], codes: NDArray[np.int16]) -> Rows:
    """The reverse of `pack`."""
    starts = range(shape.num_truths, numbers.shape[1], shape.width)
    answers = tuple(_answers(shape, numbers[:, start : start + shape.width]) for start in starts)
    return Rows(truth=numbers[:, : shape.num_truths], answers=answers, codes=codes)


def _answers(shape: Shape, part: NDArray[np.float64]) -> Answers:
    if shape.kind is Kind.REGRESSION:
        return Answers(values=part)
    if shape.kind is Kind.SEVERAL:
        labels, scores = part[:, : shape.num_labels], part[:, shape.num_labels :]
        return Answers(labels=labels, scores=scores if shape.has_scores else None)
    labels = np.ascontiguousarray(part[:, 0])
    if not shape.has_scores:
        return Answers(labels=labels)
    return Answers(
        labels=labels, scores=part[:, 1:] if shape.kind is Kind.MULTICLASS else np.ascontiguousarray(part[:, 1])
    )
