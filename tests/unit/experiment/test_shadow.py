"""What a shadow is given is what the champion was asked, and it is not blamed for waiting its turn."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import psutil
import pytest

from zaphod.columns import Columns, RowDecoder
from zaphod.monitoring.record import Arm, Call, Origin, Single
from zaphod.portion import Portion, calls_of
from zaphod.predictor import Predictions
from zaphod.schema import DType, Field, Output, Schema, Task
from zaphod.shadow import Patience

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


def test_single_rows_arrive_as_they_were() -> None:
    """Id, entity, time, bucket and values of each; nothing of the champion's answer goes over."""
    portion = Portion(single(0))
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
    """Those whose rows go by their place, with some left out, and those whose rows have ids of their own."""
    by_place, by_id = call("a", 1.0, None, 3.0, rows=[0, 2, 5]), call(["x", "y"], 4.0, 5.0)
    first, second = Portion(by_place), Portion(by_id)
    assert first.takes(by_place)
    assert not first.takes(by_id)
    assert not first.takes(single(1))
    for portion, item in ((first, by_place), (first, call("b", 7.0, 8.0, rows=[0, 1])), (second, by_id)):
        portion.add(item)

    one, two = calls_of(first.frame(), CHALLENGER)
    (three,) = calls_of(second.frame(), CHALLENGER)

    assert (one.id, two.id, three.id) == ("a", "b", ["x", "y"])
    assert one.rows is not None
    assert (one.rows.tolist(), three.rows) == ([0, 2, 5], None)
    assert one.columns is not None
    assert np.array_equal(one.columns.numbers, [[1.0], [np.nan], [3.0]], equal_nan=True)
    assert two.entities == ["e7.0", "e8.0"]


@dataclass
class Times:
    """Of the processor."""

    user: float = 0.0
    system: float = 0.0


@dataclass
class Process:
    """As psutil shows one."""

    shown: str
    times: Times = field(default_factory=Times)

    def status(self) -> str:
        return self.shown

    def cpu_times(self) -> Times:
        return self.times


@pytest.mark.parametrize(
    ("shown", "cpu_s", "waited_s", "over"),
    [
        (psutil.STATUS_SLEEPING, 0.0, 9.0, False),
        (psutil.STATUS_SLEEPING, 0.0, 11.0, True),
        (psutil.STATUS_STOPPED, 0.0, 11.0, True),
        (psutil.STATUS_RUNNING, 11.0, 11.0, True),
        (psutil.STATUS_RUNNING, 0.5, 11.0, False),
        (psutil.STATUS_RUNNING, 0.5, 301.0, True),
    ],
)
def test_a_process_that_is_not_let_run_does_not_hang(shown: str, cpu_s: float, waited_s: float, *, over: bool) -> None:
    """A busy machine is no fault of the challenger; a loop, a lock and a stop are, and so is a wait without an end."""
    process = Process(shown)
    patience = Patience(process, 10.0)
    process.times = Times(user=cpu_s)

    assert patience.over(now=time.monotonic() + waited_s) is over
