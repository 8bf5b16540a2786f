"""What was predicted is in the log, as its policy allows, whole and within the promised time."""

from __future__ import annotations

import dataclasses
import itertools
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.conftest import wait_for
from zaphod.columns import Columns, RowDecoder
from zaphod.errors import StorageUnavailableError
from zaphod.monitoring.encode import RecordEncoder
from zaphod.monitoring.gather import Block, Buffers, Texts
from zaphod.monitoring.log import PredictionLog, open_log
from zaphod.monitoring.policy import Hasher
from zaphod.monitoring.record import Arm, Call, Origin, Single, Singles, Status, new_id
from zaphod.monitoring.segments import LogCounts, SegmentWriter, parquet_bytes, room_for
from zaphod.monitoring.settings import LogSettings
from zaphod.predictor import Predictions
from zaphod.schema import DType, Field, LogPolicy, Output, Schema, Task
from zaphod.storage import LocalStorage

SCHEMA = Schema(
    fields=(
        Field(name="amount", dtype=DType.FLOAT64, nullable=True),
        Field(name="count", dtype=DType.INT64),
        Field(name="email", dtype=DType.STRING, log=LogPolicy.HASH),
        Field(name="income", dtype=DType.FLOAT64, log=LogPolicy.HASH),
        Field(name="note", dtype=DType.STRING, nullable=True, log=LogPolicy.DROP),
    ),
    output=Output(task=Task.CLASSIFICATION, classes=("no", "yes"), has_probabilities=True),
)
ORIGIN = Origin(arm=Arm.ONLINE, model="churn", version=3, bundle_sha256="ab" * 32, schema=SCHEMA, variant="champion")
ROWS = [
    {"amount": 1.5, "count": 2, "email": "ann@example.org", "income": 31234.5, "note": "secret words"},
    {"amount": None, "count": 3, "email": "bob@example.org", "income": 31234.5, "note": None},
]
NOON = 1_700_000_000.0 // 3600 * 3600


def columns() -> Columns:
    """Both rows."""
    decoder = RowDecoder(SCHEMA)
    return decoder.columns([decoder.convert_row(row) for row in ROWS])


def answered(*, served_s: float = NOON, entities: list[str | None] | pa.Array | None = None, id: str = "c") -> Call:  # noqa: A002
    """A call of two rows."""
    labels = np.array(["yes", "no"], dtype=object)
    return Call(
        origin=ORIGIN, id=id, served_s=served_s, num_rows=2, latency_s=0.25, rows=np.arange(2), columns=columns(),
        predictions=Predictions(labels=labels, probabilities=np.array([[0.25, 0.75], [0.5, 0.5]])),
        entities=entities,
    )  # fmt: skip


def single(number: int, *, served_s: float = NOON, as_table: bool = False) -> Single:
    """The first row alone, as nearly every request is; number: tells it from the others."""
    decoder = RowDecoder(SCHEMA)
    asked = decoder.columns([decoder.convert_row(ROWS[0] | {"amount": float(number)})])
    if as_table:
        asked = Columns(asked.numbers, tuple(pa.array(values, pa.string()) for values in asked.strings))
    given = Predictions(labels=np.array(["yes"], dtype=object), probabilities=np.array([[0.25, 0.75]]))
    return Single(ORIGIN, f"s{number:04}", served_s, 0.25, asked, given, f"customer-{number}")


def read(folder: Path) -> list[dict[str, object]]:
    """Every record, the oldest first."""
    paths = sorted(str(path) for path in (folder / "log").rglob("*.parquet"))
    table = ds.dataset(paths, schema=pa.unify_schemas([ds.dataset(path).schema for path in paths])).to_table()
    return sorted(table.to_pylist(), key=lambda row: (row["time"], row["call"], row["row"] or 0))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    """A log that writes when it is told to."""
    opened = open_log(LogSettings(uri=str(tmp_path), flush_s=600))
    assert opened is not None
    yield opened
    opened.close()


def test_a_record_holds_what_was_asked_and_answered(log: PredictionLog, tmp_path: Path) -> None:
    """Id, time, version, features, output and latency of each row stand in one record."""
    log.put(answered(entities=["ann", None]))
    assert log.flush()

    first, second = read(tmp_path)

    assert (first["call"], first["row"], first["version"], first["variant"]) == ("c", 0, 3, "champion")
    assert (first["status"], first["latency_s"], first["arm"]) == ("ok", 0.25, "online")
    assert first["time"].timestamp() == NOON  # type: ignore[attr-defined]  # a datetime
    assert (first["feature.amount"], first["feature.count"]) == (1.5, 2)
    assert (first["output.label"], first["output.probability_yes"]) == ("yes", 0.75)
    assert (second["feature.amount"], second["entity"]) == (None, None)


