"""Outcomes from a topic reach the log, each once, and what is none becomes a dead letter."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import duckdb
import msgspec
import pytest

from streaming.outcomes import OutcomeConsumer
from streaming.queues.base import Cursor, NewEvent
from streaming.queues.sqlite import SqliteQueue
from tests.conftest import wait_for
from tests.streaming.pools import has_first_event
from zaphod.errors import QueueUnavailableError
from zaphod.monitoring.outcomes import open_outcomes
from zaphod.monitoring.settings import LogSettings

OUTCOME = {"prediction_id": "p-1", "value": 1}


def produce(queue: SqliteQueue, *values: object) -> None:
    """One event each."""
    encoded = [value if isinstance(value, bytes) else msgspec.json.encode(value) for value in values]
    queue.produce(
        [NewEvent(value=value, id=f"o{time.time_ns()}{i}", created=time.time()) for i, value in enumerate(encoded)]
    )


def test_an_outage_of_the_storage_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes that come again, with others, because they could not be committed are in the log once."""
    queue = SqliteQueue(tmp_path / "topic", num_partitions=2)
    log = open_outcomes(LogSettings(uri=str(tmp_path / "log"), flush_s=600))
    assert log is not None
    sent = [f"p-{number}" for number in range(20)]
    produce(queue, *({**OUTCOME, "prediction_id": each} for each in sent[:10]))
    consumer = OutcomeConsumer(queue, log, lease_s=60.0)

    with monkeypatch.context() as patch:
        patch.setattr(log, "flush", lambda: False)
        for _ in range(4):  # both partitions, twice
            with pytest.raises(QueueUnavailableError):
                consumer.step()
    produce(queue, *({**OUTCOME, "prediction_id": each} for each in sent[10:]))
    while sum(position.lag for position in queue.positions()):
        consumer.step()
    log.close()

    found = duckdb.read_parquet(f"{tmp_path}/log/outcomes/**/*.parquet", union_by_name=True)
    assert sorted(row[0] for row in found.project("prediction_id").fetchall()) == sorted(sent)
    assert consumer.num_taken == 20
    queue.close()


def test_what_was_taken_goes_when_it_is_old(tmp_path: Path) -> None:
    """A topic has no outputs; its events go all the same."""
    queue = SqliteQueue(tmp_path / "topic", num_partitions=1, dedupe_window_s=0.01)
    log = open_outcomes(LogSettings(uri=str(tmp_path / "log")))
    assert log is not None
    consumer = OutcomeConsumer(queue, log, lease_s=60.0, keep_s=0.05)
    produce(queue, OUTCOME, OUTCOME)
    consumer.step()
    assert has_first_event(tmp_path / "topic", 0)

    wait_for(lambda: not (consumer.step() or has_first_event(tmp_path / "topic", 0)), what="no events")

    log.close()
    queue.close()


@pytest.mark.parametrize("stop_early", [False, True])
def test_outcomes_are_taken_and_bad_ones_set_aside(tmp_path: Path, *, stop_early: bool) -> None:
    """Also those that come while it runs; a second consumer goes on where the first one stopped."""
    queue = SqliteQueue(tmp_path / "topic", num_partitions=2)
    settings = LogSettings(uri=str(tmp_path / "log"), flush_s=600)
    log = open_outcomes(settings)
    assert log is not None
    produce(queue, OUTCOME, {**OUTCOME, "prediction_id": "p-2", "field": "label", "value": "yes"}, b"{", {"value": 1})

    def consume(until: int) -> None:
        consumer = OutcomeConsumer(queue, log, lease_s=60.0)
        thread = threading.Thread(target=consumer.run, daemon=True)
        thread.start()
        wait_for(lambda: sum(p.next_offset for p in queue.positions()) == until, what="all taken")
        consumer.stop()
        thread.join()

    if stop_early:
        consume(4)
    produce(queue, {**OUTCOME, "prediction_id": "p-3", "time": "2026-01-01T00:00:00Z"})
    consume(5)
    log.close()

    found = duckdb.read_parquet(f"{tmp_path}/log/outcomes/**/*.parquet", union_by_name=True)
    assert sorted(found.project("prediction_id, field, value, text").fetchall()) == [
        ("p-1", "outcome", 1.0, "1"),
        ("p-2", "label", None, "yes"),
        ("p-3", "outcome", 1.0, "1"),
    ]
    letters = queue.read_dead_letters({0: Cursor(), 1: Cursor()}, max_letters=10)
    assert len(letters) == 2
    queue.close()
