"""The scoring loop on a real queue and a real model, without Ray."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from streaming.queues.base import Cause, Commit, Cursor, DeadLetter, NewEvent
from streaming.queues.sqlite import SqliteQueue
from streaming.scorer import Scorer
from streaming.settings import ScoringSettings
from tests import models
from zaphod.columns import Columns
from zaphod.errors import PredictionError, QueueUnavailableError
from zaphod.experiment.spec import Experiment, Mode, Phase
from zaphod.predictor import Predictions
from zaphod.registry import CHAMPION, Registry
from zaphod.served import ServedModel, Snapshot

GOOD = {"amount": 100.0, "balance": None, "count": 3, "kind": "a"}
SETTINGS = ScoringSettings(max_batch=16, max_attempts=3, backoff_s=0.001, max_backoff_s=0.01)


@pytest.fixture
def small_registry(constant_models: Registry, tmp_path: Path) -> Registry:
    """Two versions of a constant model, the first is champion."""
    return models.copy(constant_models, tmp_path)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[SqliteQueue]:
    """A stream of one partition."""
    opened = SqliteQueue(tmp_path / "stream", num_partitions=1)
    yield opened
    opened.close()


def scorer_of(
    queue: SqliteQueue, registry: Registry, *, name: str = "me", model: ServedModel | None = None, steal: bool = False
) -> Scorer:
    """A scorer that consumes the partition."""
    scorer = Scorer(
        queue.consumer(name, lease_s=30),
        model or ServedModel.open(registry, "constant@1"),
        settings=SETTINGS,
        lease_s=30,
        pause=lambda _: None,
    )
    scorer.assign([0], steal=[0] if steal else [])
    return scorer


def send(queue: SqliteQueue, *values: object, headers: dict[str, str] | None = None) -> None:
    """Events e0, e1, … after those that are there; bytes go as they are, all else as JSON."""
    first = queue.positions()[0].end_offset
    queue.produce(
        [
            NewEvent(
                value=value if isinstance(value, bytes) else json.dumps(value).encode(),
                id=f"e{first + i}",
                created=time.time(),
                headers=headers or {},
            )
            for i, value in enumerate(values)
        ]
    )


def outputs(queue: SqliteQueue) -> list[dict[str, object]]:
    """Every output, decoded."""
    return [msgspec.json.decode(d.output.value) for d in queue.read_outputs({0: Cursor()}, max_outputs=1000)]


def dead_letters(queue: SqliteQueue) -> list[DeadLetter]:
    """Every dead letter."""
    return [entry.letter for entry in queue.read_dead_letters({0: Cursor()}, max_letters=1000)]


def test_answers_carry_id_version_and_place(queue: SqliteQueue, small_registry: Registry) -> None:
    """An output names the event, the model that answered and the offset."""
    send(queue, GOOD, GOOD)

    assert scorer_of(queue, small_registry).step() == 2

    assert outputs(queue)[1] == {
        "id": "e1", "model": "constant", "version": 1, "variant": "champion", "partition": 0, "offset": 1,
        "prediction": {"value": 1.0},
    }  # fmt: skip


def test_partitions_are_scored_together_and_committed_each(tmp_path: Path, small_registry: Registry) -> None:
    """One step takes what waits in all of them; one that went to another meanwhile costs the others nothing."""
    queue = SqliteQueue(tmp_path / "wide", num_partitions=3)
    scorer = Scorer(
        queue.consumer("me", lease_s=30), ServedModel.open(small_registry, "constant@1"), settings=SETTINGS, lease_s=30
    )
    scorer.assign(range(3))
    values = [*([json.dumps(GOOD).encode()] * 8), b"{not json"]
    queue.produce([NewEvent(value=value, id=f"e{i}", created=time.time()) for i, value in enumerate(values)])
    assert all(position.lag for position in queue.positions())
    assert scorer.step() == len(values)
    queue.produce([NewEvent(value=values[0], id=f"f{i}", created=time.time()) for i in range(8)])
    queue.replay(1, offset=0)  # fences the scorer there

    taken = queue.positions()[0].lag + queue.positions()[2].lag

    assert scorer.step() == taken
    found = [
        msgspec.json.decode(d.output.value)
        for d in queue.read_outputs(dict.fromkeys(range(3), Cursor()), max_outputs=99)
    ]
    assert {(o["partition"], o["offset"]) for o in found} == {
        (d.partition, d.output.offset) for d in queue.read_outputs(dict.fromkeys(range(3), Cursor()), max_outputs=99)
    }
    assert len(found) == 8 + taken
    assert scorer.partitions == {0, 2}
    assert len(queue.read_dead_letters(dict.fromkeys(range(3), Cursor()), max_letters=9)) == 1
    queue.close()


def test_answers_of_several_targets_are_by_target(queue: SqliteQueue, several: Registry) -> None:
    """Labels and probabilities under the targets' names."""
    send(queue, GOOD)

    scorer_of(queue, several, model=ServedModel.open(several, "several@1")).step()

    prediction = outputs(queue)[0]["prediction"]
    (expected,) = models.load_estimator(several, "several").predict(pd.DataFrame([GOOD])).tolist()
    assert prediction["labels"] == dict(zip(("risk", "again"), expected, strict=True))
    assert prediction["probabilities"]["again"].keys() == {"no", "yes"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "JSON"),
        (b"{not json", "JSON"),
        (b"\x00\xff\xfe", "JSON"),
        (b"[" * 100_000, "object"),
        ({**GOOD, "extra": 1}, "extra"),
        ({"amount": 1.0}, "count"),
        ({**GOOD, "amount": "much"}, "$.amount"),
        ({**GOOD, "amount": None}, "$.amount"),
        ({**GOOD, "count": 1.5}, "$.count"),
        ({"specversion": "1.0", "id": "a", "source": "s", "type": "t"}, "data"),
        ({"specversion": "1.0", "id": "a", "source": "s", "type": "t", "data": {"amount": 1.0}}, "count"),
        ({"specversion": "2.0", "id": "a", "source": "s", "type": "t", "data": GOOD}, "1.x"),
        ({"specversion": "1.0", "data": GOOD}, "id"),
    ],
    ids=["empty", "malformed", "bytes", "deep", "unknown", "missing", "type", "null", "fraction",
         "ce-no-data", "ce-bad-data", "ce-version", "ce-no-id"],
)  # fmt: skip
def test_a_bad_event_is_a_dead_letter_and_its_neighbours_are_scored(
    queue: SqliteQueue, small_registry: Registry, value: object, says: str
) -> None:
    """A mistake ends in the dead-letter queue with its bytes and reason; the stream goes on."""
    send(queue, GOOD, value, GOOD)

    scorer_of(queue, small_registry).step()

    assert [output["offset"] for output in outputs(queue)] == [0, 2]
    (letter,) = dead_letters(queue)
    assert (letter.cause, letter.offset, letter.attempts, letter.version) == (Cause.UNPROCESSABLE, 1, 1, 1)
    assert says in letter.reason
    assert letter.value == (value if isinstance(value, bytes) else json.dumps(value).encode())


