"""The offline validation of what a run has published: its predictions beside the truth that it carried along.

No row is scored again. A challenger is the candidate; it is held against the champion that scored the same rows.
"""

from __future__ import annotations

import datetime
import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import zaphod
from batch.deliver import Load
from batch.manifest import Manifest
from batch.model import Version
from batch.predict import CHALLENGER
from batch.preflight import Preflight, first_rows
from zaphod.bundle import Bundle
from zaphod.columns import Columns, from_table
from zaphod.errors import ConfigError, InvalidInputError
from zaphod.registry import Registry
from zaphod.schema import DType, Field, OutOfDomain, Schema
from zaphod.validation.compatibility import compare_schemas
from zaphod.validation.data import DataIdentity
from zaphod.validation.drift import FieldDrift
from zaphod.validation.gate import Facts, judge
from zaphod.validation.latency import measure_latency
from zaphod.validation.measured import Role
from zaphod.validation.results import Holdout, RejectCount, Subject, Validation
from zaphod.validation.rows import Answers, Kind, Rows, Shape
from zaphod.validation.settings import ValidationSettings
from zaphod.validation.slices import Slicer
from zaphod.validation.spool import Spool
from zaphod.validation.statistics import Statistics, compute
from zaphod.validation.truth import read_truth

_LATENCY_ROWS = 256

# Slices need a field: this one is null everywhere, and so gives none.
_NOTHING = Field(name="nothing", dtype=DType.FLOAT64, nullable=True)


@dataclass(frozen=True, slots=True)
class Measured:
    """The validation, and the bundle it is about."""

    validation: Validation
    bundle: Bundle


@dataclass
class _Counts:
    scored: int = 0
    only_challenger_refuses: int = 0
    unlabelled: int = 0


def measure(
    load: Load,
    manifest: Manifest,
    ready: Preflight,
    *,
    truth: str,
    drift: tuple[FieldDrift, ...] | None,
    settings: ValidationSettings,
) -> Measured:
    """drift: of the candidate's fields and outputs, where the run has counted it.

    Raises: ConfigError when the outputs that were written do not suffice; InvalidInputError for a truth that is none of
        the classes, and when no row has one.
    """
    began = time.perf_counter()
    work = ready.work
    versions = [version for version in (work.challenger, work.champion) if version is not None]
    bundles = [_bundle(version) for version in versions]
    schema = bundles[0].schema
    shape = _shape(schema, load.schema)
    prefixes = [CHALLENGER, ""] if work.challenger is not None else [""]
    roles = (Role.CANDIDATE, Role.CHAMPION)[: len(prefixes)]
    counts = _Counts()
    sliced = _sliced(schema, load.schema, truth)
    slicer: Slicer | None = None
    with (
        tempfile.TemporaryDirectory(prefix="zaphod-measure-") as folder,
        Spool(
            Path(folder), shape=shape, num_models=len(roles), num_axes=len(sliced.fields), seed=settings.seed
        ) as spool,
    ):
        for batch in load.reader():
            table = pa.Table.from_batches([batch])
            actual = read_truth(table, targets=(truth,), output=schema.output)
            kept = _measurable(table, actual, counts)
            if not len(kept):
                continue
            rows = table.take(pa.array(kept))
            columns = _columns_of(sliced, rows)
            slicer = slicer or Slicer(
                sliced, columns, num_bins=settings.slice_bins, max_categories=settings.slice_max_categories
            )
            answers = tuple(_answers(shape, schema, rows, prefix=prefix) for prefix in prefixes)
            spool.write(Rows(truth=actual[kept], answers=answers, codes=slicer.codes(columns)))
        if slicer is None:
            raise InvalidInputError(f"Expected rows whose truth is known, got none - at column `{truth}`")
        statistics = compute(spool, shape=shape, roles=roles, slicer=slicer, settings=settings)
    facts = _facts(bundles, ready, manifest, counts, statistics, drift=drift, settings=settings)
    subjects = [
        Subject(name=one.name, version=one.version, bundle_sha256=one.sha256, engine=one.manifest.engine)
        for one in bundles
    ]
    validation = Validation(
        zaphod_version=zaphod.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        candidate=subjects[0],
        champion=subjects[1] if len(subjects) > 1 else None,
        champion_note=facts.champion_note,
        kind=shape.kind,
        holdout=_holdout(load, manifest, counts, truth),
        train=None,
        baseline_note="none: a batch run fits nothing",
        models=statistics.models,
        comparisons=statistics.comparisons,
        slices=statistics.slices,
        drift=drift,
        latency=facts.latency,
        bundle_bytes=facts.bundle_bytes,
        schema_changes=facts.schema_changes or (),
        pictures=statistics.pictures,
        num_shards=statistics.num_shards,
        seconds=round(time.perf_counter() - began, 2),
        settings=msgspec.Raw(settings.model_dump_json().encode()),
        verdict=judge(facts, settings),
    )
    return Measured(validation=validation, bundle=bundles[0])


