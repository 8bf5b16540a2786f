"""A served model answers as the running experiment says, and records why."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import time
from collections import Counter
from pathlib import Path

import duckdb
import msgspec
import numpy as np
import pytest

from deployments.batching import Waiting, score_together
from deployments.protocols.base import Question
from tests import models
from tests.conftest import Pulse, wait_for
from tests.experiment.conftest import experiment, run
from zaphod.bundle import Bundle
from zaphod.columns import Columns
from zaphod.errors import InvalidInputError, ModelLoadError, PredictionError, StorageUnavailableError
from zaphod.experiment.assignment import Splitter, threshold_of
from zaphod.experiment.spec import Mode
from zaphod.predictor import Predictions, Predictor
from zaphod.registry import CHAMPION, Registry
from zaphod.served import Recording, Scored, ServedModel, Snapshot
from zaphod.shadow import ShadowSettings, ShadowWorker

ENTITIES = [f"user-{i}" for i in range(200)]
# A shadow steps aside for whatever else runs on the machine, from its first second on.
SHADOW_S = 200.0
lets_go_first = pytest.mark.timeout(3 * SHADOW_S)


def rows(snapshot: Snapshot, count: int) -> Columns:
    """Valid rows."""
    frame = models.table(count, seed=3).astype(object)
    records = frame.where(frame.notna(), None).to_dict(orient="records")
    return snapshot.decoder.columns([snapshot.decoder.convert_row(record) for record in records])


def values(scored: Scored) -> list[float]:
    """What a regressor said."""
    assert scored.predictions.values is not None
    return scored.predictions.values[:, 0].tolist()


def records(recording: Recording, tmp_path: Path) -> list[dict[str, object]]:
    """Everything logged so far."""
    assert recording.log.flush()
    found = duckdb.read_parquet(f"{tmp_path}/monitoring/log/**/*.parquet", union_by_name=True)
    return found.order("time, call, row").to_arrow_table().to_pylist()


def expected(share: float = 0.5) -> list[float]:
    """1 from the champion, 2 from the challenger, by the assignment's own rule."""
    return [2.0 if Splitter("salt").bucket(entity) < threshold_of(share) else 1.0 for entity in ENTITIES]


def test_each_entity_gets_its_variant_in_its_place(registry: Registry, recording: Recording, tmp_path: Path) -> None:
    """A call of many entities comes back in order, each row stamped with who answered it."""
    run(registry, experiment())
    served = ServedModel.open(registry, "constant", recording=recording)
    snapshot = served.snapshot()

    scored = snapshot.score(rows(snapshot, 200), entities=ENTITIES)

    assert values(scored) == expected()
    stamps = [(scored.stamp_of(row).version, scored.stamp_of(row).variant) for row in range(200)]
    assert stamps == [(2, "challenger") if value == 2.0 else (1, "champion") for value in expected()]
    found = {(row["call"], row["row"]): row for row in records(recording, tmp_path)}
    assert len(found) == 200
    for place, entity in enumerate(ENTITIES):
        record = found[scored.ids, place]
        assert (record["bucket"], record["output.value"]) == (Splitter("salt").bucket(entity), expected()[place])
        assert (record["experiment"], record["phase"], record["reason"]) == ("exp-1", 1, "entity")
    served.close()


def test_one_by_one_is_the_same_as_all_at_once(registry: Registry) -> None:
    """Without a log, too, and for rows that come alone."""
    run(registry, experiment(share=0.1))
    served = ServedModel.open(registry, "constant")
    snapshot = served.snapshot()
    row = rows(snapshot, 1)

    scored = [snapshot.score(row, entities=[entity]) for entity in ENTITIES]
    assert [values(each)[0] for each in scored] == expected(0.1)
    # Requests are counted by the very stamp.
    assert len({id(each.stamps[0]) for each in scored}) == 2
    served.close()


def test_rows_without_an_entity_go_by_their_id(registry: Registry, recording: Recording, tmp_path: Path) -> None:
    """They are assigned by the prediction's id, and marked."""
    run(registry, experiment())
    served = ServedModel.open(registry, "constant", recording=recording)
    snapshot = served.snapshot()

    scored = snapshot.score(rows(snapshot, 2), entities=["user-1", None], ids=["a", "user-2"])
    alone = snapshot.score(rows(snapshot, 1), ids="user-2")

    assert values(scored)[1] == values(alone)[0] == expected()[2]
    assert Counter(row["reason"] for row in records(recording, tmp_path)) == {"entity": 1, "prediction_id": 2}
    served.close()