def test_a_word_of_cloud_events_in_a_row_makes_no_cloud_event(queue: SqliteQueue, small_registry: Registry) -> None:
    """What holds to the schema is a row, whatever its strings say."""
    send(queue, {**GOOD, "kind": "specversion"})

    scorer_of(queue, small_registry).step()

    assert outputs(queue)[0]["prediction"] == {"value": 1.0}


def test_forms_may_be_mixed(queue: SqliteQueue, small_registry: Registry) -> None:
    """Each event is answered in its own form, and names its first id where it was sent again."""
    cloud = {"specversion": "1.0", "id": "abc", "source": "/shop", "type": "paid", "data": GOOD}
    send(queue, GOOD, cloud)
    send(queue, GOOD, headers={"zaphod-original-id": "first"})

    scorer_of(queue, small_registry).step()

    plain, answer, again = outputs(queue)
    assert (plain["id"], plain["offset"]) == ("e0", 0)
    assert (answer["specversion"], answer["data"]["id"], answer["data"]["prediction_id"]) == ("1.0", "abc", "e1")  # type: ignore[index]
    assert (again["id"], again["offset"]) == ("first", 2)
    ids = [delivered.output.id for delivered in queue.read_outputs({0: Cursor()}, max_outputs=9)]
    assert ids == ["e0", "e1", "first"]


