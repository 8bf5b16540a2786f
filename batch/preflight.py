"""All that can be known before a row is scored: two seconds, no Ray."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

from batch import source
from batch.commit import Staging
from batch.files import Location, locate
from batch.plan import Plan, Unit, make_plan
from batch.rows import CorruptFileError, Wanted, check
from batch.score import Model, Work, keep_columns, load_model, predict_decoded
from batch.settings import BatchSettings, OnCorrupt
from batch.source import Inspected
from zaphod.columns import from_table
from zaphod.errors import BatchError, ConfigError, InvalidInputError
from zaphod.registry import Reference, Registry
from zaphod.schema import Schema

_SAMPLE_ROWS = 2_000
_LONG_SAMPLE_ROWS = 20_000
_QUICK_S = 0.2
_GUESS_BYTES = 256 * 1024

# Columns of the rejects beside the kept ones.
_REJECT_COLUMNS = ("file", "row", "field", "reason")


@dataclass(frozen=True, slots=True)
class Estimate:
    """From a few rows of the first file on one core: rough.

    num_rows: of the whole job; known, or from the sizes of files that do not say. rows_per_s: of one task.
    bytes_per_row: of the predictions in memory, before compression.
    """

    num_rows: int
    rows_per_s: float
    bytes_per_row: float

    def seconds(self, *, num_rows: int, num_tasks: int) -> float:
        return num_rows / (self.rows_per_s * num_tasks)


@dataclass(frozen=True, slots=True)
class Preflight:
    """A job that has passed every check that needs no scoring. free_bytes: None where a bucket has no limit."""

    plan: Plan
    work: Work
    engine: str
    estimate: Estimate | None
    free_bytes: int | None

    @property
    def num_rows(self) -> int:
        """Known, or a guess where `plan.num_rows` is None."""
        if self.plan.num_rows is not None:
            return self.plan.num_rows
        return self.estimate.num_rows if self.estimate is not None else 0


def preflight(settings: BatchSettings) -> Preflight:
    """Resolves the model, reads all footers, checks columns, types and space, and predicts a sample.

    settings: with absolute paths. Raises: ZaphodError naming the first file or column that does not fit.
    """
    reference = Reference.parse(settings.model)
    registry = Registry.open(settings.registry)
    version = registry.resolve(reference)
    sha256 = registry.load(reference.name, version).sha256
    model = load_model(settings.registry, reference.name, version, sha256)
    location, files = source.list_files(locate(settings.input))
    # Kept columns of files without types are text, until a reader knows better.
    text = pa.schema([(name, pa.string()) for name in settings.keep])
    wanted = Wanted(
        schema=model.schema,
        kept=text,
        csv_delimiter=settings.csv_delimiter,
        csv_null_values=settings.csv_null_values,
    )
    inspected = source.inspect(location, files, wanted, keep=settings.keep)
    kept = check_inputs(model.schema, inspected, settings)
    plan = make_plan(
        [each.file for each in inspected],
        settings,
        model=f"{reference.name}@{version}",
        bundle_sha256=sha256,
        kept=kept.serialize().to_pybytes(),
    )
    work = Work(
        input=location.uri,
        output=settings.output,
        run_id=plan.run_id,
        registry=settings.registry,
        model=reference.name,
        version=version,
        bundle_sha256=sha256,
        kept=kept.serialize().to_pybytes(),
        csv_delimiter=settings.csv_delimiter,
        csv_null_values=settings.csv_null_values,
        columns=settings.columns,
        partition_by=settings.partition_by,
        on_corrupt=settings.on_corrupt,
        batch_rows=settings.batch_rows,
        max_attempts=settings.retries + 1,
    )
    estimate = None
    free_bytes = _free_bytes(locate(settings.output))
    if not Staging.open(settings.output, plan.run_id).is_published():
        estimate = _estimate(plan, work, model, location)
        _check_space(estimate, free_bytes)
    return Preflight(plan=plan, work=work, engine=model.predictor.engine, estimate=estimate, free_bytes=free_bytes)


def check_inputs(schema: Schema, inspected: Sequence[Inspected], settings: BatchSettings) -> pa.Schema:
    """Every file has what the model and `keep` need; returns the kept columns with their types.

    Raises: SchemaMismatchError, BatchError for a corrupt file, ConfigError for columns that collide.
    """
    _check_collisions(schema, settings.keep)
    kept: pa.Schema | None = None
    passed: list[pa.Schema] = []
    for each in inspected:
        if each.schema is None:
            if settings.on_corrupt is OnCorrupt.FAIL:
                raise BatchError(each.file.problem or each.file.path)
            continue
        if any(each.schema.equals(known) for known in passed):
            continue
        table = each.schema.remove_metadata().empty_table()
        try:
            from_table(schema, table)
            kept = keep_columns(table, kept or settings.keep).schema
        except InvalidInputError as error:
            raise type(error)(f"{error.message} (in {each.file.path})") from error
        passed.append(each.schema)
    return kept or pa.schema([(name, pa.null()) for name in settings.keep])


def _check_collisions(schema: Schema, keep: Sequence[str]) -> None:
    output = schema.output
    made = {"label", "value", "score", "model_version", *_REJECT_COLUMNS}
    made |= {f"probability_{label}" for label in output.classes} | {f"value_{target}" for target in output.targets}
    taken = sorted(made & set(keep))
    if taken:
        raise ConfigError(
            f"Cannot keep {taken}: the predictions or the rejects have columns of these names. Rename them in the "
            "input."
        )


def _estimate(plan: Plan, work: Work, model: Model, location: Location) -> Estimate | None:
    """Scores a few rows of the first readable unit; None when none of them can be scored."""
    unit = next((unit for unit in plan.units if unit.problem is None and unit.num_rows != 0), None)
    if unit is None:
        return None
    timed = _time(unit, work, model, location, num_rows=_SAMPLE_ROWS)
    if timed is not None and timed.seconds < _QUICK_S:
        # A second, longer look: the first has paid for what is loaded at the first use.
        timed = _time(unit, work, model, location, num_rows=_LONG_SAMPLE_ROWS)
    if timed is None:
        return None
    return Estimate(
        num_rows=plan.num_rows if plan.num_rows is not None else _guess_rows(plan, location, unit),
        rows_per_s=timed.num_rows / timed.seconds,
        bytes_per_row=timed.bytes_per_row,
    )


@dataclass(frozen=True, slots=True)
class _Timed:
    num_rows: int
    seconds: float
    bytes_per_row: float


def _time(unit: Unit, work: Work, model: Model, location: Location, *, num_rows: int) -> _Timed | None:
    """Reads, checks and scores the unit's first rows; None when none of them can be scored."""
    few = msgspec.structs.replace(unit, num_rows=min(unit.num_rows or num_rows, num_rows))
    began = time.perf_counter()
    try:
        batch = next(source.read(location, few, work.wanted(model.schema), batch_rows=num_rows), None)
    except CorruptFileError as error:
        if work.on_corrupt is OnCorrupt.FAIL:
            raise BatchError(error.message) from error
        return None
    if batch is None or not len((decoded := check(model.schema, batch)).kept):
        return None
    predicted = predict_decoded(model, decoded, keep_columns(batch.table, work.kept_schema), columns=work.columns)
    seconds = time.perf_counter() - began
    return _Timed(batch.num_rows, seconds, bytes_per_row=predicted.nbytes / predicted.num_rows)


def _guess_rows(plan: Plan, location: Location, unit: Unit) -> int:
    """From the length of the first file's first lines."""
    with source.open_text(location, unit.path) as opened:
        head = opened.read(_GUESS_BYTES)
    lines = max(1, head.count(b"\n"))
    known = sum(each.num_rows or 0 for each in plan.units)
    unknown = sum(each.size_bytes for each in plan.units if each.num_rows is None)
    guess = known + int(unknown * lines / max(1, len(head)))
    return guess if unit.max_rows is None else min(guess, unit.max_rows)


def _check_space(estimate: Estimate | None, free_bytes: int | None) -> None:
    if estimate is None or free_bytes is None:
        return
    needed = int(estimate.num_rows * estimate.bytes_per_row)
    if needed > free_bytes:
        raise BatchError(
            f"Cannot write {needed / 1e9:.1f} GB of predictions: {free_bytes / 1e9:.1f} GB are free. Free some space, "
            "or choose another output."
        )


def _free_bytes(output: Location) -> int | None:
    if not output.is_local:
        return None
    folder = Path(output.path)
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
