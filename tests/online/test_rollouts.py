"""Whatever changes behind the edge while callers ask, none of them sees a failure."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from sklearn.ensemble import HistGradientBoostingRegressor

from tests import models
from tests.conftest import ROOT, Server, end_server, start_server, wait_for
from tests.online.load import Callers
from zaphod import machine
from zaphod.packaging import package
from zaphod.registry import CHAMPION, Registry
from zaphod.settings import load_ray_env

NUM_KILLS = int(os.environ.get("ZAPHOD_FAULTS", "2"))
NUM_CALLERS = 8

pytestmark = [pytest.mark.cluster, pytest.mark.fault, pytest.mark.timeout(240 + 30 * NUM_KILLS)]

PATH = "/v1/models/fleet:predict"
# What HAProxy says where it may not close the connection: on one that carried no answer before. Replicas speak JSON.
BY_THE_EDGE = "500: Internal Server Error"


def two_replicas(config: dict[str, Any]) -> None:
    """So that one can go and the other answers."""
    deployment = config["applications"][0]["deployments"][0]
    deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    deployment["ray_actor_options"] = {"num_cpus": 0.2}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Registry]]:
    """Two replicas and a registry of their own, with a model that no other server of this machine has."""
    registry = Registry.open(str(tmp_path_factory.mktemp("registry")))
    X = models.table(500, seed=1)
    fitted = models.pipeline(HistGradientBoostingRegressor(max_iter=20, random_state=0)).fit(X, X["amount"])
    package(fitted, name="fleet", sample=X, registry=registry, nullable=models.NULLABLE)
    registry.set_alias("fleet", alias=CHAMPION, version=1, action="promote", why="test")
    server = start_server(
        tmp_path_factory.mktemp("fleet"), registry=registry.uri, references=["fleet"], change=two_replicas
    )
    wait_for(lambda: len(replicas(server)) == 2, timeout_s=60, what="a second replica")
    yield server, registry
    end_server(server)


def replicas(server: Server) -> list[psutil.Process]:
    """The processes that answer."""
    return [process for process in server.marked() if machine.name_of(process).startswith("ray::ServeReplica")]


def deploy(server: Server, change: Callable[[dict[str, Any]], None]) -> None:
    """`serve deploy` of a changed configuration."""
    path = server.home / "serve.yaml"
    config = yaml.safe_load(path.read_text())
    change(config["applications"][0])
    path.write_text(yaml.safe_dump(config))
    subprocess.run(
        [str(Path(sys.executable).parent / "serve"), "deploy", str(path), "--address", server.dashboard],
        env={**os.environ, **load_ray_env(ROOT / "configs/ray.env")}, check=True, capture_output=True, timeout=100,
    )  # fmt: skip


def test_promotion_and_rollback(fleet: tuple[Server, Registry]) -> None:
    """A new champion answers everywhere within two seconds, the old one after a rollback, and nobody is refused."""
    server, registry = fleet
    version = registry.publish("fleet", registry.load("fleet", 1).files)
    callers = Callers(server.url)

    with callers.calling(PATH, num_callers=4):
        wait_for(lambda: len(callers.asked) > 100)
        for wanted, action in ((version, "promote"), (1, "rollback")):
            registry.set_alias("fleet", alias=CHAMPION, version=wanted, action=action, why="test")
            moved = time.monotonic()
            wait_for(lambda moved=moved: time.monotonic() > moved + 4.0)  # type: ignore[misc]  # mypy cannot infer it
            assert {each.version for each in callers.since(moved + 2.0)} == {wanted}

    assert not callers.failures()


def test_changed_configuration(fleet: tuple[Server, Registry]) -> None:
    """A change in place keeps the replicas, one of the arguments replaces them all; HAProxy is reloaded meanwhile."""
    server, _ = fleet
    callers = Callers(server.url)
    wait_for(lambda: len(replicas(server)) == 2, timeout_s=60, what="two replicas")
    before = {process.pid for process in replicas(server)}

    with callers.calling(PATH, num_callers=4):
        deploy(server, lambda application: application["deployments"][0].update(max_ongoing_requests=32))
        asked = len(callers.asked)
        wait_for(lambda: len(callers.asked) > asked + 500)
        assert {process.pid for process in replicas(server)} == before
        deploy(server, lambda application: application["args"]["limits"].update(max_rows=9_999))
        wait_for(
            lambda: len(replicas(server)) == 2 and not before & {process.pid for process in replicas(server)},
            timeout_s=90,
            what="new replicas alone",
        )
        asked = len(callers.asked)
        wait_for(lambda: len(callers.asked) > asked + 200)

    assert not callers.failures()


def edges(server: Server) -> set[int]:
    """The HAProxy processes."""
    return {process.pid for process in server.marked() if machine.name_of(process) == "haproxy"}


def test_reloaded_edge(fleet: tuple[Server, Registry]) -> None:
    """A replica more and one less: each time a new HAProxy takes over the socket, and nobody notices."""
    server, _ = fleet
    callers = Callers(server.url)
    wait_for(lambda: len(replicas(server)) == 2, timeout_s=60, what="two replicas")

    with callers.calling(PATH, num_callers=4, pause_s=0.0):
        for number in (3, 2):
            before = edges(server)
            limits = {"min_replicas": number, "max_replicas": number, "downscale_delay_s": 0.1}
            deploy(server, lambda application, limits=limits: scale(application, limits))  # type: ignore[misc]  # mypy cannot infer it
            wait_for(
                lambda number=number, before=before: len(replicas(server)) == number and edges(server) - before,  # type: ignore[misc]  # as above
                timeout_s=60,
                what=f"{number} replicas behind a new HAProxy",
            )
            asked = len(callers.asked)
            wait_for(lambda asked=asked: len(callers.asked) > asked + 500)  # type: ignore[misc]  # as above

    assert not callers.failures()


def scale(application: dict[str, Any], limits: dict[str, float]) -> None:
    """Changes the autoscaling configuration."""
    application["deployments"][0]["autoscaling_config"].update(limits)


def test_killed_replica(fleet: tuple[Server, Registry]) -> None:
    """`kill -9` of a busy replica: nobody but those whose requests it had in hand goes without an answer, and it is
    replaced.
    """
    server, _ = fleet
    callers = Callers(server.url)

    with callers.calling(PATH, num_callers=NUM_CALLERS, pause_s=0.0):
        for _ in range(NUM_KILLS):
            asked = len(callers.asked)
            wait_for(lambda asked=asked: len(callers.asked) > asked + 200)  # type: ignore[misc]  # as above
            before = replicas(server)
            before[0].kill()
            wait_for(
                lambda before=before: len({process.pid for process in replicas(server)} - {before[0].pid}) == 2,  # type: ignore[misc]  # as above
                timeout_s=60,
                what="a replacement",
            )

    assert all(each.status in (0, 200) or each.why == BY_THE_EDGE for each in callers.asked), callers.failures()
    assert sum(callers.failures().values()) <= NUM_KILLS * NUM_CALLERS, callers.failures()