def test_single_rows_answered_together_are_recorded_one_by_one(log: PredictionLog, tmp_path: Path) -> None:
    """As if each had come alone; what nobody timed has no latency, and outside experiments nobody has a bucket."""
    given = Predictions(
        labels=np.array(["yes", "no"], dtype=object), probabilities=np.array([[0.25, 0.75], [0.5, 0.5]])
    )
    together = Singles(
        origin=ORIGIN, id=["a", "b"], served_s=[NOON, NOON + 1.5], latency_s=[math.nan, 0.5], columns=columns(),
        predictions=given, entities=["ann", None], buckets=np.array([7, 8]),
    )  # fmt: skip
    log.put(together)
    log.put(msgspec.structs.replace(together, id=["c", "d"], served_s=[NOON + 2, NOON + 3], buckets=None))
    assert log.flush()

    found = read(tmp_path)

    assert [(row["call"], row["row"], row["latency_s"], row["bucket"]) for row in found] == [
        ("a", None, None, 7), ("b", None, 0.5, 8), ("c", None, None, None), ("d", None, 0.5, None),
    ]  # fmt: skip
    assert [row["time"].timestamp() - NOON for row in found] == [0, 1.5, 2, 3]  # type: ignore[attr-defined]  # a datetime
    assert [row["feature.amount"] for row in found] == [1.5, None, 1.5, None]
    assert [row["output.label"] for row in found] == ["yes", "no", "yes", "no"]
    assert [row["entity"] is None for row in found] == [False, True, False, True]


def test_single_rows_keep_what_is_theirs(log: PredictionLog, tmp_path: Path) -> None:
    """Rows that come one by one, thousands of them, as lists or tables, beside calls of several and across an hour."""
    for number in range(2_500):
        log.put(single(number, served_s=NOON + number / 1_000 - 1, as_table=number % 100 == 7))
        if number % 1_000 == 0:
            log.put(answered(served_s=NOON + number / 1_000 - 1, entities=["ann", None]))
    assert log.flush()

    records = [record for record in read(tmp_path) if record["row"] is None]

    assert [record["call"] for record in records] == [f"s{number:04}" for number in range(2_500)]
    assert [record["feature.amount"] for record in records] == list(range(2_500))
    assert {record["output.label"] for record in records} == {"yes"}
    assert {record["output.probability_yes"] for record in records} == {0.75}
    assert len({record["entity"] for record in records}) == 2_500
    assert len({record["feature.email"] for record in records}) == 1
    assert {record["time"].timestamp() - NOON < 0 for record in records[:1_000]} == {True}  # type: ignore[attr-defined]
    assert log.counts.written == 2_506
    hours = {path.parent.name for path in tmp_path.rglob("*.parquet")}
    assert len(hours) == 2


@pytest.mark.parametrize("num", [1, 70, 1_500])
def test_strings_come_back_as_they_were(num: int) -> None:
    """One by one, as lists short and long, as arrays, with None among them, empty, and with any character."""
    words = ["", "a", "Grüße", "\x1f", "a\x1fb", "\x00", "line\nbreak"]
    plain = [f"{words[i % 3]}{i if i % 5 else ''}" for i in range(num)]
    odd = [words[i % 7] for i in range(num)]
    gaps = [None if i % 2 else str(i) for i in range(num)]
    texts = Texts(Buffers())
    for values in (plain, odd, pa.array(gaps), gaps, plain, plain):
        texts.add(values)
    for value in plain:
        texts.append(value)

    assert texts.array().to_pylist() == [*plain, *odd, *gaps, *gaps, *plain, *plain, *plain]


def test_memory_is_taken_again_when_nobody_looks_at_it() -> None:
    """The same memory for the next columns; not while an array is on it, and not once it lay unused for two rounds."""
    buffers = Buffers()
    first = buffers.take()
    first.write(b"abcd")
    array = np.frombuffer(first.getbuffer()[: first.tell()], dtype=np.uint8)
    buffers.give(first)

    other = buffers.take()
    assert other is not first
    del array
    assert buffers.take() is first
    assert first.tell() == 0

    buffers.give(first)
    buffers.sweep()
    assert buffers.take() is first
    buffers.give(first)
    buffers.sweep()
    buffers.sweep()
    assert buffers.take() is not first


