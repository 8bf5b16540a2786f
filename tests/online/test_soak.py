"""Mixed load for as long as ZAPHOD_SECONDS says (a few by default): a replica's memory stays where it was."""

from __future__ import annotations

import itertools
import json
import logging
import os
import statistics
import time

import httpx
import pytest

from tests.conftest import Server
from tests.online.load import GOOD
from zaphod import machine

_log = logging.getLogger(__name__)

SECONDS = float(os.environ.get("ZAPHOD_SECONDS", "6"))
LONG_S = 60.0
"""From here on one round has to be enough."""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(int(200 + 8 * SECONDS))]

BODIES = (
    json.dumps(GOOD),
    json.dumps({"rows": [GOOD] * 20}),
    json.dumps({"rows": [GOOD] * 2_000}),
    "{not json",
    json.dumps({"amount": "much"}),
    json.dumps({"rows": [GOOD] * 10_001}),
)


def soak(server: Server, *, seconds: float) -> tuple[set[int], list[int]]:
    """Every kind of request in turn; the statuses, and a replica's memory again and again."""
    statuses: set[int] = set()
    sizes: list[int] = []
    end = time.monotonic() + seconds
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for number in itertools.count():
            if time.monotonic() > end:
                return statuses, sizes
            for model, body in itertools.product(("binary", "multiclass", "regressor"), BODIES):
                statuses.add(client.post(f"/v1/models/{model}:predict", content=body).status_code)
            if number % 10 == 0:
                for path in ("/", "/docs", "/openapi.json", "/metrics", "/nowhere"):
                    statuses.add(client.get(path).status_code)
            sizes.append(memory(server))
    return statuses, sizes


def memory(server: Server) -> int:
    """Bytes of the replicas."""
    replicas = [each for each in server.marked() if machine.name_of(each).startswith("ray::ServeReplica")]
    return sum(replica.memory_info().rss for replica in replicas) // len(replicas)


def growth_of(sizes: list[int]) -> float:
    """From the first fifth of a round to its last, by medians: a log's file or a large answer comes and goes."""
    part = max(1, len(sizes) // 5)
    return statistics.median(sizes[-part:]) / statistics.median(sizes[:part]) - 1.0


def test_memory_stays(server: Server) -> None:
    """After every kind of request has been seen, more of them leave nothing behind.

    A short run may still be warming up, and is given more rounds: what is left behind is left by each of them.
    """
    soak(server, seconds=max(4.0, SECONDS / 4))
    growth = []
    for _ in range(1 if SECONDS >= LONG_S else 5):
        statuses, sizes = soak(server, seconds=SECONDS)
        growth.append(growth_of(sizes))
        _log.info("memory %+.2f %% in %.0f s, %d looks", 100 * growth[-1], SECONDS, len(sizes))
        assert statuses == {200, 400, 404, 413, 422}
        if growth[-1] < 0.02:
            return
    pytest.fail(f"a replica's memory grew in every round, by {growth}")
