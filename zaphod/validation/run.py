"""Validates one version: load, score, compute, judge. It writes nothing but a temporary folder."""

from __future__ import annotations

import dataclasses
import datetime
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

import zaphod
from zaphod.bundle import PROFILE, Bundle
from zaphod.errors import ConfigError, ModelNotFoundError
from zaphod.registry import CHAMPION, Reference, Registry
from zaphod.sklearn_predictor import SklearnPredictor
from zaphod.validation.baselines import Baseline, fit_baselines
from zaphod.validation.clusters import Clusters
from zaphod.validation.compatibility import compare_schemas
from zaphod.validation.data import Source
from zaphod.validation.drift import DriftCounter
from zaphod.validation.gate import Facts, judge
from zaphod.validation.latency import measure_latency
from zaphod.validation.measured import Comparison, Role
from zaphod.validation.profile import read_profile
from zaphod.validation.results import Holdout, RejectCount, Subject, Validation
from zaphod.validation.rows import Kind, Shape
from zaphod.validation.scoring import Contender, Scorer, Table, comparable, take_sample
from zaphod.validation.settings import ValidationSettings
from zaphod.validation.spool import Spool
from zaphod.validation.statistics import Statistics, compute
from zaphod.validation.truth import class_order


@dataclass(frozen=True, slots=True)
class Request:
    """What to validate, on what. champion: None compares with the model's champion, if it has one."""

    reference: str
    data: Path
    targets: tuple[str, ...]
    champion: str | None = None
    train: Path | None = None


@dataclass(frozen=True, slots=True)
class Validated:
    """The result, and the bundle it is about."""

    validation: Validation
    bundle: Bundle


def validate_model(
    registry: Registry,
    request: Request,
    *,
    settings: ValidationSettings,
    on_rows: Callable[[int], None] | None = None,
) -> Validated:
    """on_rows hears how many rows of the holdout have been read.

    Raises: ConfigError, ModelNotFoundError, ModelLoadError; SchemaMismatchError or InvalidInputError when the data
        cannot be used; PredictionError.
    """
    started = time.perf_counter()
    bundle = _load(registry, request.reference)
    shape = Shape.of(bundle.schema.output)
    if len(request.targets) != shape.num_truths:
        raise ConfigError(f"Expected {shape.num_truths} target columns for {bundle.name}, got {len(request.targets)}")
    source = Source.open(request.data)
    identity = source.identity()
    candidate = Contender(role=Role.CANDIDATE, bundle=bundle, predictor=bundle.load_predictor())
    champion, note = _champion(registry, request.champion, bundle, source)
    contenders: tuple[Contender, ...] = (candidate,) if champion is None or note else (candidate, champion)
    if shape.kind is Kind.CLUSTERING:
        contenders = tuple(_with_clusters(one, source, settings=settings) for one in contenders)
    table = Table(
        source=source,
        targets=request.targets,
        schemas=tuple(one.schema for one in contenders),
        batch_rows=settings.batch_rows,
    )
    train = None if request.train is None else Source.open(request.train)
    baselines, baseline_note = _baselines(table, train, bundle, shape, settings=settings)
    roles = (*(one.role for one in contenders), *((Role.DUMMY, Role.LINEAR) if baselines else ()))
    profile = bundle.files.get(PROFILE)
    drift = None if profile is None else DriftCounter(read_profile(profile), bundle.schema)
    with (
        tempfile.TemporaryDirectory(prefix="zaphod-validate-") as folder,
        Spool(
            Path(folder), shape=shape, num_models=len(roles), num_axes=len(bundle.schema.fields), seed=settings.seed
        ) as spool,
    ):
        scorer = Scorer(contenders, baselines, targets=request.targets, spool=spool, drift=drift, settings=settings)
        for batch in table.batches():
            scorer.add(batch)
            if on_rows is not None:
                on_rows(scorer.num_read)
        scored = scorer.result()
        statistics = compute(spool, shape=shape, roles=roles, slicer=scored.slicer, settings=settings)
    latency = measure_latency(
        candidate.predictor,
        bundle.schema,
        scored.latency_rows,
        max_calls=settings.latency_calls,
        limit_s=settings.latency_limit_s,
    )
    counts = scored.counts
    against_champion = _comparison(statistics, Role.CHAMPION)
    changes = None if champion is None else compare_schemas(champion.schema, bundle.schema)
    facts = Facts(
        num_rows=counts.scored,
        num_rejected=counts.rejected,
        candidate=statistics.models[0],
        against_champion=against_champion,
        has_champion=champion is not None,
        champion_note=note,
        against_dummy=_comparison(statistics, Role.DUMMY),
        against_linear=_comparison(statistics, Role.LINEAR),
        slices=statistics.slices,
        calibration=statistics.models[0].calibration,
        drift=None if drift is None else drift.result(),
        latency=latency,
        bundle_bytes=sum(len(data) for data in bundle.files.values()),
        schema_changes=changes,
    )
    validation = Validation(
        zaphod_version=zaphod.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        candidate=_subject(candidate),
        champion=None if champion is None else _subject(champion),
        champion_note=note,
        kind=shape.kind,
        holdout=Holdout(
            data=identity,
            targets=request.targets,
            num_rows=counts.scored,
            num_rejected=counts.rejected,
            num_champion_rejected=counts.champion_rejected,
            num_unlabelled=counts.unlabelled,
            rejects=tuple(
                RejectCount(field=field, reason=reason, num_rows=number)
                for (field, reason), number in counts.reasons.most_common()
            ),
        ),
        train=None if train is None else train.identity(),
        baseline_note=baseline_note,
        models=statistics.models,
        comparisons=statistics.comparisons,
        slices=statistics.slices,
        drift=facts.drift,
        latency=latency,
        bundle_bytes=facts.bundle_bytes,
        schema_changes=changes or (),
        pictures=statistics.pictures,
        num_shards=statistics.num_shards,
        seconds=round(time.perf_counter() - started, 2),
        settings=msgspec.Raw(settings.model_dump_json().encode()),
        verdict=judge(facts, settings),
    )
    return Validated(validation=validation, bundle=bundle)


