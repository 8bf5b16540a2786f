"""Experiments on real processes: HTTP and stream traffic, outcomes that come later, and a watcher that acts."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import httpx
import msgspec
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from streaming.queues.base import NewEvent
from streaming.queues.sqlite import SqliteQueue
from tests import models
from tests.conftest import ROOT, Server, end_server, start_server, wait_for
from tests.streaming.pools import NUM_PARTITIONS, Pool, end_pool, start_pool
from zaphod.experiment.plan import GuardrailPlan, MetricPlan, Plan
from zaphod.packaging import package
from zaphod.registry import CHAMPION, Change, Registry

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PLAN = Plan(
    metrics=(MetricPlan(name="right answers", measure="correct"),),
    guardrails=(
        GuardrailPlan(name="failed", bad="failed", worse_by_at_most=0.05),
        GuardrailPlan(name="slow", bad="slow", objective_ms=4.0, worse_by_at_most=0.3),
    ),
    planned_entities=400,
    outcome_window_s=2.0,
    entity_window_s=0.0,
)
FORMER, BETTER, WORSE, SLOWER = 1, 2, 3, 4


def truth(X: pd.DataFrame) -> pd.Series:
    """What came of a row: 0 or 1."""
    signal = X["amount"] / 30 + X["count"] / 5 + (X["kind"] == "a") * 2.0
    return (signal > 6.0).astype(int)


def publish(registry: Registry) -> None:
    """A champion that is right for most rows; better, worse and slower versions."""
    X = models.table(3_000, seed=1)
    y = truth(X)
    half_blind = X.assign(amount=np.random.default_rng(0).permutation(X["amount"].to_numpy()))
    versions = (
        models.pipeline(LogisticRegression(max_iter=500)).fit(half_blind, y),
        models.pipeline(LogisticRegression(max_iter=500)).fit(X, y),
        models.pipeline(LogisticRegression(max_iter=500)).fit(X, 1 - y),
        models.pipeline(KNeighborsClassifier(50)).fit(X, y),
    )
    for version in versions:
        package(version, name="shop", sample=X, registry=registry, nullable=models.NULLABLE)
    registry.set_alias("shop", alias=CHAMPION, version=1, action="promote", why="first")


@dataclass
class Shop:
    """What runs: a server, a pool on its Ray, a consumer of outcomes; one registry and one log."""

    home: Path
    registry: Registry
    server: Server
    pool: Pool
    outcomes: SqliteQueue

    @property
    def log(self) -> str:
        return str(self.server.home / "var/monitoring")

    def zaphod(self, *arguments: str) -> subprocess.Popen[str]:
        """The command, running."""
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "zaphod"), *arguments, "--registry", self.registry.uri],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=self.home,
            # A watcher that is killed leaves what it joined.
            env={**os.environ, "TMPDIR": str(self.home)},
        )  # fmt: skip

    def run(self, *arguments: str, code: int = 0) -> str:
        """The command, finished."""
        process = self.zaphod(*arguments)
        said, _ = process.communicate(timeout=100)
        assert process.returncode == code, said
        return said

    def watch(self, *flags: str) -> subprocess.Popen[str]:
        """The command that acts on the verdict."""
        return self.zaphod("experiment", "status", "shop", "--auto", "--every", "0.5", "--log", self.log, *flags)

    def entries(self, action: str) -> list[Change]:
        """Of the journal."""
        return [change for change in self.registry.journal("shop") if change.action.startswith(action)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Everything started once."""
    home = tmp_path_factory.mktemp("shop")
    registry = Registry.open(str(home / "registry"))
    publish(registry)
    (home / "plan.yaml").write_text(yaml.safe_dump(PLAN.model_dump(mode="json")))
    holdout = models.table(2_000, seed=9)
    holdout.assign(y=truth(holdout)).to_parquet(home / "holdout.parquet", index=False)
    (home / "gate.yaml").write_text(yaml.safe_dump({"metrics": [], "ece_at_most": None, "better_than_baseline": False}))
    with contextlib.ExitStack() as stack:
        server = start_server(home / "server", registry=registry.uri, references=["shop"])
        stack.callback(end_server, server)
        topic = home / "outcomes"
        environ = {
            "ZAPHOD_MONITORING": f"{{uri: {server.home / 'var/monitoring'}}}",
            "ZAPHOD_OUTCOMES": f"{{kind: sqlite, path: {topic}, partitions: 2}}",
        }
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in environ.items():
            patch.setenv(name, value)
        pool = start_pool(home / "pool", registry=registry.uri, model="shop", num_scorers=1, ray_home=server.home)
        stack.callback(end_pool, pool)
        outcomes = SqliteQueue(topic, num_partitions=2)
        consumer = subprocess.Popen(
            [sys.executable, "-m", "streaming", "outcomes", "--config", str(home / "pool/streaming.yaml")],
            cwd=home / "pool", env=dict(os.environ),
        )  # fmt: skip
        stack.callback(consumer.wait, 30)
        stack.callback(consumer.terminate)
        started = Shop(home=home, registry=registry, server=server, pool=pool, outcomes=outcomes)
        started.run("validate", "shop@2", "--data", str(home / "holdout.parquet"), "--target", "y",
                    "--config", str(home / "gate.yaml"))  # fmt: skip
        yield started