def test_labels_of_several_targets_stay_with_their_rows() -> None:
    """A label for each target in each row, of whatever type."""
    for labels in (np.array([["a", "x"], ["b", "y"]], dtype=object), np.array([[1, 2], [3, 4]])):
        block = Block(labels, Buffers())
        for row in labels:
            block.add(np.ascontiguousarray(row.reshape(1, 2)))

        assert block.array().tolist() == labels.tolist()


def test_probabilities_may_lie_column_by_column(log: PredictionLog, tmp_path: Path) -> None:
    """As scikit-learn's linear models give them for two classes."""
    given = Predictions(probabilities=np.array([[0.25, 0.5], [0.75, 0.5]]).T)
    log.put(msgspec.structs.replace(answered(), predictions=given))
    log.flush()

    assert [record["output.probability_yes"] for record in read(tmp_path)] == [0.75, 0.5]


def test_only_words_are_looked_up_in_a_dictionary(log: PredictionLog, tmp_path: Path) -> None:
    """Numbers that differ from row to row would take several times as long as all else that is done for a row."""
    log.put(answered())
    assert log.flush()
    [path] = (tmp_path / "log").rglob("*.parquet")
    group = pq.read_metadata(path).row_group(0)
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(group.num_columns)}

    words = {name for name, used in encodings.items() if "RLE_DICTIONARY" in used}

    assert {"arm", "model", "variant", "output.label"} <= words
    assert words.isdisjoint({"time", "row", "version", "latency_s", "feature.amount", "feature.count"})


def test_calls_of_thousands_of_rows_stand_among_small_ones(log: PredictionLog, tmp_path: Path) -> None:
    """Each row keeps its values, in the order in which the calls came."""
    amounts: list[float] = []
    for number, num_rows in enumerate((2, 3_000, 5, 1_024, 2_000, 1)):
        values = np.arange(num_rows, dtype=np.float64) + 10_000 * number
        numbers = np.stack([values, np.ones(num_rows), np.full(num_rows, 5.0)], axis=1)
        shares = np.stack([1 - values / 1e6, values / 1e6]).T
        words = tuple(pa.array(["x"] * num_rows) for _ in SCHEMA.string_fields)
        given = Predictions(labels=np.array(["no"] * num_rows, dtype=object), probabilities=shares)
        log.put(
            Call(
                origin=ORIGIN, id=f"c{number}", served_s=NOON + number, num_rows=num_rows, rows=np.arange(num_rows),
                columns=Columns(numbers, words), predictions=given,
            )
        )  # fmt: skip
        amounts += values.tolist()
    assert log.flush()

    records = read(tmp_path)

    assert [record["feature.amount"] for record in records] == amounts
    assert [record["output.probability_yes"] for record in records] == [amount / 1e6 for amount in amounts]
    assert {record["entity"] for record in records} == {None}


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_files_are_read_whatever_their_compression(tmp_path: Path, compression: str) -> None:
    """The records are the same; a column in which nothing is missing says so."""
    log = writer(LocalStorage(tmp_path), flush_s=600, compression=compression)
    log.put(answered(entities=["ann", None]))
    log.close()

    (path,) = tmp_path.rglob("*.parquet")
    schema = pq.read_schema(path)
    assert [schema.field(name).nullable for name in ("time", "status", "entity", "feature.amount")] == [
        False, False, True, True,
    ]  # fmt: skip
    assert [record["feature.amount"] for record in read(tmp_path)] == [1.5, None]


@pytest.mark.parametrize("room", [0, 1, 200, 1 << 20])
def test_a_file_is_made_where_there_is_room(room: int) -> None:
    """In the memory that is given, or in its own where that is too small: the same file."""
    table = pa.table({"call": ["a", "b"], "feature.amount": [1.5, None], "time": pa.array([1, 2], pa.timestamp("us"))})
    into = bytearray(room)

    made = parquet_bytes(table, {"key": "value"}, into=into)

    assert made == parquet_bytes(table, {"key": "value"})
    assert pq.read_table(pa.py_buffer(made)).to_pylist() == table.to_pylist()
    assert (made.obj is into) == (room > 200)
    assert room_for(table) > len(made)