def test_the_entity_may_be_a_field_of_the_row(registry: Registry) -> None:
    """An integer field that the experiment names decides, as the same text in a header would."""
    run(registry, msgspec.structs.replace(experiment(), entity="count"))
    served = ServedModel.open(registry, "constant")
    snapshot = served.snapshot()
    columns = rows(snapshot, 50)
    counts = columns.numbers[:, [field.name for field in snapshot.schema.number_fields].index("count")]

    by_field = values(snapshot.score(columns))

    assert by_field == values(snapshot.score(columns, entities=[str(int(count)) for count in counts]))
    assert set(by_field) == {1.0, 2.0}
    served.close()


def test_the_field_decides_for_each_row_without_an_entity(registry: Registry) -> None:
    """Also where the caller names others: a key or a header goes before the field, which goes before the id."""
    run(registry, msgspec.structs.replace(experiment(), entity="count"))
    served = ServedModel.open(registry, "constant")
    snapshot = served.snapshot()
    columns = rows(snapshot, 50)
    ids = [f"id-{row}" for row in range(50)]
    by_field = values(snapshot.score(columns))

    assert values(snapshot.score(columns, entities=[None] * 50, ids=ids)) == by_field
    mixed = [None if row % 2 else ENTITIES[row] for row in range(50)]
    wanted = [by_field[row] if row % 2 else expected()[row] for row in range(50)]
    assert values(snapshot.score(columns, entities=mixed, ids=ids)) == wanted
    alone = [snapshot.score(columns.take(np.array([row])), entities=[None], ids=ids[row]) for row in range(50)]
    assert [values(each)[0] for each in alone] == by_field
    served.close()


def test_questions_that_share_a_call_keep_their_field(registry: Registry) -> None:
    """One caller who names an entity takes nothing from the others who are asked about in the same call."""
    run(registry, msgspec.structs.replace(experiment(), entity="count"))
    served = ServedModel.open(registry, "constant")
    snapshot = served.snapshot()
    columns = rows(snapshot, 20)
    by_field = values(snapshot.score(columns))

    async def together() -> list[Scored | Exception]:
        future = asyncio.get_running_loop().create_future()
        named = Question(columns, entities=ENTITIES[:20])
        return score_together([Waiting(snapshot, named, future), Waiting(snapshot, Question(columns), future)])

    first, second = asyncio.run(together())

    assert isinstance(first, Scored)
    assert isinstance(second, Scored)
    assert values(first) == expected()[:20]
    assert values(second) == by_field
    served.close()


def test_it_follows_phases_and_the_end(registry: Registry) -> None:
    """A new phase, the end of the experiment and a new champion each show within two seconds."""
    served = ServedModel.open(registry, "constant")
    snapshot = served.snapshot()
    row = rows(snapshot, 1)

    def answers() -> set[float]:
        return {values(served.snapshot().score(row, entities=[entity]))[0] for entity in ENTITIES[:20]}

    assert answers() == {1.0}
    for running, wanted in (
        (experiment(share=0.5), {1.0, 2.0}),
        (experiment(share=1.0, phase=2), {2.0}),
        (None, {1.0}),
        (experiment(share=1.0), {2.0}),
    ):
        run(registry, running)
        wait_for(lambda wanted=wanted: answers() == wanted, timeout_s=2.0, what="the experiment is followed")
    registry.set_alias("constant", alias=CHAMPION, version=2, action="promote", why="test")
    assert registry.state("constant").experiment is None
    wait_for(lambda: served.snapshot().stamp.version == 2, timeout_s=2.0, what="the promotion")
    assert served.snapshot().trial is None
    served.close()


def test_a_pin_takes_no_part(registry: Registry) -> None:
    """Whoever asked for version 1 gets version 1."""
    run(registry, experiment(share=1.0))
    served = ServedModel.open(registry, "constant@1")
    snapshot = served.snapshot()

    assert values(snapshot.score(rows(snapshot, 5), entities=ENTITIES[:5])) == [1.0] * 5
    served.close()


