"""What a task does with one unit: read, check, predict, write, and leave a receipt."""

from __future__ import annotations

import contextlib
import functools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa

from batch import source
from batch.commit import Problem, Receipt, Staging
from batch.files import locate
from batch.plan import Unit
from batch.rows import Batch, CorruptFileError, Wanted, check
from batch.settings import OnCorrupt
from batch.writer import PartitionedWriter, PartWriter
from zaphod import outputs
from zaphod.columns import Decoded, Reject
from zaphod.errors import ConfigError, ModelLoadError, SchemaMismatchError, ZaphodError
from zaphod.predictor import Predictor
from zaphod.registry import Registry
from zaphod.schema import Schema


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What every task of a run needs to know."""

    input: str
    output: str
    run_id: str
    registry: str
    model: str
    version: int
    bundle_sha256: str
    kept: bytes
    """The kept columns' names and types: a serialized Arrow schema."""
    columns: tuple[str, ...]
    partition_by: tuple[str, ...]
    csv_delimiter: str
    csv_null_values: tuple[str, ...]
    on_corrupt: OnCorrupt
    batch_rows: int
    max_attempts: int

    @property
    def kept_schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(self.kept))

    def wanted(self, schema: Schema) -> Wanted:
        """What a unit's readers are asked for."""
        return Wanted(
            schema=schema,
            kept=self.kept_schema,
            csv_delimiter=self.csv_delimiter,
            csv_null_values=self.csv_null_values,
        )


@dataclass(frozen=True, slots=True)
class Model:
    """One version, loaded."""

    schema: Schema
    predictor: Predictor
    version: int


@functools.lru_cache(maxsize=2)
def load_model(registry: str, name: str, version: int, bundle_sha256: str) -> Model:
    """Loaded once in a process, for all units that it scores. Raises: ModelError."""
    bundle = Registry.open(registry).load(name, version)
    if bundle.sha256 != bundle_sha256:
        raise ModelLoadError(f"Cannot score with {name}@{version}: its bundle was changed since the job started.")
    return Model(schema=bundle.schema, predictor=bundle.load_predictor(), version=version)


def score_unit(unit: Unit, work: Work) -> Receipt:
    """Whatever goes wrong with the data or the model stands in the receipt, for the driver to act on."""
    staging = Staging.open(work.output, work.run_id)
    try:
        attempt = staging.note_attempt(unit.id)
        if attempt > work.max_attempts:
            return Receipt.failed(
                unit.id,
                f"Cannot score {unit.path}: the process died {work.max_attempts} times, perhaps for lack of memory. "
                "Lower batch_rows or max_tasks.",
            )
        model = load_model(work.registry, work.model, work.version, work.bundle_sha256)
        receipt = _score(unit, work, model)
    except CorruptFileError as error:
        if work.on_corrupt is OnCorrupt.FAIL:
            return Receipt.failed(unit.id, error.message)
        receipt = reject_whole(unit, work, error.message)
    except ZaphodError as error:
        return Receipt.failed(unit.id, error.message)
    staging.leave_receipt(receipt)
    return receipt


def predict_decoded(model: Model, decoded: Decoded, kept: pa.Table, *, columns: Sequence[str]) -> pa.Table:
    """Kept columns, outputs and `model_version` of the rows that may be scored; at least one.

    columns: the outputs that are wanted; all when empty. Raises: ZaphodError.
    """
    predicted = outputs.to_arrow(model.schema, model.predictor.predict(decoded.columns))
    if columns:
        predicted = select_outputs(predicted, columns)
    if decoded.rejects:
        kept = kept.take(pa.array(decoded.kept))
    table = dict(zip(kept.column_names, kept.columns, strict=True))
    table |= dict(zip(predicted.column_names, predicted.columns, strict=True))
    table["model_version"] = pa.repeat(pa.scalar(model.version, pa.int64()), len(decoded.kept))
    return pa.table(table)


