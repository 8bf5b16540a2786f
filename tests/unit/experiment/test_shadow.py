"""What a shadow is given is what the champion was asked, and it is not blamed for waiting its turn."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from zaphod.columns import Columns, RowDecoder
from zaphod.contender import Contender
from zaphod.errors import PredictionError
from zaphod.monitoring.record import Arm, Call, Origin, Single, Singles, Status
from zaphod.portion import Portion, calls_of, groups_of
from zaphod.predictor import Predictions
from zaphod.schema import DType, Field, Output, Schema, Task
from zaphod.shadow import Patience, starved_s
from zaphod.shadow_process import score

SCHEMA = Schema(
    fields=(
        Field(name="amount", dtype=DType.FLOAT64, nullable=True),
        Field(name="country", dtype=DType.STRING, nullable=True),
    ),
    output=Output(task=Task.REGRESSION, targets=("y",)),
)
CHAMPION = Origin(
    arm=Arm.ONLINE, model="m", version=1, bundle_sha256="ab" * 32, schema=SCHEMA, variant="champion", experiment="e",
    phase=1, mode="shadow",
)  # fmt: skip
CHALLENGER = replace(CHAMPION, version=2, variant="challenger", answered=False)


def columns(*amounts: float | None) -> Columns:
    """Rows of these amounts."""
    decoder = RowDecoder(SCHEMA)
    return decoder.columns([decoder.convert_row({"amount": each, "country": f"c{each}"}) for each in amounts])


def single(number: int) -> Single:
    """A request of one row."""
    answer = Predictions(values=np.array([[1.0]]))
    return Single(CHAMPION, f"s{number}", 10.0 + number, 0.1, columns(number), answer, f"e{number}", number)


def call(id: str | list[str], *amounts: float | None, rows: list[int] | None = None) -> Call:  # noqa: A002
    """A call of several."""
    return Call(
        origin=CHAMPION, id=id, served_s=5.0, num_rows=len(amounts), columns=columns(*amounts),
        rows=None if rows is None else np.array(rows), entities=[f"e{each}" for each in amounts],
        buckets=np.arange(len(amounts)),
    )  # fmt: skip


def as_table(item: Call, *, strings: pa.Array, entities: pa.Array) -> Call:
    """The same with a table's columns."""
    assert item.columns is not None
    return msgspec.structs.replace(item, columns=Columns(item.columns.numbers, (strings,)), entities=entities)


def test_single_rows_arrive_as_they_were() -> None:
    """Id, entity, time, bucket and values of each; nothing of the champion's answer goes over."""
    portion = Portion()
    for number in range(3):
        portion.add(single(number))

    calls = list(calls_of(portion.frame(), CHALLENGER))

    assert portion.num_rows == 3
    assert [(each.id, each.entities, each.served_s) for each in calls] == [
        ("s0", ["e0"], 10.0), ("s1", ["e1"], 11.0), ("s2", ["e2"], 12.0),
    ]  # fmt: skip
    assert [each.columns.numbers.tolist() for each in calls if each.columns] == [[[0.0]], [[1.0]], [[2.0]]]
    assert [each.columns.strings for each in calls if each.columns] == [(["c0"],), (["c1"],), (["c2"],)]
    assert [each.buckets.tolist() for each in calls if each.buckets is not None] == [[0], [1], [2]]
    assert {each.origin.version for each in calls} == {2}
    assert {each.predictions for each in calls} == {None}


def test_calls_arrive_as_they_were() -> None:
    """Those whose rows go by their place, with some left out, those whose rows have ids of their own, and tables."""
    table = as_table(call(["x", "y"], 4.0, 5.0), strings=pa.array(["c4.0", None]), entities=pa.array(["e", None]))
    row = msgspec.structs.replace(single(9), columns=Columns(np.array([[9.0]]), (pa.array(["c9"]),)))
    portion = Portion()
    for item in (call("a", 1.0, None, 3.0, rows=[0, 2, 5]), call("b", 7.0, 8.0, rows=[0, 1]), row, table):
        portion.add(item)

    one, two, alone, three = calls_of(portion.frame(), CHALLENGER)

    assert portion.num_rows == 8
    assert (one.id, two.id, alone.id, three.id) == ("a", "b", "s9", ["x", "y"])
    assert one.rows is not None
    assert (one.rows.tolist(), three.rows) == ([0, 2, 5], None)
    assert one.columns is not None
    assert np.array_equal(one.columns.numbers, [[1.0], [np.nan], [3.0]], equal_nan=True)
    assert two.entities == ["e7.0", "e8.0"]
    assert alone.columns is not None
    assert alone.columns.strings == (["c9"],)
    assert three.columns is not None
    assert (three.columns.strings, three.entities) == ((["c4.0", None],), ["e", None])


def test_a_row_that_cannot_be_copied_leaves_no_trace() -> None:
    """Others before and after it arrive."""
    portion = Portion()
    portion.add(single(1))
    with pytest.raises(UnicodeEncodeError):
        portion.add(msgspec.structs.replace(single(2), entity="\ud800"))
    portion.add(single(3))

    assert [each.id for each in calls_of(portion.frame(), CHALLENGER)] == ["s1", "s3"]


def portion_of(*items: Single | Call) -> bytes:
    """On its way."""
    portion = Portion()
    for item in items:
        portion.add(item)
    return bytes(portion.frame())


