"""One pass over the holdout: every batch decoded, predicted by every model, and reduced to what statistics need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.bundle import Bundle
from zaphod.columns import Columns, Decoded, arrow_type, from_table
from zaphod.errors import InvalidInputError
from zaphod.predictor import Predictor
from zaphod.schema import Schema, Task
from zaphod.validation.baselines import NUM_FOLDS, Baseline, Sample
from zaphod.validation.clusters import Clusters
from zaphod.validation.data import Source
from zaphod.validation.drift import DriftCounter
from zaphod.validation.measured import Role
from zaphod.validation.rows import Answers, Rows, Shape
from zaphod.validation.sampling import RowSample, keys_of
from zaphod.validation.settings import ValidationSettings
from zaphod.validation.slices import Slicer
from zaphod.validation.spool import Spool
from zaphod.validation.truth import class_order, read_truth, reorder, to_answers

_LATENCY_ROWS = 256


@dataclass(frozen=True, slots=True)
class Contender:
    """A packaged model that takes part. order: of each of its classes, the candidate's position for it.

    clusters: of a clusterer.
    """

    role: Role
    bundle: Bundle
    predictor: Predictor
    order: tuple[int, ...] = ()
    clusters: Clusters | None = None

    @property
    def schema(self) -> Schema:
        return self.bundle.schema


@dataclass(slots=True)
class Counts:
    """Rows that were scored, and those that were not."""

    scored: int = 0
    rejected: int = 0
    champion_rejected: int = 0
    unlabelled: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Table:
    """A source with its targets, read in batches that hold what the schemas need."""

    source: Source
    targets: tuple[str, ...]
    schemas: tuple[Schema, ...]
    batch_rows: int

    def batches(self) -> Iterator[pa.Table]:
        """Raises: SchemaMismatchError when a required column or a target is missing."""
        fields = {one.name: one for schema in self.schemas for one in schema.fields}
        output = self.schemas[0].output
        types = {name: arrow_type(one) for name, one in fields.items()}
        if output.task is Task.CLASSIFICATION:
            pairs = zip(self.targets, output.classes_by_target, strict=True)
            types |= {name: pa.string() for name, classes in pairs if all(isinstance(one, str) for one in classes)}
        yield from self.source.batches(
            batch_rows=self.batch_rows,
            columns=[*self.targets, *(name for name, one in fields.items() if one.required)],
            optional=[name for name, one in fields.items() if not one.required],
            types=types,
        )


def comparable(candidate: Schema, champion: Schema) -> str:
    """Why a champion cannot be compared on the same rows; empty when it can."""
    before, after = champion.output, candidate.output
    if before.task is not after.task:
        return f"the champion does {before.task}, this version {after.task}"
    if before.has_probabilities != after.has_probabilities:
        return "only one of the two gives probabilities"
    if class_order(after, before) is None:
        return "the champion tells other classes apart"
    if before.targets != after.targets:
        return "the champion has other targets"
    return ""


def take_sample(table: Table, schema: Schema, *, settings: ValidationSettings, with_folds: bool) -> Sample | None:
    """Labelled rows that fit the schema, a random sample of all; None when there are none."""
    sampler = RowSample(max_rows=settings.baseline_rows, seed=settings.seed)
    for batch in table.batches():
        sampler.add(batch)
    rows, positions = sampler.result()
    truth = read_truth(rows, targets=table.targets, output=schema.output)
    decoded = from_table(schema, rows)
    kept = decoded.kept[~np.isnan(truth[decoded.kept]).any(axis=1)]
    if not len(kept):
        return None
    columns = decoded.columns.take(np.searchsorted(decoded.kept, kept))
    folds = _folds(positions[kept], seed=settings.seed) if with_folds else None
    return Sample(columns=columns, truth=truth[kept], folds=folds)


@dataclass(frozen=True, slots=True)
class Scored:
    """What one pass over the holdout leaves behind, beside the spool. latency_rows: at least one."""

    counts: Counts
    slicer: Slicer
    latency_rows: Columns


class Scorer:
    """Takes batches in order. The candidate comes first; the baselines see what it sees."""

    def __init__(
        self,
        contenders: tuple[Contender, ...],
        baselines: tuple[Baseline, ...],
        *,
        targets: tuple[str, ...],
        spool: Spool,
        drift: DriftCounter | None,
        settings: ValidationSettings,
    ) -> None:
        self._contenders = contenders
        self._baselines = baselines
        self._targets = targets
        self._spool = spool
        self._drift = drift
        self._settings = settings
        self._shape = Shape.of(contenders[0].schema.output)
        self._counts = Counts()
        self._slicer: Slicer | None = None
        self._latency_rows: Columns | None = None
        self.num_read = 0

    def add(self, batch: pa.Table) -> None:
        """Raises: SchemaMismatchError, InvalidInputError, PredictionError."""
        start, self.num_read = self.num_read, self.num_read + batch.num_rows
        truth = read_truth(batch, targets=self._targets, output=self._contenders[0].schema.output)
        labelled = np.logical_not(np.isnan(truth).any(axis=1))
        decoded = self._decode(batch)
        fits = decoded[0].kept
        common = fits
        for other in decoded[1:]:
            common = np.intersect1d(common, other.kept, assume_unique=True)
        kept = common[labelled[common]]
        self._counts.rejected += batch.num_rows - len(fits)
        self._counts.champion_rejected += len(fits) - len(common)
        self._counts.unlabelled += len(common) - len(kept)
        self._counts.scored += len(kept)
        if len(kept):
            columns = [_restrict(one, kept) for one in decoded]
            slicer = self._slicer or self._first(columns[0])
            answers = self._answer(columns, folds=_folds(start + kept, seed=self._settings.seed))
            self._spool.write(Rows(truth=truth[kept], answers=answers, codes=slicer.codes(columns[0])))

    def result(self) -> Scored:
        """Raises: InvalidInputError when no row could be scored."""
        if self._slicer is None or self._latency_rows is None:
            raise InvalidInputError(
                f"Expected rows with a label that fit the model's schema, got none of {self.num_read} - in the holdout"
            )
        return Scored(counts=self._counts, slicer=self._slicer, latency_rows=self._latency_rows)

    def _first(self, columns: Columns) -> Slicer:
        settings = self._settings
        self._slicer = Slicer(
            self._contenders[0].schema,
            columns,
            num_bins=settings.slice_bins,
            max_categories=settings.slice_max_categories,
        )
        self._latency_rows = columns.take(np.arange(min(_LATENCY_ROWS, columns.num_rows)))
        return self._slicer

    def _answer(self, columns: list[Columns], *, folds: NDArray[np.int64]) -> tuple[Answers, ...]:
        answers: list[Answers] = []
        for contender, part in zip(self._contenders, columns, strict=True):
            predictions = contender.predictor.predict(part)
            if self._drift is not None and contender.role is Role.CANDIDATE:
                self._drift.add(part, predictions)
            if contender.clusters is not None and predictions.labels is not None:
                scores = contender.clusters.silhouettes(part, predictions.labels)
                answers.append(Answers(labels=predictions.labels.astype(np.float64), scores=scores))
                continue
            given = to_answers(self._shape, contender.schema, predictions)
            answers.append(reorder(self._shape, given, contender.order) if contender.order else given)
        return (*answers, *(one.predict(columns[0], folds=folds) for one in self._baselines))

    def _decode(self, batch: pa.Table) -> list[Decoded]:
        first = from_table(self._contenders[0].schema, batch)
        self._counts.reasons.update((reject.field, reject.reason) for reject in first.rejects)
        return [
            first,
            *(
                first if other.schema.fields == self._contenders[0].schema.fields else from_table(other.schema, batch)
                for other in self._contenders[1:]
            ),
        ]


def _restrict(decoded: Decoded, rows: NDArray[np.int64]) -> Columns:
    if len(rows) == len(decoded.kept):
        return decoded.columns
    return decoded.columns.take(np.searchsorted(decoded.kept, rows))


def _folds(positions: NDArray[np.int64], *, seed: int) -> NDArray[np.int64]:
    """Which fold a row is in, by its position in the holdout: the same when it is sampled and when it is predicted."""
    # The sample is chosen by these keys' size: other bits of them, and another seed, decide the fold.
    keys = keys_of(positions, seed=seed + 1)
    return (keys % np.uint64(NUM_FOLDS)).astype(np.int64)
