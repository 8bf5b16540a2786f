"""The pool on a real Ray: answers, deaths, drain, beside a server."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from streaming.queues.base import Cause, NewEvent
from tests import models
from tests.conftest import Server, wait_for
from tests.streaming.pools import NUM_PARTITIONS, Pool, end_pool, has_first_event, start_pool, write_settings
from zaphod.registry import Registry

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Pool]:
    """Two scorers on a Ray of their own."""
    started = start_pool(tmp_path_factory.mktemp("pool"), registry=registry.uri, model="binary@1")
    yield started
    end_pool(started)


def rows(num_rows: int, *, seed: int) -> list[dict[str, object]]:
    """The test table as JSON would carry it."""
    decoded: list[dict[str, object]] = json.loads(
        models.table(num_rows, seed=seed).to_json(orient="records", double_precision=15)
    )
    return decoded


def events(num: int, *, prefix: str, num_keys: int = 20) -> list[NewEvent]:
    """Events with ids `<prefix>0`, … over some keys."""
    return [
        NewEvent(
            value=msgspec.json.encode(row), id=f"{prefix}{i}", key=f"{prefix}-k{i % num_keys}", created=time.time()
        )
        for i, row in enumerate(rows(num, seed=len(prefix)))
    ]


def assert_each_answered_once_in_order(pool: Pool, sent: list[NewEvent]) -> None:
    """No event lost, none doubled, and those of a key in the order they were sent."""
    mine = {event.id: i for i, event in enumerate(sent)}
    answered = [d.output for d in pool.outputs() if d.output.id in mine]
    counts = Counter(output.id for output in answered)
    assert set(counts) == set(mine)
    assert set(counts.values()) == {1}
    by_key: dict[str | None, list[int]] = {}
    for output in answered:
        by_key.setdefault(output.key, []).append(mine[output.id])
    assert all(order == sorted(order) for order in by_key.values())


def test_every_event_is_answered_once(pool: Pool) -> None:
    """Two scorers share the partitions; every event has one output, in key order, or one dead letter."""
    sent = events(2_000, prefix="a")
    bad = NewEvent(value=b"{", id="bad", created=time.time())

    pool.queue.produce([*sent, bad])
    pool.wait_scored()

    assert_each_answered_once_in_order(pool, sent)
    assert len(pool.scorers()) == 2
    (letter,) = [letter for letter in pool.dead_letters() if letter.id == "bad"]
    assert letter.cause is Cause.UNPROCESSABLE


@pytest.mark.fault
def test_a_killed_scorer_is_replaced_and_nothing_is_lost_or_doubled(pool: Pool) -> None:
    """`kill -9` of a scorer in the middle of its work: the other takes over, a new one comes."""
    sent = events(20_000, prefix="kill")
    victim = pool.scorers()[0]
    pool.queue.produce(sent[:10_000])
    wait_for(lambda: sum(p.lag for p in pool.queue.positions()) < 9_500, what="work begun")
    victim.suspend()  # what comes now to its partitions is there when it dies, however fast it is
    pool.queue.produce(sent[10_000:])
    lag_at_kill = sum(position.lag for position in pool.queue.positions())
    with contextlib.suppress(psutil.NoSuchProcess):  # stopped in the middle of a commit it is ended
        victim.kill()
    pool.wait_scored()

    assert lag_at_kill > 0, "the kill came after the work"
    assert_each_answered_once_in_order(pool, sent)
    wait_for(lambda: len(pool.scorers()) == 2, what="a replacement")
    assert victim.pid not in {process.pid for process in pool.scorers()}


@pytest.mark.fault
def test_a_stopped_scorer_that_wakes_up_writes_nothing(pool: Pool) -> None:
    """SIGSTOP past the lease, then SIGCONT: the zombie's late commit is fenced."""
    sent = events(10_000, prefix="zombie")
    zombie = pool.scorers()[0]
    pool.queue.produce(sent)
    zombie.send_signal(signal.SIGSTOP)
    try:
        pool.wait_scored()
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):  # stopped in the middle of a commit it is ended
            zombie.send_signal(signal.SIGCONT)
    pool.queue.produce(events(100, prefix="after"))
    pool.wait_scored()

    assert_each_answered_once_in_order(pool, sent)