def test_nothing_dropped_or_hashed_leaves_the_process(log: PredictionLog, tmp_path: Path) -> None:
    """The files hold no byte of a hashed or dropped value; equal values have equal hashes."""
    log.put(answered(entities=["ann", "bob"]))
    log.flush()

    first, second = read(tmp_path)
    raw = b"".join(path.read_bytes() for path in tmp_path.rglob("*.parquet"))
    everything = msgspec.json.encode([first, second])

    for secret in ("ann", "example", "31234.5", "secret words"):
        assert secret.encode() not in raw
        assert secret.encode() not in everything
    assert first["feature.income"] == second["feature.income"]
    assert first["feature.email"] != second["feature.email"]
    assert "feature.note" not in first


def test_writers_of_one_log_hash_alike(tmp_path: Path) -> None:
    """A second process finds the key of the first; another key gives other hashes."""
    for _ in range(2):
        opened = open_log(LogSettings(uri=str(tmp_path / "shared")))
        assert opened is not None
        opened.put(answered(entities=["ann", "bob"]))
        opened.close()
    other = open_log(LogSettings(uri=str(tmp_path / "other")), environ={"ZAPHOD_LOG_KEY": "k" * 32})
    assert other is not None
    other.put(answered(entities=["ann", "bob"]))
    other.close()

    shared = {row["entity"] for row in read(tmp_path / "shared")}
    assert len(shared) == 2
    assert shared.isdisjoint(row["entity"] for row in read(tmp_path / "other"))
    assert not (tmp_path / "other" / "key").exists()
    assert (tmp_path / "shared" / "key").stat().st_mode & 0o777 == 0o600


def test_the_key_of_the_environment_goes_to_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a Ray that was there before would else hash by another key; a key that is set comes first."""
    monkeypatch.setenv("ZAPHOD_LOG_KEY", "e" * 32)

    taken, given = (
        LogSettings.model_validate({"uri": "log", **own}).below(tmp_path) for own in ({}, {"hash_key": "k" * 32})
    )

    assert taken.uri == given.uri == str(tmp_path / "log")
    assert [each.hash_key and each.hash_key.get_secret_value() for each in (taken, given)] == ["e" * 32, "k" * 32]
    assert "eeee" not in repr(taken)


def test_refusals_and_failures_are_records_too(log: PredictionLog, tmp_path: Path) -> None:
    """What got no answer stands in the log with its cause."""
    refusal = {"error": "invalid_input", "error_field": "$.amount", "entities": ["ann"]}
    log.put(Call(origin=ORIGIN, id="r", served_s=NOON, num_rows=1, status=Status.REFUSED, **refusal))
    log.put(
        Call(origin=ORIGIN, id="f", served_s=NOON + 1, num_rows=2, rows=np.arange(2), columns=columns(),
             status=Status.FAILED, error="prediction")
    )  # fmt: skip
    log.flush()

    refused, *failed = read(tmp_path)

    assert (refused["status"], refused["error"], refused["error_field"]) == ("refused", "invalid_input", "$.amount")
    assert [(row["status"], row["error"], row["feature.count"]) for row in failed] == [
        ("failed", "prediction", 2),
        ("failed", "prediction", 3),
    ]


def test_records_are_filed_by_the_hour_they_were_served(log: PredictionLog, tmp_path: Path) -> None:
    """Two calls a second apart across the hour are in two folders; lists and tables stand side by side."""
    log.put(answered(served_s=NOON - 0.5, entities=pa.array(["ann", "bob"])))
    log.put(answered(served_s=NOON + 0.5, entities=["ann", "bob"]))
    log.flush()

    folders = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*.parquet")}

    assert folders == {"log/churn/date=2023-11-14/hour=21", "log/churn/date=2023-11-14/hour=22"}
    first, _, third, _ = read(tmp_path)
    assert first["entity"] == third["entity"]


def test_ids_of_rows_may_be_given(log: PredictionLog, tmp_path: Path) -> None:
    """A stream's events bring ids of their own; no row number is needed."""
    call = answered()
    log.put(msgspec.structs.replace(call, id=["e-1", "e-2"], rows=None))
    log.flush()

    assert [(row["call"], row["row"]) for row in read(tmp_path)] == [("e-1", None), ("e-2", None)]