def test_a_challenger_that_cannot_be_compared_is_left_out(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """It takes a field that the champion has not: the champion answers all, and the log says why, once."""
    served = ServedModel.open(registry, "constant")
    run(registry, experiment(share=1.0, challenger=3))

    wait_for(lambda: "`age` is unknown to the champion" in caplog.text, what="the reason in the log")

    snapshot = served.snapshot()
    assert values(snapshot.score(rows(snapshot, 5), entities=ENTITIES[:5])) == [1.0] * 5
    served.close()


def test_a_challenger_whose_storage_was_away_is_tried_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then the champion answers all; a challenger that was damaged is not tried at every look."""
    served = ServedModel.open(registry, "constant", interval_s=3600)
    run(registry, experiment(share=1.0))
    load, problems = Registry.load, [StorageUnavailableError("away"), OSError("away"), ModelLoadError("damaged")]

    def fail(self: Registry, name: str, version: int) -> Bundle:
        if problems:
            raise problems[0]
        return load(self, name, version)

    monkeypatch.setattr(Registry, "load", fail)
    for problem in tuple(problems[:2]):
        for _ in range(2):
            with pytest.raises(type(problem)):
                served.refresh()
        assert values(served.snapshot().score(rows(served.snapshot(), 5), entities=ENTITIES[:5])) == [1.0] * 5
        problems.pop(0)
    with pytest.raises(ModelLoadError):
        served.refresh()
    assert not served.refresh()

    problems.clear()
    run(registry, None)
    served.refresh()
    run(registry, experiment(share=1.0))
    assert served.refresh()
    assert values(served.snapshot().score(rows(served.snapshot(), 5), entities=ENTITIES[:5])) == [2.0] * 5
    served.close()


class Picky:
    """A challenger that fails on rows of few counts."""

    engine = "onnx"

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(self, columns: Columns) -> Predictions:
        if (columns.numbers[:, 2] < 10).any():
            raise PredictionError("Cannot predict: too few.")
        return self._predictor.predict(columns)


def test_the_champion_answers_for_a_challenger_that_fails(
    registry: Registry, recording: Recording, tmp_path: Path
) -> None:
    """Only the rows on which it fails are the champion's; the failures are the challenger's in the log."""
    run(registry, experiment(share=0.5))
    served = ServedModel.open(registry, "constant", recording=recording)
    snapshot = served.snapshot()
    assert snapshot.trial is not None
    challenger = snapshot.trial.challenger.predictor
    picky = dataclasses.replace(snapshot.trial.challenger, predictor=Picky(challenger))
    snapshot = dataclasses.replace(snapshot, trial=dataclasses.replace(snapshot.trial, challenger=picky))
    columns = rows(snapshot, 200)

    scored = snapshot.score(columns, entities=ENTITIES)

    few = (columns.numbers[:, 2] < 10).tolist()
    assert values(scored) == [1.0 if bad else value for bad, value in zip(few, expected(), strict=True)]
    by_kind = Counter((row["variant"], row["status"], row["reason"]) for row in records(recording, tmp_path))
    num_failed = sum(bad and value == 2.0 for bad, value in zip(few, expected(), strict=True))
    assert by_kind["challenger", "failed", "entity"] == by_kind["champion", "ok", "fallback"] == num_failed > 0
    served.close()


def test_refusals_are_recorded(registry: Registry, recording: Recording, tmp_path: Path) -> None:
    """With the entity and the place, without the data."""
    served = ServedModel.open(registry, "constant", recording=recording)
    error = InvalidInputError("Expected `float`, got `str` - at `$.amount`")

    served.snapshot().refuse(error, entities=["ann"], ids="r-1")

    (record,) = records(recording, tmp_path)
    assert (record["call"], record["status"], record["error"]) == ("r-1", "refused", "invalid_input")
    assert record["error_field"] == "$.amount"
    served.close()


def worker_of(served: ServedModel) -> ShadowWorker:
    """The process that the running shadow experiment has."""
    trial = served.snapshot().trial
    assert trial is not None
    assert trial.shadow is not None
    return trial.shadow


@lets_go_first
def test_the_shadow_is_recorded_and_never_answers(registry: Registry, recording: Recording, tmp_path: Path) -> None:
    """The champion answers all; the challenger's answers to the same rows stand beside it in the log."""
    run(registry, experiment(mode=Mode.SHADOW, share=1.0))
    served = ServedModel.open(registry, "constant", recording=recording)
    snapshot = served.snapshot()
    worker = worker_of(served)

    many = snapshot.score(rows(snapshot, 40), entities=ENTITIES[:40])
    one = snapshot.score(rows(snapshot, 1), ids="alone")
    wait_for(lambda: worker.counts.scored == 41, timeout_s=SHADOW_S, what="the copies are scored")
    served.close()

    assert values(many) == [1.0] * 40
    assert values(one) == [1.0]
    found = records(recording, tmp_path)
    by_variant = {
        variant: sorted((str(row["call"]), row["row"] or 0) for row in found if row["variant"] == variant)
        for variant in ("champion", "challenger")
    }
    assert by_variant["champion"] == by_variant["challenger"]
    assert len(by_variant["champion"]) == 41
    shadows = [row for row in found if row["variant"] == "challenger"]
    assert {(row["output.value"], row["answered"], row["mode"], row["reason"]) for row in shadows} == {
        (2.0, False, "shadow", "shadow")
    }


@lets_go_first
@pytest.mark.parametrize(("number", "cause"), [(signal.SIGKILL, "crashed"), (signal.SIGSTOP, "hung")])
def test_a_shadow_that_dies_or_hangs_is_replaced(
    registry: Registry, recording: Recording, tmp_path: Path, number: signal.Signals, cause: str
) -> None:
    """Answers go on meanwhile, at their speed; what it died of is recorded as its failure; the next one goes on."""
    run(registry, experiment(mode=Mode.SHADOW, share=1.0))
    if number == signal.SIGSTOP:
        recording = dataclasses.replace(recording, shadow=ShadowSettings(answer_s=3.0))
    served = ServedModel.open(registry, "constant", recording=recording)
    snapshot = served.snapshot()
    worker = worker_of(served)
    row = rows(snapshot, 1)

    def runs(scored: int) -> bool:
        snapshot.score(row)
        return worker.counts.scored > scored

    wait_for(lambda: runs(0), timeout_s=SHADOW_S, what="the shadow runs")
    assert worker.pid is not None
    before = worker.counts.deaths

    os.kill(worker.pid, number)
    slowest = 0.0
    with Pulse() as pulse:
        while worker.counts.deaths == before:
            began = time.monotonic()
            assert values(snapshot.score(row)) == [1.0]
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.002)

    scored = worker.counts.scored
    wait_for(lambda: runs(scored), timeout_s=SHADOW_S, what="the shadow runs again")
    served.close()

    failed = [row for row in records(recording, tmp_path) if row["status"] == "failed"]
    assert len(failed) == worker.counts.lost > 0
    assert {(row["variant"], row["error"]) for row in failed} == {("challenger", cause)}
    assert slowest - pulse.late_s < 1.0