def test_sigterm_drains_and_a_restart_goes_on(tmp_path: Path, registry: Registry) -> None:
    """SIGTERM gives every lease back and leaves no process; the next start scores what came meanwhile."""
    pool = start_pool(tmp_path, registry=registry.uri, model="binary@1", num_scorers=1)
    first = events(3_000, prefix="first")
    pool.queue.produce(first)
    wait_for(lambda: len(pool.outputs()) > 0, what="a first output")

    pool.stop(signal.SIGTERM)

    assert pool.process.returncode == 0, pool.log.read_text()
    assert all(position.owner is None for position in pool.queue.positions())
    assert pool.left_behind() == []
    assert "drained" in pool.log.read_text()
    pool.queue.close()
    again = start_pool(tmp_path, registry=registry.uri, model="binary@1", num_scorers=1)
    again.wait_scored()
    assert_each_answered_once_in_order(again, first)
    end_pool(again)


def test_it_runs_beside_the_server_on_one_ray(server: Server, registry: Registry) -> None:
    """In the home of a running server the pool joins its Ray, and starts none of its own."""
    pool = start_pool(server.home, registry=registry.uri, model="regressor@1", num_scorers=1)
    sent = events(500, prefix="beside")

    pool.queue.produce(sent)
    pool.wait_scored()

    assert_each_answered_once_in_order(pool, sent)
    assert "the Ray at" in pool.log.read_text()
    end_pool(pool)
    assert [process for process in server.marked() if "ScorerActor" in " ".join(process.cmdline())] == []


def test_the_demo_shows_outputs_and_latency(tmp_path: Path, registry: Registry) -> None:
    """`demo` starts the pool, feeds it, prints outputs, throughput and latency, and ends."""
    config = write_settings(tmp_path, registry=registry.uri, model="binary@1", num_scorers=1)
    models.table(2_000, seed=5).to_parquet(tmp_path / "events.parquet")

    done = subprocess.run(
        [sys.executable, "-m", "streaming", "demo", "--config", str(config),
         "--events", "events.parquet", "--rate", "500", "--seconds", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert '"model":"binary"' in done.stdout
    assert "1,000 events scored" in done.stdout
    assert "p99" in done.stdout


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model": "nobody"}, "no such alias"),
        ({"queue": {"partitions": 0}}, "queue.partitions"),
        ({"pool": {"min_scorers": 5, "max_scorers": 2}}, "5 > 2"),
        ({"pool": {"placement": "spread"}}, "for one node"),
        ({"unknown": 1}, "unknown"),
    ],
    ids=["model", "partitions", "scorers", "nodes", "key"],
)
def test_a_wrong_setting_is_one_sentence(
    tmp_path: Path, registry: Registry, change: dict[str, object], says: str
) -> None:
    """Nothing is started and no trace is shown."""
    write_settings(tmp_path, registry=registry.uri, model="binary", num_scorers=1)
    (tmp_path / "streaming.yaml").write_text(json.dumps({"registry": registry.uri, "model": "binary", **change}))

    done = subprocess.run(
        [sys.executable, "-m", "streaming", "--config", "streaming.yaml"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_old_goes_by_itself(registry: Registry, tmp_path: Path) -> None:
    """Outputs and scored events; what is young is read meanwhile."""
    pool = start_pool(tmp_path, registry=registry.uri, model="binary@1", num_scorers=1, keep_s=3.0)
    try:
        sent = events(500, prefix="old")
        pool.queue.produce(sent)
        pool.wait_scored()
        assert_each_answered_once_in_order(pool, sent)

        wait_for(lambda: not pool.outputs(), what="no outputs")
        for partition in range(NUM_PARTITIONS):
            wait_for(lambda: not has_first_event(pool.home / "var/stream", partition), what="no events")  # noqa: B023
    finally:
        end_pool(pool)