def test_single_rows_of_an_hour_go_together() -> None:
    """In their order; calls of several rows, and what is left of such a call, stay as they were."""
    late = msgspec.structs.replace(single(3), served_s=3_600.0)
    frame = portion_of(single(0), single(1), call("a", 1.0, 2.0), call("b", 5.0, rows=[4]), single(2), late)

    groups = list(groups_of(frame, CHALLENGER))

    assert [[each.id for each in group.calls()] for group in groups] == [["s0", "s1"], ["a"], ["b"], ["s2"], ["s3"]]
    both = groups[0].columns()
    assert both.numbers.tolist() == [[0.0], [1.0]]
    assert both.strings == (["c0", "c1"],)


class Doubling:
    """Answers twice the amount, and fails on any call that has an amount of 13."""

    engine = "onnx"

    def predict(self, columns: Columns) -> Predictions:
        if (columns.numbers == 13.0).any():
            raise PredictionError("unlucky")
        return Predictions(values=columns.numbers * 2)


class Kept(list[Call | Singles]):
    """A log in memory."""

    put = list.append


def test_single_rows_are_scored_together_and_one_is_timed() -> None:
    """Each gets its own answer, and the last tells what a call takes."""
    kept = Kept()

    score(portion_of(*map(single, range(4))), Contender(Doubling(), CHALLENGER), kept)  # type: ignore[arg-type]  # as a log

    (answered,) = kept
    assert isinstance(answered, Singles)
    assert answered.predictions.values is not None
    assert (answered.id, answered.predictions.values.ravel().tolist()) == (["s0", "s1", "s2", "s3"], [0, 2, 4, 6])
    assert (answered.served_s, answered.entities) == ([10, 11, 12, 13], ["e0", "e1", "e2", "e3"])
    assert answered.buckets is not None
    assert answered.buckets.tolist() == [0, 1, 2, 3]
    assert np.isnan(answered.latency_s).tolist() == [True, True, True, False]
    assert 0 < answered.latency_s[3] < 60


def test_a_row_that_fails_is_no_fault_of_those_scored_with_it() -> None:
    """Then each is scored alone, and that one recorded as failed."""
    kept = Kept()

    score(portion_of(*map(single, range(11, 15))), Contender(Doubling(), CHALLENGER), kept)  # type: ignore[arg-type]  # as above

    assert [(each.id, each.status) for each in kept if isinstance(each, Call)] == [
        ("s11", Status.OK), ("s12", Status.OK), ("s13", Status.FAILED), ("s14", Status.OK),
    ]  # fmt: skip
    assert all(each.latency_s > 0 for each in kept if isinstance(each, Call))


def test_a_row_that_fails_is_no_fault_of_those_of_its_call() -> None:
    """It is a record of its own, by place or by id; the others are answered."""
    kept = Kept()
    frame = portion_of(call("a", 1.0, 13.0, 3.0, rows=[0, 2, 5]), call(["x", "y"], 13.0, 8.0), call("b", 1.0, rows=[7]))

    score(frame, Contender(Doubling(), CHALLENGER), kept)  # type: ignore[arg-type]  # as above

    calls = [each for each in kept if isinstance(each, Call)]
    told = [(each.id, None if each.rows is None else each.rows.tolist(), each.entities, each.status) for each in calls]
    assert told == [
        ("a", [0, 5], ["e1.0", "e3.0"], Status.OK), ("a", [2], ["e13.0"], Status.FAILED),
        (["y"], None, ["e8.0"], Status.OK), (["x"], None, ["e13.0"], Status.FAILED), ("b", [7], ["e1.0"], Status.OK),
    ]  # fmt: skip
    first = calls[0]
    assert first.predictions is not None
    assert first.predictions.values is not None
    assert first.buckets is not None
    assert (first.predictions.values.ravel().tolist(), first.buckets.tolist()) == ([2.0, 6.0], [0, 2])


def test_a_challenger_that_fails_on_all_is_not_taken_for_one_that_hangs() -> None:
    """However many calls a portion has, few more are made."""
    calls = [0]

    class Broken(Doubling):
        def predict(self, columns: Columns) -> Predictions:
            calls[0] += 1
            raise PredictionError("broken")

    kept = Kept()
    frame = portion_of(*(call(f"c{i}", *range(100), rows=list(range(100))) for i in range(256)))
    score(frame, Contender(Broken(), CHALLENGER), kept)  # type: ignore[arg-type]  # as above

    assert {(each.status, each.num_rows) for each in kept if isinstance(each, Call)} == {(Status.FAILED, 100)}
    assert calls[0] <= 256 + 512


@pytest.mark.parametrize(
    ("waited_s", "starved_s", "over"),
    [(9.0, 0.0, False), (11.0, 0.0, True), (11.0, 0.5, True), (11.0, 1.5, False), (300.0, 299.0, True)],
)
def test_a_process_that_is_not_let_run_does_not_hang(*, waited_s: float, starved_s: float, over: bool) -> None:
    """A busy machine is no fault of the challenger; a loop, a lock and a stop are, and so is a wait without an end."""
    starved = iter((100.0, 100.0 + starved_s))
    patience = Patience(10.0, starved_s=lambda: next(starved))

    assert patience.over(waited_s=waited_s) is over


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not tell")
def test_waiting_for_a_processor_is_told() -> None:
    """Beside another process on the only processor that both may use one waits for it again and again."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = starved_s(os.getpid())
        deadline = time.monotonic() + 30
        while starved_s(os.getpid()) < before + 0.01:
            assert time.monotonic() < deadline
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, mine)


def test_a_process_that_is_gone_waits_for_nothing() -> None:
    """As where no kernel tells: the clock alone judges."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    assert starved_s(gone.pid) == 0.0