def test_it_is_written_in_time(tmp_path: Path) -> None:
    """Without a flush or a close the records are there once flush_s is over."""
    log = open_log(LogSettings(uri=str(tmp_path), flush_s=0.2))
    assert log is not None
    log.put(answered())

    wait_for(lambda: log.counts.written == 2, what="a segment")

    assert len(read(tmp_path)) == 2
    log.close()


class Unreachable(LocalStorage):
    """A storage that is away until it is let back."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.back = threading.Event()
        self.tries = 0

    def create(self, path: str, data: bytes | memoryview, *, private: bool = False) -> None:
        self.tries += 1
        if not self.back.is_set():
            raise StorageUnavailableError("Cannot reach it: it is away.")
        super().create(path, data, private=private)


def writer(storage: LocalStorage, **settings: object) -> PredictionLog:
    """A log on this storage."""
    encoder = RecordEncoder(Hasher(b"k" * 16), entity=LogPolicy.HASH, features=True)
    return SegmentWriter(storage, encoder, LogSettings.model_validate({"flush_s": 0.05, **settings}))


def test_a_full_log_drops_and_counts(tmp_path: Path) -> None:
    """While the storage is away predictions go on; what found no room is counted, the rest is written later."""
    storage = Unreachable(tmp_path)
    log = writer(storage, max_rows=10)

    taken = [log.put(answered(id=new_id())) for _ in range(8)]

    assert taken == [True] * 5 + [False] * 3
    assert (log.counts.dropped, log.counts.waiting) == (6, 10)
    storage.back.set()
    wait_for(lambda: log.counts.waiting == 0, what="what waited is written")
    assert len(read(tmp_path)) == 10
    log.close()


def test_what_waits_for_its_storage_keeps_its_values(tmp_path: Path) -> None:
    """Round after round is gathered in memory that the one before may still stand in."""
    schema = Schema(
        fields=(Field(name="size", dtype=DType.FLOAT64), Field(name="kind", dtype=DType.STRING)),
        output=Output(task=Task.REGRESSION),
    )
    storage = Unreachable(tmp_path)
    opened = writer(storage)
    rounds, num_rows = 4, 10
    for each in range(rounds):
        values = np.arange(num_rows, dtype=np.float64) + 100 * each
        opened.put(
            Call(
                origin=dataclasses.replace(ORIGIN, schema=schema), id=f"c{each}", served_s=NOON, num_rows=num_rows,
                rows=np.arange(num_rows), columns=Columns(values.reshape(-1, 1), ([f"k{v:g}" for v in values],)),
                predictions=Predictions(values=values.reshape(-1, 1)),
            )
        )  # fmt: skip
        # The second try was begun when the call was there: it is a table now.
        for _ in range(2):
            tried = storage.tries
            opened.hurry()
            wait_for(lambda tried=tried: storage.tries > tried, what="the storage is tried")  # type: ignore[misc]
    storage.back.set()
    opened.close()

    found = [(row["feature.size"], row["feature.kind"], row["output.value"]) for row in read(tmp_path)]

    assert found == [(v, f"k{v:g}", v) for each in range(rounds) for v in range(100 * each, 100 * each + num_rows)]


def test_a_full_log_that_blocks_loses_nothing(tmp_path: Path) -> None:
    """With `block` the caller waits for room, and every record is written once."""
    storage = Unreachable(tmp_path)
    log = writer(storage, max_rows=10, when_full="block")
    caller = threading.Thread(target=lambda: [log.put(answered(id=new_id())) for _ in range(8)], daemon=True)
    caller.start()
    wait_for(lambda: log.counts.waiting == 10, what="a full queue")
    assert caller.is_alive()

    storage.back.set()
    caller.join(timeout=60)
    log.close()

    assert (log.counts.written, log.counts.dropped) == (16, 0)
    assert len({(row["call"], row["row"]) for row in read(tmp_path)}) == 16


def test_one_bad_call_does_not_end_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A call that cannot be encoded is counted as dropped; the next are written."""
    log = writer(LocalStorage(tmp_path), flush_s=600)
    log.put(msgspec.structs.replace(answered(), predictions=Predictions(probabilities=np.zeros((2, 1)))))
    log.put(msgspec.structs.replace(answered(), origin=dataclasses.replace(ORIGIN, model="other")))
    log.flush()

    assert (log.counts.written, log.counts.dropped, log.counts.waiting) == (2, 2, 0)
    assert "cannot log some predictions" in caplog.text
    log.close()