@dataclass
class Traffic:
    """Requests and events of the same customers, from threads of their own; each outcome follows a moment later."""

    shop: Shop
    prefix: str
    failures: list[str] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Traffic:
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._request, self._request, self._stream)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []

    def _request(self) -> None:
        me = threading.get_ident()
        X = models.table(2_000, seed=me % 1_000)
        rows, answers = json_rows(X), truth(X).tolist()
        waiting: list[tuple[float, str, int]] = []
        with httpx.Client(base_url=self.shop.server.url, timeout=30) as client:
            for i in range(100_000):
                if self._stop.is_set():
                    return
                entity = f"{self.prefix}-{me}-{i}" if i % 4 else f"{self.prefix}-both-{i // 4}"
                answer = client.post(
                    "/v1/models/shop:predict", json=rows[i % 2_000], headers={"x-zaphod-entity": entity}
                )
                if answer.status_code != 200:
                    self.failures.append(answer.text)
                    return
                self.versions.append(answer.json()["version"])
                waiting.append((time.monotonic() + 0.5, answer.headers["x-zaphod-prediction-id"], answers[i % 2_000]))
                if len(waiting) >= 25 and waiting[24][0] < time.monotonic():
                    due, waiting = waiting[:25], waiting[25:]
                    document = {"outcomes": [{"prediction_id": name, "value": value} for _, name, value in due]}
                    sent = client.post("/v1/outcomes", json=document)
                    if sent.status_code != 202:
                        self.failures.append(sent.text)
                time.sleep(0.002)

    def _stream(self) -> None:
        X = models.table(2_000, seed=7)
        rows, answers = json_rows(X), truth(X).tolist()
        # SQLite's connections belong to their threads.
        queue = SqliteQueue(self.shop.pool.home / "var/stream", num_partitions=NUM_PARTITIONS)
        told = SqliteQueue(self.shop.home / "outcomes", num_partitions=2)
        late: list[NewEvent] = []
        for batch in range(10_000):
            numbers = range(batch * 10, batch * 10 + 10)
            now = time.time()
            queue.produce(
                [
                    NewEvent(
                        value=msgspec.json.encode(rows[i % 2_000]),
                        id=f"{self.prefix}-event-{i}",
                        created=now,
                        key=f"{self.prefix}-both-{i}" if i % 2 else f"{self.prefix}-stream-{i}",
                    )
                    for i in numbers
                ]
            )
            if late:
                told.produce(late)
            late = [
                NewEvent(
                    value=msgspec.json.encode(
                        {"prediction_id": f"{self.prefix}-event-{i}", "value": answers[i % 2_000]}
                    ),
                    id=f"{self.prefix}-outcome-{i}",
                    created=now,
                )
                for i in numbers
            ]
            if self._stop.wait(0.3):
                break
        told.close()
        queue.close()


def json_rows(X: pd.DataFrame) -> list[dict[str, object]]:
    """The rows as JSON would carry them."""
    rows: list[dict[str, object]] = X.astype(object).where(X.notna(), None).to_dict(orient="records")
    return rows


def begin(shop: Shop, version: int) -> None:
    """An experiment with half of the traffic."""
    shop.run("experiment", "start", f"shop@{version}", "--share", "0.5", "--plan", "plan.yaml", "--why", "test")


def finish(watcher: subprocess.Popen[str], *, within_s: float = 100.0) -> str:
    """What the watcher said until it ended."""
    said, _ = watcher.communicate(timeout=within_s)
    return said