def select_outputs(predicted: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Raises: ConfigError when the model has no such output."""
    strange = [name for name in columns if name not in predicted.column_names]
    if strange:
        raise ConfigError(f"Expected columns among {predicted.column_names}, got {strange} - at `columns`")
    return predicted.select(list(columns))


def keep_columns(table: pa.Table, kept: pa.Schema | Sequence[str]) -> pa.Table:
    """The columns to carry along, in the schema's types where one is given. Raises: SchemaMismatchError."""
    names = kept.names if isinstance(kept, pa.Schema) else list(kept)
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise SchemaMismatchError(f"Expected a column `{missing[0]}` to keep, got none")
    selected = table.select(names)
    try:
        return selected.cast(kept) if isinstance(kept, pa.Schema) else selected
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatchError(f"Expected columns to keep of one type in all files, got others: {error}") from error


@dataclass
class _Seconds:
    """Where the time of a unit went."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "check", "score", "write"), 0.0))

    @contextlib.contextmanager
    def of(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[phase] += time.perf_counter() - began


def _score(unit: Unit, work: Work, model: Model) -> Receipt:
    seconds = _Seconds()
    kept_schema = work.kept_schema
    staging = Staging.open(work.output, work.run_id)
    predictions = PartitionedWriter(staging, "predictions", f"{unit.id}.parquet", partition_by=work.partition_by)
    rejects = PartWriter(staging, f"rejects/{unit.id}.parquet")
    problems: Counter[tuple[str, str]] = Counter()
    rows_in = 0
    batches = source.read(locate(work.input), unit, work.wanted(model.schema), batch_rows=work.batch_rows)
    with contextlib.ExitStack() as stack:
        while True:
            with seconds.of("read"):
                batch = next(batches, None)
            if batch is None:
                break
            with seconds.of("check"):
                decoded = check(model.schema, batch)
                kept = keep_columns(batch.table, kept_schema)
            refused = [*batch.lost, *decoded.rejects]
            if refused:
                problems.update((reject.field, reject.reason) for reject in refused)
                rejects.write(_reject_table(unit, batch, decoded.rejects, kept), stack=stack)
            if len(decoded.kept):
                with seconds.of("score"):
                    predicted = predict_decoded(model, decoded, kept, columns=work.columns)
                with seconds.of("write"):
                    predictions.write(predicted, stack=stack)
            rows_in += batch.num_rows
        with seconds.of("write"):
            stack.close()
    return Receipt(
        unit=unit.id,
        path=unit.path,
        rows_in=rows_in,
        rows_out=predictions.num_rows,
        rows_rejected=rejects.num_rows,
        files=(*predictions.written(), *((rejects.written(),) if rejects.num_rows else ())),
        problems=tuple(Problem(field=name, reason=reason, rows=n) for (name, reason), n in sorted(problems.items())),
        seconds=seconds.spent,
    )


def _reject_table(unit: Unit, batch: Batch, rejects: Sequence[Reject], kept: pa.Table) -> pa.Table:
    """file, row (position in the file, from 0), field, reason and the kept columns; nothing else of the row."""
    refused = [*rejects, *batch.lost]
    rows = [int(batch.rows[reject.row]) for reject in rejects] + [reject.row for reject in batch.lost]
    columns = {
        "file": pa.repeat(unit.path, len(refused)),
        "row": pa.array(rows, pa.int64()),
        "field": pa.array([reject.field or None for reject in refused], pa.string()),
        "reason": pa.array([reject.reason for reject in refused], pa.string()),
    }
    # A lost row has no cells: its kept columns are null.
    places = pa.array([reject.row for reject in rejects] + [None] * len(batch.lost), pa.int64())
    carried = kept.take(places)
    return pa.table(columns | dict(zip(carried.column_names, carried.columns, strict=True)))


def reject_whole(unit: Unit, work: Work, reason: str) -> Receipt:
    """One line in the rejects for a unit that is not scored: all but `file` and `reason` is null.

    Its rows are counted as far as they are known.
    """
    columns = {
        "file": pa.array([unit.path]),
        "row": pa.nulls(1, pa.int64()),
        "field": pa.nulls(1, pa.string()),
        "reason": pa.array([reason]),
    }
    for column in work.kept_schema:
        columns[column.name] = pa.nulls(1, column.type)
    num_rows = unit.num_rows or 0
    staging = Staging.open(work.output, work.run_id)
    rejects = PartWriter(staging, f"rejects/{unit.id}.parquet")
    with contextlib.ExitStack() as stack:
        rejects.write(pa.table(columns), stack=stack)
    return Receipt(
        unit=unit.id,
        path=unit.path,
        rows_in=num_rows,
        rows_out=0,
        rows_rejected=num_rows,
        files=(rejects.written(),),
        problems=(Problem(field="", reason=reason, rows=num_rows),),
        seconds={},
        corrupt=True,
    )