def test_a_structured_cloud_event_is_answered_by_one(queue: SqliteQueue, small_registry: Registry) -> None:
    """The row is `data`; the answer is a CloudEvent that names id and source of the event."""
    event = {"specversion": "1.0", "id": "abc", "source": "/shop", "type": "paid", "subject": "card-1", "data": GOOD}
    send(queue, event, headers={"content-type": "application/cloudevents+json; charset=utf-8"})

    scorer_of(queue, small_registry).step()

    (answer,) = outputs(queue)
    assert answer["specversion"] == "1.0"
    assert answer["subject"] == "card-1"
    assert answer["source"] == "/zaphod/constant"
    data = answer["data"]
    assert isinstance(data, dict)
    assert (data["id"], data["source"], data["prediction"]) == ("abc", "/shop", {"value": 1.0})


@pytest.mark.parametrize("prefix", ["ce_", "ce-"])
def test_a_binary_cloud_event_is_answered_by_one(queue: SqliteQueue, small_registry: Registry, prefix: str) -> None:
    """Attributes travel in headers, in as out; Kafka's prefix and HTTP's are read."""
    attributes = {"specversion": "1.0", "id": "abc", "source": "/shop", "type": "paid", "subject": "card-1"}
    send(queue, GOOD, headers={f"{prefix}{name}": value for name, value in attributes.items()})

    scorer_of(queue, small_registry).step()

    (delivered,) = queue.read_outputs({0: Cursor()}, max_outputs=10)
    assert delivered.output.headers["ce_type"] == "zaphod.prediction"
    assert delivered.output.headers["ce_subject"] == "card-1"
    assert msgspec.json.decode(delivered.output.value)["source"] == "/shop"


def test_a_binary_cloud_event_without_id_is_a_dead_letter(queue: SqliteQueue, small_registry: Registry) -> None:
    """A required attribute that is missing is named."""
    send(queue, GOOD, headers={"ce_specversion": "1.0", "ce_source": "/shop"})

    scorer_of(queue, small_registry).step()

    assert "ce_id" in dead_letters(queue)[0].reason


class FailingPredictor:
    """Raises on a batch that holds a row with `count` 13, as often as it is told to."""

    engine = "onnx"

    def __init__(self, inner: Snapshot, *, times: int) -> None:
        self._inner = inner.predictor
        self.left = times

    def predict(self, columns: Columns) -> Predictions:
        if (columns.numbers == 13).any() and self.left:
            self.left -= 1
            raise PredictionError("Cannot predict: the estimator raised ValueError.")
        return self._inner.predict(columns)


class PinnedModel:
    """A served model with a predictor of the test's own."""

    def __init__(self, snapshot: Snapshot, predictor: FailingPredictor) -> None:
        self._snapshot = Snapshot(snapshot.bundle, predictor, snapshot.decoder, snapshot.stamp, snapshot.example)

    def snapshot(self) -> Snapshot:
        return self._snapshot


def failing(registry: Registry, *, times: int) -> ServedModel:
    """A model that fails on `count` 13."""
    snapshot = ServedModel.open(registry, "constant@1").snapshot()
    return PinnedModel(snapshot, FailingPredictor(snapshot, times=times))  # type: ignore[return-value]  # what a scorer uses of it


def test_an_event_the_model_fails_on_is_retried_then_a_dead_letter(
    queue: SqliteQueue, small_registry: Registry
) -> None:
    """Its neighbours are answered; it is `failed` after the allowed attempts."""
    send(queue, GOOD, {**GOOD, "count": 13}, GOOD)

    scorer_of(queue, small_registry, model=failing(small_registry, times=99)).step()

    assert [output["offset"] for output in outputs(queue)] == [0, 2]
    (letter,) = dead_letters(queue)
    assert (letter.cause, letter.attempts) == (Cause.FAILED, 3)


def test_a_failure_that_passes_is_no_dead_letter(queue: SqliteQueue, small_registry: Registry) -> None:
    """The second attempt succeeds: the event is answered."""
    send(queue, {**GOOD, "count": 13})

    scorer_of(queue, small_registry, model=failing(small_registry, times=2)).step()

    assert len(outputs(queue)) == 1
    assert dead_letters(queue) == []


