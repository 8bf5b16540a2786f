"""What a task does with one unit: read, check, predict, write, and leave a receipt."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa

from batch import source
from batch.commit import Problem, Receipt, Staging
from batch.model import Version, joint_schema, load_model
from batch.plan import Unit
from batch.predict import Ask, keep_columns, predict
from batch.rows import Batch, CorruptFileError, Wanted, check
from batch.settings import OnCorrupt
from batch.summary import Summary, add_up
from batch.trial import Entry, UnitLog, origin_of, trial_of
from batch.writer import PartitionedWriter, PartWriter
from zaphod.columns import Reject
from zaphod.contender import Contender
from zaphod.errors import PredictionError, SchemaMismatchError, ZaphodError
from zaphod.experiment.spec import Mode
from zaphod.location import locate
from zaphod.registry import CHALLENGER, CHAMPION

# Batches between two that are held against the training data, from the first of each unit on.
_DRIFT_EVERY = 4


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What every task of a run needs to know."""

    input: str
    output: str
    run_id: str
    recipe: str
    champion: Version
    challenger: Version | None
    kept: bytes
    """The kept columns' names and types: a serialized Arrow schema."""
    columns: tuple[str, ...]
    truth: str | None
    partition_by: tuple[str, ...]
    file_rows: int | None
    csv_delimiter: str
    csv_null_values: tuple[str, ...]
    on_corrupt: OnCorrupt
    batch_rows: int
    max_attempts: int
    log: bytes | None = None
    """`LogSettings` as JSON, for the prediction log; None without one."""
    entity: str | None = None
    entry: Entry | None = None
    prediction_id: bool = False
    pulse_s: float = 30.0
    """How often a unit that takes long says how far it is."""

    @property
    def kept_schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(self.kept))

    def ask(self, *, shadow: bool = True) -> Ask:
        """Loads what is not loaded yet. shadow: with a challenger in the shadow, if there is one.

        Raises: ModelError; for a challenger in the shadow, too.
        """
        champion, entry = load_model(self.champion), self.entry
        origin = origin_of(self.champion, champion, entry, variant=CHAMPION, answered=True)
        trial = theirs = None
        if entry is not None and (entry.experiment.mode is Mode.AB or (entry.is_shadow and shadow)):
            rival = load_model(entry.challenger)
            trial = trial_of(entry, Contender(champion.predictor, origin), model=champion, rival=rival)
        if self.challenger is not None:
            theirs = origin_of(self.challenger, champion, entry, variant=CHALLENGER, answered=False)
        return Ask(
            champion=champion,
            challenger=load_model(self.challenger) if self.challenger is not None else None,
            columns=self.columns,
            truth=self.truth,
            origin=origin,
            challenger_origin=theirs,
            entity=self.entity,
            trial=trial,
            shadow=entry is not None and entry.is_shadow,
            with_ids=self.prediction_id or entry is not None,
        )

    def wanted(self, ask: Ask) -> Wanted:
        """What a unit's readers are asked for."""
        return Wanted(
            schema=joint_schema(ask.champion.schema, ask.challenger.schema if ask.challenger is not None else None),
            kept=self.kept_schema,
            csv_delimiter=self.csv_delimiter,
            csv_null_values=self.csv_null_values,
        )


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
        # A process may have died of the challenger in the shadow, which must not cost the champion's answer.
        receipt = _score(unit, work, work.ask(shadow=attempt == 1))
    except CorruptFileError as error:
        if work.on_corrupt is OnCorrupt.FAIL:
            return Receipt.failed(unit.id, error.message)
        receipt = reject_whole(unit, work, error.message)
    except MemoryError:
        return Receipt.failed(unit.id, source.not_enough_memory(unit))
    except (SchemaMismatchError, PredictionError) as error:
        return Receipt.failed(unit.id, f"{error.message} (in {unit.path})")
    except ZaphodError as error:
        return Receipt.failed(unit.id, error.message)
    staging.leave_receipt(receipt)
    return receipt


@dataclass
class _Seconds:
    """Where the time of a unit went."""

    spent: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("read", "check", "score", "write"), 0.0))

    @contextlib.contextmanager
    def of(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent[phase] += time.perf_counter() - began


def _score(unit: Unit, work: Work, ask: Ask) -> Receipt:
    seconds = _Seconds()
    kept_schema = work.kept_schema
    staging = Staging.open(work.output, work.run_id)
    predictions = PartitionedWriter(
        staging, "predictions", unit.id, partition_by=work.partition_by, file_rows=work.file_rows
    )
    rejects = PartWriter(staging, f"rejects/{unit.id}.parquet")
    call = unit.call(work.recipe)
    log = UnitLog(work.log, ask.origin, call=call)
    problems: Counter[tuple[str, str]] = Counter()
    summaries: list[Summary] = []
    rows_in = batches_in = 0
    said_s = time.monotonic()
    batches = source.read(locate(work.input), unit, work.wanted(ask), batch_rows=work.batch_rows)
    with contextlib.ExitStack() as stack:
        while True:
            with seconds.of("read"):
                batch = next(batches, None)
            if batch is None:
                break
            with seconds.of("check"):
                decoded = check(ask.champion.schema, batch)
                kept = keep_columns(batch.table, kept_schema)
            refused = [*batch.lost, *decoded.rejects]
            if refused:
                problems.update((reject.field, reject.reason) for reject in refused)
                rejects.write(_reject_table(unit, batch, decoded.rejects, kept), stack=stack)
                places = [int(batch.rows[reject.row]) for reject in decoded.rejects]
                lost = [reject.row for reject in batch.lost]
                log.refuse([*decoded.rejects, *batch.lost], [*places, *lost], served_s=time.time())
            if len(decoded.kept):
                with seconds.of("score"):
                    predicted = predict(
                        ask, batch, decoded, kept, watch_drift=batches_in % _DRIFT_EVERY == 0, call=call
                    )
                log.record(predicted.parts, batch, decoded, entities=predicted.entities, split=predicted.split)
                summaries.append(predicted.summary)
                with seconds.of("write"):
                    predictions.write(predicted.table, stack=stack)
            rows_in += batch.num_rows
            batches_in += 1
            if time.monotonic() - said_s >= work.pulse_s:
                staging.note_progress(unit.id, rows_in)
                said_s = time.monotonic()
        with seconds.of("write"):
            log.hurry()
            stack.close()
            log.flush()
    return Receipt(
        unit=unit.id,
        path=unit.path,
        rows_in=rows_in,
        rows_out=predictions.num_rows,
        rows_rejected=rejects.num_rows,
        files=(*predictions.written(), *((rejects.written(),) if rejects.num_rows else ())),
        problems=tuple(Problem(field=name, reason=reason, rows=n) for (name, reason), n in sorted(problems.items())),
        seconds=seconds.spent,
        summary=add_up(summaries),
        rows_unlogged=log.num_unlogged,
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
