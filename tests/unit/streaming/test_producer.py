"""Events at a rate."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streaming import producer
from streaming.queues.base import NewEvent
from streaming.queues.sqlite import SqliteQueue
from zaphod.errors import InvalidInputError
from zaphod.schema import DType, Field, Output, Schema, Task

NUM = 400
SCHEMA = Schema(
    fields=(Field(name="amount", dtype=DType.FLOAT64, nullable=True), Field(name="kind", dtype=DType.STRING)),
    output=Output(task=Task.REGRESSION),
)


def read(queue: SqliteQueue) -> list[NewEvent]:
    """What was produced, in order."""
    consumer = queue.consumer("me", lease_s=30)
    consumer.acquire(0)
    batch = consumer.poll(max_events=10 * NUM, wait_s=0)
    consumer.close()
    assert batch is not None
    return [NewEvent(value=event.value, id=event.id, created=event.created) for event in batch.events]


@pytest.mark.parametrize("rate", [None, 4_000.0, 100_000.0])
def test_each_event_is_sent_once_as_of_when_it_was_due(tmp_path: Path, rate: float | None) -> None:
    """In order, up to the limit; time spent in waiting to be written counts as latency."""
    queue = SqliteQueue(tmp_path / "stream", num_partitions=1)
    events = (NewEvent(value=b"{}", id=str(number), created=0.0) for number in itertools.count())

    assert producer.feed(queue, events, rate=rate, limit=NUM) == NUM

    found = read(queue)
    assert [event.id for event in found] == [str(number) for number in range(NUM)]
    if rate is not None:
        gaps = [later.created - earlier.created for earlier, later in itertools.pairwise(found)]
        assert gaps == pytest.approx([1 / rate] * (NUM - 1), abs=1e-6)
    queue.close()


def sent(*lines: object, id_column: str | None = None, key_column: str | None = None) -> list[NewEvent]:
    """What becomes of the lines; bytes go as they are, all else as JSON."""
    encoded = [line if isinstance(line, bytes) else msgspec.json.encode(line) for line in lines]
    file = io.BytesIO(b"\n".join(encoded))
    return list(producer.from_lines(file, id_column=id_column, key_column=key_column))


CLOUD = {"specversion": "1.0", "id": "c-1", "source": "/till", "type": "sale", "data": {"order": 17, "who": "ann"}}


def test_lines_have_id_and_key_from_their_fields() -> None:
    """Whole numbers as text; a key that is null is none."""
    first, second = sent({"order": 17, "who": "ann"}, {"order": "x", "who": None}, id_column="order", key_column="who")

    assert (first.id, first.key, first.value) == ("17", "ann", b'{"order":17,"who":"ann"}')
    assert (second.id, second.key) == ("x", None)


def test_a_cloud_event_keeps_its_id_and_partition_key(tmp_path: Path) -> None:
    """So that one sent twice is one event; a column that is named is of its data and goes before."""
    (plain,) = sent(CLOUD)
    assert (plain.id, plain.key) == ("c-1", None)
    (keyed,) = sent(CLOUD | {"partitionkey": "p"})
    assert (keyed.id, keyed.key) == ("c-1", "p")
    (named,) = sent(CLOUD | {"partitionkey": "p"}, id_column="order", key_column="who")
    assert (named.id, named.key) == ("17", "ann")
    queue = SqliteQueue(tmp_path / "stream", num_partitions=1)
    assert producer.feed(queue, sent(CLOUD), rate=None, limit=None) == 1
    producer.feed(queue, sent(CLOUD), rate=None, limit=None)
    assert [event.id for event in read(queue)] == ["c-1"]
    queue.close()


def test_lines_without_names_are_new_events() -> None:
    """Also those that are no JSON, or a broken CloudEvent: they are the scorer's to refuse."""
    lines = (b"{", b"", {"a": 1}, {"a": 1}, {"specversion": "1.0"})

    found = sent(*lines)

    assert len({event.id for event in found}) == 4
    assert {event.key for event in found} == {None}


@pytest.mark.parametrize("bad", [b"{", b"[1]", {"other": 1}, {"order": None}, {"order": [1]}])
def test_a_line_without_the_field_that_was_named_is_refused(bad: object) -> None:
    """With its number, never as an event with an id of its own."""
    with pytest.raises(InvalidInputError, match="line 2"):
        sent({"order": 1}, bad, id_column="order")


def test_a_table_with_nulls_has_events_without_a_key(tmp_path: Path) -> None:
    """A key that is null is none; an id that is null is refused."""
    schema = Schema(fields=(Field(name="amount", dtype=DType.FLOAT64),), output=Output(task=Task.REGRESSION))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"amount": [1.0, 2.0], "order": ["a", None], "who": [None, "ann"]}), path)

    events = producer.from_parquet(path, schema, id_column=None, key_column="who")
    assert [event.key for event in events] == [None, "ann"]
    with pytest.raises(InvalidInputError, match="null"):
        list(producer.from_parquet(path, schema, id_column="order", key_column=None))


def rows_in(folder: Path, *parts: list[dict[str, object]]) -> Path:
    """A folder with a Parquet file for each part."""
    folder.mkdir()
    for number, rows in enumerate(parts):
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{number}.parquet")
    return folder


def test_rows_of_parquet_become_events_in_order(tmp_path: Path) -> None:
    """The model's fields alone, nulls as they are, through files and batches; ids and keys of columns if wanted."""
    rows = [
        {"who": f"c{i % 3}", "number": i, "amount": None if i % 5 == 0 else i / 2, "kind": "a", "extra": 1}
        for i in range(300)
    ]
    folder = rows_in(tmp_path / "events", rows[:120], rows[120:])

    events = list(producer.from_parquet(folder, SCHEMA, id_column="number", key_column="who"))

    assert [event.id for event in events] == [str(i) for i in range(300)]
    assert [event.key for event in events] == [row["who"] for row in rows]
    assert [msgspec.json.decode(event.value) for event in events] == [
        {"amount": row["amount"], "kind": "a"} for row in rows
    ]


def test_rows_without_an_id_get_one_each(tmp_path: Path) -> None:
    """A new one, every time they are read."""
    folder = rows_in(tmp_path / "events", [{"amount": 1.0, "kind": "a"}] * 60)

    events = [
        event for _ in range(2) for event in producer.from_parquet(folder, SCHEMA, id_column=None, key_column=None)
    ]

    assert len({event.id for event in events}) == 120
    assert {event.key for event in events} == {None}


def test_a_file_without_a_column_is_refused(tmp_path: Path) -> None:
    """Named, also when it is a later file."""
    folder = rows_in(tmp_path / "events", [{"amount": 1.0, "kind": "a"}], [{"amount": 1.0}])
    events = producer.from_parquet(folder, SCHEMA, id_column=None, key_column=None)

    with pytest.raises(InvalidInputError, match=r"kind.*1\.parquet"):
        list(events)


def test_a_file_without_any_column_of_the_model_is_refused(tmp_path: Path) -> None:
    """Also where the model needs none of them."""
    schema = Schema(fields=SCHEMA.fields[:1], output=SCHEMA.output)
    assert not schema.fields[0].required
    folder = rows_in(tmp_path / "events", [{"who": "ann"}])

    with pytest.raises(InvalidInputError, match="amount"):
        list(producer.from_parquet(folder, schema, id_column="who", key_column=None))
