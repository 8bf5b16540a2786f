"""The shipped policy adds replicas under load and takes them away after it, and nobody notices but by the speed."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import Server, end_server, start_server, wait_for
from tests.online.load import Callers
from zaphod import machine
from zaphod.registry import Registry

_log = logging.getLogger(__name__)

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PATH = "/v1/models/binary:predict"


def in_a_hurry(config: dict[str, Any]) -> None:
    """Replicas of a tenth of a CPU; seconds of delay."""
    deployment = config["applications"][0]["deployments"][0]
    deployment["autoscaling_config"] |= {"upscale_delay_s": 1, "downscale_delay_s": 1, "look_back_period_s": 2}
    deployment["autoscaling_config"]["policy"]["policy_kwargs"]["target_busy"] = 0.5
    deployment["ray_actor_options"] = {"num_cpus": 0.1}


def replicas(server: Server) -> list[psutil.Process]:
    """The processes that answer, or that begin or end."""
    return [process for process in server.marked() if machine.name_of(process).startswith("ray::ServeReplica")]


def test_one_three_one(tmp_path: Path, registry: Registry) -> None:
    """One replica becomes three while requests of a thousand rows come without a pause, and one again; none fails."""
    server = start_server(tmp_path, registry=registry.uri, references=["binary"], change=in_a_hurry)
    light, heavy = Callers(server.url), Callers(server.url)
    with light.calling(PATH, num_callers=1, pause_s=0.05):
        assert len(replicas(server)) == 1
        began = time.monotonic()
        with heavy.calling(PATH, num_callers=6, pause_s=0.0, num_rows=1_000):
            wait_for(lambda: len(replicas(server)) == 3, timeout_s=60, what="three replicas")
            num_asked = len(heavy.asked)
            wait_for(lambda: len(heavy.asked) > num_asked + 200, timeout_s=60, what="answers of three replicas")
            raised = time.monotonic()
        wait_for(lambda: len(replicas(server)) == 1, timeout_s=60, what="one replica")
        lowered = time.monotonic()
        num_asked = len(light.asked)
        wait_for(lambda: len(light.asked) > num_asked + 20, what="answers of the last replica")
    end_server(server)
    _log.info(
        "up in %.1f s, down in %.1f s, %d requests", raised - began, lowered - raised,
        len(light.asked) + len(heavy.asked),
    )  # fmt: skip

    assert light.failures() + heavy.failures() == {}