def _bundle(version: Version) -> Bundle:
    return Registry.open(version.registry).load(version.name, version.version)


def _shape(schema: Schema, written: pa.Schema) -> Shape:
    """What can be measured of the outputs that were written. Raises: ConfigError without the label or the value."""
    shape = Shape.of(schema.output)
    needed = "value" if shape.kind is Kind.REGRESSION else "label"
    if needed not in written.names:
        raise ConfigError(f"Cannot measure without the output `{needed}`. Add it to columns.")
    if shape.has_scores and not set(schema.output.probability_names) <= set(written.names):
        return Shape(kind=shape.kind, has_scores=False, num_outputs=shape.num_outputs)
    return shape


def _measurable(table: pa.Table, actual: NDArray[np.float64], counts: _Counts) -> NDArray[np.int64]:
    """Rows that every version scored and whose truth is known."""
    both = np.ones(table.num_rows, dtype=np.bool_)
    name = f"{CHALLENGER}version"
    if name in table.column_names:
        both = np.asarray(pc.is_valid(table.column(name)))
    known = np.logical_not(np.isnan(actual).any(axis=1))
    counts.only_challenger_refuses += int((~both).sum())
    counts.unlabelled += int((both & ~known).sum())
    counts.scored += int((both & known).sum())
    return np.flatnonzero(both & known)


def _answers(shape: Shape, schema: Schema, rows: pa.Table, *, prefix: str) -> Answers:
    if shape.kind is Kind.REGRESSION:
        return Answers(values=rows.column(f"{prefix}value").to_numpy()[:, None])
    labels = read_truth(rows, targets=(f"{prefix}label",), output=schema.output)[:, 0]
    if not shape.has_scores:
        return Answers(labels=labels)
    scores = np.stack([rows.column(f"{prefix}{name}").to_numpy() for name in schema.output.probability_names], axis=1)
    return Answers(labels=labels, scores=scores[:, 1] if shape.kind is Kind.BINARY else scores)


def _sliced(schema: Schema, written: pa.Schema, truth: str) -> Schema:
    """The fields that were carried along, without their limits: the rows have passed them."""
    kept = [field for field in schema.fields if field.name in written.names and field.name != truth]
    free = [
        msgspec.structs.replace(
            field, nullable=True, minimum=None, maximum=None, categories=None, out_of_domain=OutOfDomain.ACCEPT
        )
        for field in kept
    ]
    return Schema(fields=tuple(free) or (_NOTHING,), output=schema.output)


def _columns_of(sliced: Schema, rows: pa.Table) -> Columns:
    if sliced.fields == (_NOTHING,):
        return Columns(numbers=np.full((rows.num_rows, 1), np.nan), strings=())
    return from_table(sliced, rows).columns


def _facts(
    bundles: list[Bundle],
    ready: Preflight,
    manifest: Manifest,
    counts: _Counts,
    statistics: Statistics,
    *,
    drift: tuple[FieldDrift, ...] | None,
    settings: ValidationSettings,
) -> Facts:
    model = ready.ask.challenger or ready.ask.champion
    latency = measure_latency(
        model.predictor,
        model.schema,
        first_rows(ready, model.schema, num_rows=_LATENCY_ROWS),
        max_calls=settings.latency_calls,
        limit_s=settings.latency_limit_s,
    )
    compared = len(bundles) > 1
    return Facts(
        num_rows=counts.scored,
        num_rejected=manifest.rows_rejected,
        candidate=statistics.models[0],
        against_champion=next((one for one in statistics.comparisons if one.role is Role.CHAMPION), None),
        has_champion=compared,
        champion_note="" if compared else "the run had no challenger",
        against_dummy=None,
        against_linear=None,
        slices=statistics.slices,
        calibration=statistics.models[0].calibration,
        drift=drift,
        latency=latency,
        bundle_bytes=sum(len(data) for data in bundles[0].files.values()),
        schema_changes=compare_schemas(bundles[1].schema, bundles[0].schema) if compared else None,
    )


def _holdout(load: Load, manifest: Manifest, counts: _Counts, truth: str) -> Holdout:
    """What was read are the published predictions: sha256 of their files' names and hashes in order."""
    files = [file for file in manifest.files if file.path in set(load.files)]
    lines = "".join(f"{file.sha256}  {file.path}\n" for file in files)
    return Holdout(
        data=DataIdentity(
            path=f"{load.folder.uri}/predictions",
            num_files=len(files),
            num_bytes=sum(file.bytes for file in files),
            sha256=hashlib.sha256(lines.encode()).hexdigest(),
        ),
        targets=(truth,),
        num_rows=counts.scored,
        num_rejected=manifest.rows_rejected,
        num_champion_rejected=counts.only_challenger_refuses,
        num_unlabelled=counts.unlabelled,
        rejects=tuple(
            RejectCount(field=problem.field, reason=problem.reason, num_rows=problem.rows)
            for problem in manifest.rejected
        ),
    )