@lets_go_first
def test_a_shadow_that_eats_memory_is_ended(registry: Registry, recording: Recording) -> None:
    """Its process is ended once it has grown beyond the bound."""
    run(registry, experiment(mode=Mode.SHADOW, share=1.0))
    small = dataclasses.replace(recording, shadow=ShadowSettings(max_memory_mb=20))
    served = ServedModel.open(registry, "constant", recording=small)
    snapshot = served.snapshot()
    worker = worker_of(served)

    assert values(snapshot.score(rows(snapshot, 3))) == [1.0] * 3
    wait_for(lambda: worker.counts.deaths == 1, timeout_s=SHADOW_S, what="the process is ended")
    served.close()


@lets_go_first
def test_a_slow_shadow_drops_copies(registry: Registry, recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """What finds no room is dropped and counted; the champion does not wait."""
    run(registry, experiment(mode=Mode.SHADOW, share=1.0))
    small = dataclasses.replace(recording, shadow=ShadowSettings(max_rows=10))
    with monkeypatch.context() as patch:
        patch.setattr(ShadowWorker, "_start", lambda worker: False)
        served = ServedModel.open(registry, "constant", recording=small)
        snapshot = served.snapshot()
        row = rows(snapshot, 1)
        for _ in range(100):
            snapshot.score(row)
        worker = worker_of(served)
        counts = worker.counts

    assert (counts.offered, counts.dropped) == (100, 90)
    wait_for(lambda: worker.counts.scored == 10, timeout_s=SHADOW_S, what="the rest is scored")
    served.close()


@lets_go_first
def test_copies_are_shipped_before_there_is_no_room(
    registry: Registry, recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it is enough; they do not wait for the next round then, nor does the end."""
    monkeypatch.setattr("zaphod.shadow._TICK_S", 600.0)
    run(registry, experiment(mode=Mode.SHADOW, share=1.0))
    small = dataclasses.replace(recording, shadow=ShadowSettings(max_rows=20))
    served = ServedModel.open(registry, "constant", recording=small)
    snapshot = served.snapshot()

    snapshot.score(rows(snapshot, 10))

    worker = worker_of(served)
    wait_for(lambda: worker.counts.scored == 10, timeout_s=SHADOW_S, what="the copies are scored")
    served.close()


def test_half_the_entities_are_copied_at_half(registry: Registry, recording: Recording) -> None:
    """The share of a shadow's phase limits what it is given."""
    run(registry, experiment(mode=Mode.SHADOW, share=0.5))
    served = ServedModel.open(registry, "constant", recording=recording)
    snapshot = served.snapshot()

    snapshot.score(rows(snapshot, 200), entities=ENTITIES)

    assert worker_of(served).counts.offered == np.sum(np.array(expected()) == 2.0)
    served.close()