def _load(registry: Registry, reference: str) -> Bundle:
    parsed = Reference.parse(reference)
    return registry.load(parsed.name, registry.resolve(parsed))


def _champion(
    registry: Registry, reference: str | None, bundle: Bundle, source: Source
) -> tuple[Contender | None, str]:
    """The champion, and why it cannot be compared on the rows; the note is empty when it can."""
    try:
        other = _load(registry, reference or f"{bundle.name}@{CHAMPION}")
    except ModelNotFoundError:
        if reference is not None:
            raise
        return None, "the model has no champion yet"
    if (other.name, other.version) == (bundle.name, bundle.version):
        return None, "this version is the champion"
    reason = comparable(bundle.schema, other.schema)
    if reason:
        return Contender(role=Role.CHAMPION, bundle=other, predictor=other.load_predictor()), reason
    present = set(source.column_names())
    missing = [field.name for field in other.schema.fields if field.required and field.name not in present]
    if missing:
        reason = f"the holdout lacks {', '.join(f'`{name}`' for name in missing)}, which the champion needs"
    order = class_order(bundle.schema.output, other.schema.output) or []
    return Contender(role=Role.CHAMPION, bundle=other, predictor=other.load_predictor(), order=tuple(order)), reason


def _with_clusters(contender: Contender, source: Source, *, settings: ValidationSettings) -> Contender:
    table = Table(source, (), (contender.schema,), settings.batch_rows)
    sample = take_sample(table, contender.schema, settings=settings, with_folds=False)
    reference = contender.bundle.load_reference()
    if sample is None or not isinstance(reference, SklearnPredictor):
        return contender
    return dataclasses.replace(contender, clusters=Clusters.of(reference, sample.columns))


def _baselines(
    table: Table, train: Source | None, bundle: Bundle, shape: Shape, *, settings: ValidationSettings
) -> tuple[tuple[Baseline, ...], str]:
    if shape.kind in (Kind.OUTLIER, Kind.CLUSTERING):
        return (), "none: such a model is not fitted on labels"
    fitted_on = table if train is None else Table(train, table.targets, (bundle.schema,), table.batch_rows)
    sample = take_sample(fitted_on, bundle.schema, settings=settings, with_folds=train is None)
    if sample is None:
        return (), "none: no labelled row fits the schema"
    where = (
        "cross-fitted on the holdout, so that no row is predicted by a fit that saw it"
        if train is None
        else ("fitted on the training table")
    )
    return fit_baselines(shape, sample), f"{where}; {sample.columns.num_rows} rows"


def _comparison(statistics: Statistics, role: Role) -> Comparison | None:
    return next((one for one in statistics.comparisons if one.role is role), None)


def _subject(contender: Contender) -> Subject:
    bundle = contender.bundle
    return Subject(name=bundle.name, version=bundle.version, bundle_sha256=bundle.sha256, engine=bundle.manifest.engine)