def test_a_better_challenger_is_promoted_once(shop: Shop) -> None:
    """Found by outcomes from HTTP and stream; of three watchers, one killed, exactly one acts; both arms follow."""
    with Traffic(shop, "better") as traffic:
        begin(shop, BETTER)
        watchers = [shop.watch("--promote") for _ in range(3)]
        wait_for(lambda: {1, 2} <= set(traffic.versions), what="both versions answer")
        watchers[0].kill()
        said = [finish(watcher) for watcher in watchers[1:]]
        wait_for(
            lambda: set(traffic.versions[-20:]) == {BETTER}, timeout_s=5, what="all answers are the new champion's"
        )

    assert sorted(watcher.returncode for watcher in watchers[1:]) == [0, 0], said
    assert len(shop.entries("experiment promote")) == 1, said
    state = shop.registry.state("shop")
    assert (state.aliases[CHAMPION], state.experiment) == (BETTER, None)
    assert "right answers" in shop.run("experiment", "status", "shop", "--log", shop.log)
    shop.run("experiment", "report", "shop", "--log", shop.log, "--out", "report.html")
    assert "<html" in (shop.home / "report.html").read_text()
    crossed, arms = variants(shop, "better")
    assert crossed == 0
    assert arms == {"online", "streaming"}


def variants(shop: Shop, prefix: str) -> tuple[int, set[str]]:
    """Customers of both arms who met two variants, and the arms that logged any of the experiment's predictions."""
    wait_for(lambda: not shop.pool.queue.positions()[0].lag, what="the stream is scored")
    log = duckdb.read_parquet(f"{shop.log}/log/shop/**/*.parquet", union_by_name=True)
    mine = log.filter("experiment IS NOT NULL AND reason <> 'fallback'")
    several = mine.aggregate("entity, count(DISTINCT variant) AS variants, count(DISTINCT arm) AS arms", "entity")
    assert several.filter("arms = 2").count("*").fetchall()[0][0] > 10
    crossed = several.filter("variants > 1").count("*").fetchall()[0][0]
    return crossed, {row[0] for row in mine.project("arm").distinct().fetchall()}


def test_a_worse_challenger_is_rolled_back(shop: Shop) -> None:
    """By its outcomes; the champion stays."""
    champion = shop.registry.state("shop").aliases[CHAMPION]
    with Traffic(shop, "worse"):
        begin(shop, WORSE)
        watcher = shop.watch("--promote")
        said = finish(watcher)

    assert watcher.returncode == 2, said
    assert "right answers" in shop.entries("experiment roll back")[-1].why
    state = shop.registry.state("shop")
    assert (state.aliases[CHAMPION], state.experiment) == (champion, None)


def test_a_slower_challenger_is_rolled_back(shop: Shop) -> None:
    """By the guardrail, though its answers are good; and at once, for no outcome has to be waited for."""
    with Traffic(shop, "slower"):
        began = time.monotonic()
        begin(shop, SLOWER)
        watcher = shop.watch()
        said = finish(watcher)
        took_s = time.monotonic() - began

    assert watcher.returncode == 2, said
    assert "guardrail `slow`" in shop.entries("experiment roll back")[-1].why
    assert took_s < 40


SPLITTER = """
import sys, time
import zaphod.trial
from tests import models
from zaphod.monitoring.log import open_log
from zaphod.monitoring.record import Arm
from zaphod.monitoring.settings import LogSettings
from zaphod.registry import Registry
from zaphod.served import Recording, ServedModel

right = zaphod.trial.Trial.split
def broken(self, ids, entities):
    split = right(self, ids, entities)
    return zaphod.trial.Split(split.buckets, split.challenger & (split.buckets % 5 != 0))
zaphod.trial.Trial.split = broken

settings = LogSettings(uri=sys.argv[2])
log = open_log(settings)
served = ServedModel.open(Registry.open(sys.argv[1]), "shop", recording=Recording(log, Arm.ONLINE, settings))
X = models.table(100, seed=1).astype(object)
rows = X.where(X.notna(), None).to_dict(orient="records")
for i in range(100_000):
    snapshot = served.snapshot()
    if snapshot.trial is None:
        break
    columns = snapshot.decoder.columns([snapshot.decoder.convert_row(row) for row in rows])
    snapshot.score(columns, entities=[f"split-{i}-{n}" for n in range(100)])
    time.sleep(0.05)
log.close()
"""


def test_a_broken_splitter_is_caught(shop: Shop) -> None:
    """A process that gives a fifth of the challenger's entities to the champion ends the experiment."""
    begin(shop, FORMER)
    process = subprocess.Popen([sys.executable, "-c", SPLITTER, shop.registry.uri, shop.log], cwd=ROOT)
    watcher = shop.watch()
    said = finish(watcher)

    assert watcher.returncode == 2, said
    assert "the split is not the planned one" in shop.entries("experiment roll back")[-1].why
    assert process.wait(timeout=20) == 0