def test_a_model_swap_is_at_one_offset(queue: SqliteQueue, small_registry: Registry) -> None:
    """Everything before the swap is answered by one version, everything after by the other."""
    model = ServedModel.open(small_registry, "constant", interval_s=3600)  # it looks when it is told to
    scorer = scorer_of(queue, small_registry, model=model)
    send(queue, GOOD, GOOD)
    scorer.step()
    small_registry.set_alias("constant", alias=CHAMPION, version=2, action="promote", why="test")
    model.refresh()
    send(queue, GOOD)
    scorer.step()
    small_registry.set_alias("constant", alias=CHAMPION, version=1, action="rollback", why="test")
    model.close()

    assert [output["version"] for output in outputs(queue)] == [1, 1, 2]


@pytest.mark.parametrize("entity", ["count", "kind", None])
def test_variants_are_those_of_the_online_arm(queue: SqliteQueue, small_registry: Registry, entity: str | None) -> None:
    """An event without a key goes by the field that the experiment names, as a request without a header does."""
    running = Experiment(
        id="x", model="constant", mode=Mode.AB, champion=1, challenger=2, salt="salt", entity=entity,
        phases=(Phase(number=1, share=0.5, started_s=time.time()),), plan=msgspec.Raw(b"{}"),
    )  # fmt: skip
    before = small_registry.state("constant")
    small_registry.append("constant", before=before, experiment=running, action="test", why="test")
    model = ServedModel.open(small_registry, "constant")
    events = [GOOD | {"count": number, "kind": "abc"[number % 3]} for number in range(30)]
    send(queue, *events)
    queue.produce([NewEvent(value=json.dumps(GOOD).encode(), id="keyed", key="k", created=time.time())])
    scorer = scorer_of(queue, small_registry, model=model)

    while len(outputs(queue)) < 31:
        scorer.step()

    snapshot = model.snapshot()
    *found, keyed = outputs(queue)
    for number, (event, output) in enumerate(zip(events, found, strict=True)):
        columns = snapshot.decoder.columns([snapshot.decoder.convert_row(event)])
        asked = snapshot.score(columns, ids=f"e{number}")
        assert output["variant"] == asked.stamp_of(0).variant
    assert {output["variant"] for output in found} == {"champion", "challenger"}
    columns = snapshot.decoder.columns([snapshot.decoder.convert_row(GOOD)])
    assert keyed["variant"] == snapshot.score(columns, entities=["k"]).stamp_of(0).variant
    model.close()


def test_an_event_that_kills_its_scorers_ends_as_a_dead_letter(queue: SqliteQueue, small_registry: Registry) -> None:
    """Each successor of a dead scorer goes one by one; after the allowed deaths the event is put aside."""

    class Death(BaseException):
        pass

    class Killer(FailingPredictor):
        def predict(self, columns: Columns) -> Predictions:
            if (columns.numbers == 13).any():
                raise Death
            return self._inner.predict(columns)

    snapshot = ServedModel.open(small_registry, "constant@1").snapshot()
    model = PinnedModel(snapshot, Killer(snapshot, times=0))
    send(queue, GOOD, {**GOOD, "count": 13}, GOOD)
    deaths = 0
    for number in range(10):
        scorer = scorer_of(queue, small_registry, name=f"s{number}", model=model, steal=True)  # type: ignore[arg-type]  # as above
        try:
            scorer.step()
        except Death:
            deaths += 1
        else:
            break

    assert deaths == SETTINGS.max_attempts + 1  # the first death names no event yet
    assert [output["offset"] for output in outputs(queue)] == [0, 2]
    (letter,) = dead_letters(queue)
    assert (letter.cause, letter.offset, letter.attempts) == (Cause.FAILED, 1, 3)


def test_a_queue_outage_is_waited_out(
    queue: SqliteQueue, small_registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that fails for want of a queue is tried again until it succeeds; nothing is lost or doubled."""
    send(queue, GOOD)
    scorer = scorer_of(queue, small_registry)
    commit_all, failures = scorer._consumer.commit_all, iter(range(3))  # the fault is put where a full disk would be

    def flaky(commits: Sequence[Commit]) -> list[bool]:
        if next(failures, None) is not None:
            raise QueueUnavailableError("Cannot use the queue: the disk is full. It is tried again.")
        return commit_all(commits)

    monkeypatch.setattr(scorer._consumer, "commit_all", flaky)
    scorer.step()

    assert next(failures, None) is None
    assert len(outputs(queue)) == 1
