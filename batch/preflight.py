"""All that can be known before a row is scored: two seconds, no Ray."""

from __future__ import annotations

import contextlib
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
from batch.kept import kept_types
from batch.model import Version, resolve
from batch.plan import Plan, Unit, make_plan
from batch.predict import CHALLENGER, PREDICTION_ID, Ask, keep_columns, predict
from batch.rows import CorruptFileError, check
from batch.score import Work
from batch.settings import BatchSettings, OnCorrupt
from batch.source import Inspected
from batch.trial import Entry, dump_settings, enter, recipe_of, running
from zaphod.columns import Columns, from_table
from zaphod.errors import BatchError, ConfigError, InvalidInputError, ZaphodError
from zaphod.experiment.spec import Mode
from zaphod.location import Location, locate
from zaphod.schema import Schema, Task

_SAMPLE_ROWS = 2_000
_LONG_SAMPLE_ROWS = 20_000
_QUICK_S = 0.2
_LOADING_S = 2.0
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
    ask: Ask
    estimate: Estimate | None
    free_bytes: int | None
    left_out: str | None = None
    """Why a challenger in the shadow is not asked, where that is so."""

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
    champion = resolve(settings.registry, settings.model)
    challenger = resolve(settings.registry, settings.challenger) if settings.challenger is not None else None
    entry, left_out = _enter(settings, champion) if settings.experiment and challenger is None else (None, None)
    if entry is not None and entry.experiment.mode is Mode.INTERLEAVE:
        challenger = entry.challenger
    keep = tuple(dict.fromkeys([*settings.keep, *([settings.truth] if settings.truth is not None else [])]))
    work = Work(
        input=settings.input,
        output=settings.output,
        run_id="",
        recipe="",
        champion=champion,
        challenger=challenger,
        # Kept columns of files without types are text, until a reader knows better.
        kept=pa.schema([(name, pa.string()) for name in keep]).serialize().to_pybytes(),
        columns=settings.columns,
        truth=settings.truth,
        partition_by=settings.partition_by,
        file_rows=settings.file_rows,
        csv_delimiter=settings.csv_delimiter,
        csv_null_values=settings.csv_null_values,
        on_corrupt=settings.on_corrupt,
        batch_rows=settings.batch_rows,
        max_attempts=settings.retries + 1,
        log=None if settings.monitoring.uri is None else dump_settings(settings.monitoring),
        entity=settings.entity or (None if entry is None else entry.experiment.entity),
        entry=entry,
        prediction_id=settings.prediction_id,
        pulse_s=min(30.0, settings.stall_timeout_s / 4),
    )
    if entry is not None and entry.is_shadow:
        try:
            work.ask()
        except ZaphodError as error:
            left_out = error.message
            work = msgspec.structs.replace(work, entry=None)
    ask = work.ask()
    wanted = work.wanted(ask)
    _check_names(ask, settings, keep)
    location, files = source.list_files(locate(settings.input))
    inspected = source.inspect(location, files, wanted, keep=keep)
    kept = check_inputs(wanted.schema, inspected, keep=keep, on_corrupt=settings.on_corrupt).serialize().to_pybytes()
    plan = make_plan(
        [each.file for each in inspected],
        settings,
        model=str(champion),
        bundle_sha256=[
            *(version.bundle_sha256 for version in (champion, challenger) if version is not None),
            *recipe_of(work.entry, work.entity),
        ],
        kept=kept,
    )
    work = msgspec.structs.replace(work, input=location.uri, run_id=plan.run_id, recipe=plan.recipe, kept=kept)
    estimate = None
    free_bytes = _free_bytes(locate(settings.output))
    if not Staging.open(settings.output, plan.run_id).is_published():
        estimate = _estimate(plan, work, ask, location)
        _check_space(estimate, free_bytes)
    return Preflight(plan=plan, work=work, ask=ask, estimate=estimate, free_bytes=free_bytes, left_out=left_out)


def _enter(settings: BatchSettings, champion: Version) -> tuple[Entry | None, str | None]:
    """The running experiment; or why a challenger in the shadow is left out, which never keeps a job from running.

    Raises: ModelError for the challenger of another mode.
    """
    experiment = running(settings.registry, settings.model, champion)
    if experiment is None:
        return None, None
    if experiment.mode is Mode.SHADOW and settings.monitoring.uri is None:
        return None, "there is no prediction log to record it in. Set monitoring.uri."
    try:
        return enter(settings.registry, experiment), None
    except ZaphodError as error:
        if experiment.mode is not Mode.SHADOW:
            raise
        return None, error.message