def test_versions_that_differ_in_a_column_are_both_recorded(tmp_path: Path) -> None:
    """A promotion within a flush: labels were numbers and are words, and a field that was kept is hashed."""
    kept = msgspec.structs.replace(SCHEMA.fields[0], log=LogPolicy.KEEP)
    hashed = msgspec.structs.replace(kept, log=LogPolicy.HASH)
    log = writer(LocalStorage(tmp_path), flush_s=600)
    for number, (field, labels) in enumerate(
        [(kept, [1, 0]), (hashed, ["yes", "no"]), (kept, [1, 0]), (hashed, ["yes", "no"])]
    ):
        schema = msgspec.structs.replace(SCHEMA, fields=(field, *SCHEMA.fields[1:]))
        given = Predictions(labels=np.array(labels, dtype=object if number % 2 else np.int64))
        origin = dataclasses.replace(ORIGIN, schema=schema, version=number)
        log.put(msgspec.structs.replace(answered(id=f"c{number}"), origin=origin, predictions=given))
    assert log.flush()

    assert log.counts == LogCounts(written=8, dropped=0, waiting=0)
    tables = [pq.read_table(path) for path in (tmp_path / "log").rglob("*.parquet")]
    assert sorted(
        (row["call"], row["output.label"]) for table in tables for row in table.to_pylist() if row["row"] == 0
    ) == [("c0", 1), ("c1", "yes"), ("c2", 1), ("c3", "yes")]
    log.close()


class Forgetful(LocalStorage):
    """Takes the first file and says that it did not."""

    failed = False

    def create(self, path: str, data: bytes | memoryview, *, private: bool = False) -> None:
        super().create(path, data, private=private)
        if not self.failed:
            self.failed = True
            raise StorageUnavailableError("Cannot reach it: the answer was lost.")


def test_a_file_whose_answer_was_lost_is_written_once(tmp_path: Path) -> None:
    """What comes meanwhile goes into another one."""
    storage = Forgetful(tmp_path)
    log = writer(storage)
    log.put(answered(id="a"))
    wait_for(lambda: storage.failed, what="the first try")
    log.put(answered(id="b"))
    assert log.flush()
    log.close()

    assert [(row["call"], row["row"]) for row in read(tmp_path)] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert log.counts == LogCounts(written=4, dropped=0, waiting=0)


def test_what_the_storage_does_not_take_at_the_end_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nobody is kept waiting for it."""
    log = writer(Unreachable(tmp_path), flush_s=600)
    log.put(answered())

    log.close()

    assert log.counts == LogCounts(written=0, dropped=2, waiting=0)
    assert "what the storage did not take is lost" in caplog.text


def test_a_model_of_words_alone_is_recorded(tmp_path: Path) -> None:
    """Without a single field of numbers, row by row and call by call."""
    schema = msgspec.structs.replace(SCHEMA, fields=(Field(name="country", dtype=DType.STRING),))
    origin = dataclasses.replace(ORIGIN, schema=schema)
    decoder = RowDecoder(schema)
    log = writer(LocalStorage(tmp_path), flush_s=600)
    for id_, countries in (("a", ["DE"]), ("b", ["FR", "IT"])):
        asked = decoder.columns([decoder.convert_row({"country": country}) for country in countries])
        given = Predictions(probabilities=np.full((len(countries), 2), 0.5))
        if len(countries) == 1:
            log.put(Single(origin, id_, NOON, 0.1, asked, given, None))
        else:
            log.put(Call(origin=origin, id=id_, served_s=NOON, num_rows=2, columns=asked, predictions=given))
    log.close()

    assert log.counts == LogCounts(written=3, dropped=0, waiting=0)
    assert [row["feature.country"] for row in read(tmp_path)] == ["DE", "FR", "IT"]


def test_a_killed_process_loses_only_its_tail(tmp_path: Path) -> None:
    """After kill -9 every record flushed before is there, and no file is half."""
    code = f"""
import time
from pathlib import Path
from tests.unit.monitoring.test_log import answered, open_log, LogSettings
log = open_log(LogSettings(uri={str(tmp_path)!r}, flush_s=0.05))
count = 0
while True:
    log.put(answered(id=f"p{{count}}"))
    count += 1
    if count % 50 == 0:
        log.flush()
        print(count, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    flushed = max(int(line) for line in itertools.islice(process.stdout, 4))
    process.kill()
    process.wait()

    calls = {str(row["call"]) for row in read(tmp_path)}

    assert {f"p{i}" for i in range(flushed)} <= calls
