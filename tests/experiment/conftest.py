"""A registry with a champion that says 1 and challengers that say 2, and logs to read back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sklearn.dummy import DummyRegressor

from tests import models
from zaphod.experiment.plan import MetricPlan, Plan
from zaphod.experiment.spec import Experiment, Mode, Phase, write_plan
from zaphod.monitoring.log import open_log
from zaphod.monitoring.record import Arm
from zaphod.monitoring.settings import LogSettings
from zaphod.packaging import package
from zaphod.registry import Registry
from zaphod.served import Recording
from zaphod.shadow import ShadowSettings

PLAN = Plan(metrics=(MetricPlan(name="bought"),))


@pytest.fixture(scope="session")
def three_versions(constant_models: Registry, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """A third version takes another field."""
    made = models.copy(constant_models, tmp_path_factory.mktemp("three"))
    other = models.table(30, seed=1).assign(age=1.0)
    package(
        DummyRegressor().fit(other, [0.0] * len(other)), name="constant", sample=other, registry=made,
        nullable=models.NULLABLE,
    )  # fmt: skip
    return made


@pytest.fixture
def registry(three_versions: Registry, tmp_path: Path) -> Registry:
    """`constant`: version 1 says 1 and is champion, version 2 says 2; 3 takes another field and cannot be compared."""
    return models.copy(three_versions, tmp_path)


def experiment(*, share: float = 0.5, mode: Mode = Mode.AB, challenger: int = 2, phase: int = 1) -> Experiment:
    """One that began now."""
    return Experiment(
        id="exp-1", model="constant", mode=mode, champion=1, challenger=challenger, salt="salt",
        phases=tuple(Phase(number=n, share=share, started_s=time.time()) for n in range(1, phase + 1)),
        plan=write_plan(PLAN),
    )  # fmt: skip


def run(registry: Registry, running: Experiment | None) -> None:
    """As `zaphod experiment` would write it."""
    before = registry.state("constant")
    registry.append("constant", before=before, experiment=running, action="test", why=secrets.token_hex(4))


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Recording]:
    """Into `log` below the test's folder, written when flushed; a shadow may be slow, as on a busy machine."""
    settings = LogSettings(uri=str(tmp_path / "monitoring"), flush_s=600)
    log = open_log(settings)
    assert log is not None
    yield Recording(log, Arm.ONLINE, settings, ShadowSettings(answer_s=30.0))
    log.close()