def first_rows(ready: Preflight, schema: Schema, *, num_rows: int) -> Columns:
    """What a model takes of the first rows of a file that it can score. Raises: InvalidInputError when none fit."""
    location = locate(ready.work.input)
    for unit in ready.plan.units:
        if unit.problem is not None:
            continue
        few = msgspec.structs.replace(unit, num_rows=min(unit.num_rows or num_rows, num_rows))
        with contextlib.suppress(CorruptFileError):
            batch = next(source.read(location, few, ready.work.wanted(ready.ask), batch_rows=num_rows), None)
            if batch is not None and len((decoded := check(schema, batch)).kept):
                return decoded.columns
    raise InvalidInputError(f"Expected rows that fit the model in the first {num_rows} of a file, got none")


def check_inputs(
    schema: Schema, inspected: Sequence[Inspected], *, keep: Sequence[str], on_corrupt: OnCorrupt
) -> pa.Schema:
    """Every file has what the models and `keep` need; returns the kept columns with their types.

    Raises: SchemaMismatchError; BatchError for a corrupt file.
    """
    passed: list[pa.Schema] = []
    for each in inspected:
        if each.schema is None:
            if on_corrupt is OnCorrupt.FAIL:
                raise BatchError(each.file.problem or each.file.path)
            continue
        if any(each.schema.equals(known) for known in passed):
            continue
        table = each.schema.remove_metadata().empty_table()
        try:
            from_table(schema, table)
            keep_columns(table, keep)
        except InvalidInputError as error:
            raise type(error)(f"{error.message} (in {each.file.path})") from error
        passed.append(each.schema)
    if not passed:
        raise BatchError(f"Cannot score the input: no file can be read. {inspected[0].file.problem}")
    return kept_types(inspected, keep)


def _check_names(ask: Ask, settings: BatchSettings, keep: Sequence[str]) -> None:
    """Raises: ConfigError for columns that collide, and for a truth that the task has no use for."""
    output = ask.champion.schema.output
    made = {"label", "value", "score", *output.label_names, *output.value_names, *output.probability_names}
    taken = {
        *made,
        "model_version",
        *(["variant"] if ask.trial is not None and not ask.shadow else []),
        *([PREDICTION_ID] if ask.with_ids else []),
        *_REJECT_COLUMNS,
        *(f"{CHALLENGER}{name}" for name in (*made, "version")),
    }
    if settings.entity is not None and settings.entity not in (*keep, *ask.champion.schema.names):
        raise ConfigError(
            f"Cannot take the entity from {settings.entity!r}: it is neither a field of the model nor kept. Name it in "
            "keep."
        )
    double = sorted(taken & set(keep))
    if double:
        raise ConfigError(
            f"Cannot keep {double}: the predictions or the rejects have columns of these names. Rename them in the "
            "input."
        )
    if settings.truth is not None and (
        output.task not in (Task.CLASSIFICATION, Task.REGRESSION) or len(output.targets) > 1
    ):
        raise ConfigError(f"Cannot use truth: a model for {output.task} has no single right answer. Leave it out.")


def _estimate(plan: Plan, work: Work, ask: Ask, location: Location) -> Estimate | None:
    """Scores a few rows of the first readable unit; None when none of them can be scored."""
    unit = next((unit for unit in plan.units if unit.problem is None and unit.num_rows != 0), None)
    if unit is None:
        return None
    timed = _time(unit, work, ask, location, num_rows=_SAMPLE_ROWS)
    if timed is not None and _QUICK_S <= timed.seconds < _LOADING_S:
        # It may have paid for what is loaded at the first use, beside workers that start.
        timed = _time(unit, work, ask, location, num_rows=_SAMPLE_ROWS)
    if timed is not None and timed.seconds < _QUICK_S:
        # A longer look, for the same reason.
        timed = _time(unit, work, ask, location, num_rows=_LONG_SAMPLE_ROWS)
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


def _time(unit: Unit, work: Work, ask: Ask, location: Location, *, num_rows: int) -> _Timed | None:
    """Reads, checks and scores the unit's first rows; None when none of them can be scored."""
    few = msgspec.structs.replace(unit, num_rows=min(unit.num_rows or num_rows, num_rows))
    began = time.perf_counter()
    try:
        batch = next(source.read(location, few, work.wanted(ask), batch_rows=num_rows), None)
    except CorruptFileError as error:
        if work.on_corrupt is OnCorrupt.FAIL:
            raise BatchError(error.message) from error
        return None
    if batch is None or not len((decoded := check(ask.champion.schema, batch)).kept):
        return None
    predicted = predict(ask, batch, decoded, keep_columns(batch.table, work.kept_schema), watch_drift=True).table
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
