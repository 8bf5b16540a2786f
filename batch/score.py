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
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batch import source
from batch.commit import OutputFile, Problem, Receipt, Staging
from batch.files import HashingSink, locate, write_whole
from batch.plan import Unit
from batch.settings import OnCorrupt
from zaphod import outputs
from zaphod.columns import Decoded, Reject, from_table
from zaphod.errors import ModelLoadError, SchemaMismatchError, ZaphodError
from zaphod.predictor import Predictor
from zaphod.registry import Registry
from zaphod.schema import Schema

# Rows that are written at once: a reader wants row groups larger than a batch.
_ROW_GROUP_ROWS = 131_072


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
    on_corrupt: OnCorrupt
    batch_rows: int
    max_attempts: int


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
    except source.CorruptFileError as error:
        if work.on_corrupt is OnCorrupt.FAIL:
            return Receipt.failed(unit.id, error.message)
        receipt = reject_whole(unit, work, error.message)
    except ZaphodError as error:
        return Receipt.failed(unit.id, error.message)
    staging.leave_receipt(receipt)
    return receipt


def predict_decoded(model: Model, decoded: Decoded, kept: pa.Table) -> pa.Table:
    """Kept columns, outputs and `model_version` of the rows that may be scored; at least one. Raises: ZaphodError."""
    predicted = outputs.to_arrow(model.schema, model.predictor.predict(decoded.columns))
    if decoded.rejects:
        kept = kept.take(pa.array(decoded.kept))
    columns = dict(zip(kept.column_names, kept.columns, strict=True))
    columns |= dict(zip(predicted.column_names, predicted.columns, strict=True))
    columns["model_version"] = pa.repeat(pa.scalar(model.version, pa.int64()), len(decoded.kept))
    return pa.table(columns)


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
    kept_schema = pa.ipc.read_schema(pa.py_buffer(work.kept))
    predictions = _Growing(work, f"predictions/{unit.id}.parquet")
    rejects = _Growing(work, f"rejects/{unit.id}.parquet")
    problems: Counter[tuple[str, str]] = Counter()
    rows_in = 0
    columns = list(dict.fromkeys([*model.schema.names, *kept_schema.names]))
    tables = source.read(locate(work.input), unit, columns=columns, batch_rows=work.batch_rows)
    with contextlib.ExitStack() as stack:
        while True:
            with seconds.of("read"):
                table = next(tables, None)
            if table is None:
                break
            with seconds.of("check"):
                decoded = from_table(model.schema, table)
                kept = keep_columns(table, kept_schema)
            if decoded.rejects:
                problems.update((reject.field, reject.reason) for reject in decoded.rejects)
                rejects.write(_reject_table(unit, kept, decoded.rejects, first=rows_in), stack=stack)
            if len(decoded.kept):
                with seconds.of("score"):
                    predicted = predict_decoded(model, decoded, kept)
                with seconds.of("write"):
                    predictions.write(predicted, stack=stack)
            rows_in += table.num_rows
        with seconds.of("write"):
            stack.close()
    return Receipt(
        unit=unit.id,
        path=unit.path,
        rows_in=rows_in,
        rows_out=predictions.num_rows,
        rows_rejected=rejects.num_rows,
        files=tuple(file.written() for file in (predictions, rejects) if file.num_rows),
        problems=tuple(Problem(field=name, reason=reason, rows=n) for (name, reason), n in sorted(problems.items())),
        seconds=seconds.spent,
    )


class _Growing:
    """One Parquet file of a unit: opened by its first rows, in its place when the stack closes.

    The settings of the writer follow from the rows alone, so that the same rows are the same bytes.
    """

    def __init__(self, work: Work, path: str) -> None:
        self._staging = Staging.open(work.output, work.run_id)
        self._path = path
        self._sink: HashingSink | None = None
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self.num_rows = 0

    def write(self, table: pa.Table, *, stack: contextlib.ExitStack) -> None:
        if self._writer is None:
            staging = self._staging
            self._sink = stack.enter_context(write_whole(staging.data, self._path, temporary=staging.temporary))
            self._writer = stack.enter_context(_open_writer(self._sink, table))
            stack.callback(self._flush)
        self._waiting.append(table)
        self.num_rows += table.num_rows
        if sum(waiting.num_rows for waiting in self._waiting) >= _ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting and self._writer is not None:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()

    def written(self) -> OutputFile:
        """After the stack has closed."""
        assert self._sink is not None
        return OutputFile(path=self._path, sha256=self._sink.sha256, bytes=self._sink.num_bytes, rows=self.num_rows)


def _open_writer(sink: HashingSink, first: pa.Table) -> pq.ParquetWriter:
    # A dictionary of values that hardly repeat costs twice the time and is thrown away in the end.
    repeating = [
        name
        for name, column in zip(first.column_names, first.columns, strict=True)
        if not pa.types.is_nested(column.type) and pc.count_distinct(column).as_py() <= first.num_rows // 2
    ]
    return pq.ParquetWriter(
        sink,
        # pandas' notes about the input's columns would be wrong for the output.
        first.schema.remove_metadata(),
        compression="snappy",
        use_dictionary=repeating,
        version="2.6",
        write_page_checksum=True,
    )


def _reject_table(unit: Unit, kept: pa.Table, rejects: tuple[Reject, ...], *, first: int) -> pa.Table:
    """file, row (position in the file, from 0), field, reason and the kept columns; nothing else of the row."""
    carried = kept.take(pa.array([reject.row for reject in rejects], pa.int64()))
    start = unit.first_row + first
    columns = {
        "file": pa.repeat(unit.path, len(rejects)),
        "row": pa.array([start + reject.row for reject in rejects], pa.int64()),
        "field": pa.array([reject.field for reject in rejects], pa.string()),
        "reason": pa.array([reject.reason for reject in rejects], pa.string()),
    }
    return pa.table(columns | dict(zip(carried.column_names, carried.columns, strict=True)))


def reject_whole(unit: Unit, work: Work, reason: str) -> Receipt:
    """One line in the rejects for a unit that is not scored: all but `file` and `reason` is null."""
    columns = {
        "file": pa.array([unit.path]),
        "row": pa.nulls(1, pa.int64()),
        "field": pa.nulls(1, pa.string()),
        "reason": pa.array([reason]),
    }
    for column in pa.ipc.read_schema(pa.py_buffer(work.kept)):
        columns[column.name] = pa.nulls(1, column.type)
    rejects = _Growing(work, f"rejects/{unit.id}.parquet")
    with contextlib.ExitStack() as stack:
        rejects.write(pa.table(columns), stack=stack)
    return Receipt(
        unit=unit.id,
        path=unit.path,
        rows_in=unit.num_rows,
        rows_out=0,
        rows_rejected=unit.num_rows,
        files=(rejects.written(),),
        problems=(Problem(field="", reason=reason, rows=unit.num_rows),),
        seconds={},
        corrupt=True,
    )
