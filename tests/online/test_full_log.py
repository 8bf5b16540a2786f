"""With `when_full: block` a full log refuses predictions, and the server goes on; without Ray."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.dataset as ds
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.batching import Batcher
from deployments.protocols.base import Question
from deployments.scoring import Scoring
from tests.conftest import wait_for
from tests.online.inprocess import GOOD, listening, make_app
from zaphod.errors import StorageUnavailableError
from zaphod.monitoring.encode import RecordEncoder
from zaphod.monitoring.log import PredictionLog
from zaphod.monitoring.outcomes import OutcomeEncoder, OutcomeLog
from zaphod.monitoring.policy import Hasher
from zaphod.monitoring.segments import SegmentWriter
from zaphod.monitoring.settings import LogSettings
from zaphod.registry import Registry
from zaphod.schema import LogPolicy
from zaphod.served import Scored, Snapshot
from zaphod.storage import LocalStorage

MAX_ROWS = 5
SETTINGS = LogSettings(flush_s=0.05, max_rows=MAX_ROWS, when_full="block")
PATH = "/v1/models/binary:predict"


class Away(LocalStorage):
    """A storage that is away until it is let back."""

    back = threading.Event()

    def create(self, path: str, data: bytes | memoryview, *, private: bool = False) -> None:
        if not self.back.is_set():
            raise StorageUnavailableError("Cannot reach it: it is away.")
        super().create(path, data, private=private)


class Asked(Scoring):
    """Counts what it is asked."""

    num_asked = 0

    def score_now(self, snapshot: Snapshot, question: Question) -> Scored | None:
        self.num_asked += 1
        return super().score_now(snapshot, question)


class Batching(Asked):
    """As if every model were heavy."""

    def score_now(self, snapshot: Snapshot, question: Question) -> Scored | None:
        self.num_asked += 1
        return None


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Away]:
    """Away."""
    Away.back.clear()
    yield Away(tmp_path)
    Away.back.set()


@pytest.fixture
def log(storage: Away) -> Iterator[PredictionLog]:
    """As a replica opens it."""
    encoder = RecordEncoder(Hasher(b"k" * 16), entity=LogPolicy.HASH, features=True)
    made: PredictionLog = SegmentWriter(storage, encoder, SETTINGS, waits=False)
    yield made
    storage.back.set()
    made.close()


@pytest.mark.parametrize("scoring", [Asked, Batching])
def test_what_cannot_be_logged_is_refused_and_the_server_goes_on(
    registry: Registry, storage: Away, log: PredictionLog, tmp_path: Path, scoring: type[Asked]
) -> None:
    """503 with Retry-After, of good requests and bad ones, while health answers; each 200 has its record.

    Only the first that finds no room has been predicted for nothing.
    """
    asked = scoring(Batcher(max_rows=1_024))
    app = make_app(registry, log=log, scoring=asked)
    with listening(app) as (host, port), httpx.Client(base_url=f"http://{host}:{port}", timeout=5) as http:
        answers = [http.post(PATH, json=GOOD) for _ in range(MAX_ROWS + 3)]
        bad = http.post(PATH, json={"amount": "a lot"})
        others = [http.post("/v2/models/binary/infer", json={}), http.post("/invocations", json={})]
        num_asked = asked.num_asked
        health = http.get("/health")
        text = http.get("/metrics").text
        storage.back.set()
        wait_for(lambda: http.post(PATH, json=GOOD).status_code == 200)
        log.flush()

    assert [answer.status_code for answer in answers] == [200] * MAX_ROWS + [503] * 3
    assert {each.status_code for each in (bad, *others)} == {503}
    assert {each.headers["retry-after"] for each in (*answers[MAX_ROWS:], bad, *others)} == {"1"}
    assert answers[-1].json()["error"] == "log_full"
    assert health.status_code == 200
    # On the long way it is asked once more.
    assert num_asked == (MAX_ROWS + 1) * (2 if scoring is Batching else 1)
    refused = {
        sample.labels["protocol"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "zaphod_requests_total" and sample.labels["outcome"] == "refused"
    }
    assert refused == {"plain": 4, "openinference": 1, "mlflow": 1}
    kept = ds.dataset(tmp_path, format="parquet", partitioning=None).to_table(columns=["call", "status"]).to_pylist()
    assert {row["call"] for row in kept} > {answer.json()["prediction_id"] for answer in answers[:MAX_ROWS]}
    assert [row["status"] for row in kept] == ["ok"] * (MAX_ROWS + 1)


def test_room_for_one_is_no_room_after_many_were_refused(registry: Registry, log: PredictionLog) -> None:
    """Small requests do not overtake large ones: whoever comes waits for the storage to take something."""
    app = make_app(registry, log=log, scoring=Batching(Batcher(max_rows=1_024)))
    rows = json.dumps({"rows": [GOOD] * (MAX_ROWS - 1)}).encode()
    with listening(app) as (host, port), httpx.Client(base_url=f"http://{host}:{port}", timeout=5) as http:
        assert http.post(PATH, content=rows).status_code == 200
        assert http.post(PATH, content=rows).status_code == 503
        assert http.post(PATH, json=GOOD).status_code == 503


def test_outcomes_are_refused_too(registry: Registry, storage: Away) -> None:
    """They wait for the same storage, on the same event loop."""
    outcomes: OutcomeLog = SegmentWriter(storage, OutcomeEncoder(), SETTINGS, waits=False)
    told = {"outcomes": [{"prediction_id": "a", "value": 1}] * MAX_ROWS}
    with (
        listening(make_app(registry, outcomes=outcomes)) as (host, port),
        httpx.Client(base_url=f"http://{host}:{port}", timeout=5) as http,
    ):
        first, second = http.post("/v1/outcomes", json=told), http.post("/v1/outcomes", json=told)
        health = http.get("/health")
        storage.back.set()
        wait_for(lambda: http.post("/v1/outcomes", json=told).status_code == 202)
    outcomes.close()

    assert (first.status_code, second.status_code, health.status_code) == (202, 503, 200)
    assert second.headers["retry-after"] == "1"
