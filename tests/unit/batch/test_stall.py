"""A job is given up when nothing gets on, and not because one unit takes long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
import ray

from batch import dataset, execution
from batch.cluster import Cluster
from batch.commit import Receipt, Staging
from batch.plan import Unit
from batch.preflight import Preflight, preflight
from batch.score import Work, score_unit
from batch.settings import BatchSettings
from batch.tasks import TaskPool
from tests.batch import tables
from zaphod.errors import BatchError
from zaphod.registry import Registry


@pytest.fixture
def settings(tmp_path: Path, registry: Registry) -> BatchSettings:
    """Of a job with one unit."""
    tables.write_input(tmp_path / "input", num_files=1)
    return tables.make_settings(tmp_path, registry, unit_rows=1_000, ray_data_s=0.0)


class SlowCluster:
    """Stands for Ray: one unit, for which so many waits are too short. gets_on: and says so."""

    def __init__(self, ready: Preflight, *, num_waits: int, gets_on: bool) -> None:
        self._staging = Staging.open(ready.work.output, ready.plan.run_id)
        self._unit = ready.plan.units[0].id
        self._left = num_waits
        self._gets_on = gets_on

    def install(self, patch: pytest.MonkeyPatch) -> None:
        class Task:
            def remote(self, units: Sequence[bytes], work: bytes, *, ready_for: object = None) -> str:
                return "warm" if ready_for else "unit"

        patch.setattr(ray, "remote", lambda **words: lambda function: Task())
        patch.setattr(ray, "wait", self._wait)
        receipt = Receipt(
            unit=self._unit, path="", rows_in=0, rows_out=0, rows_rejected=0, files=(), problems=(), seconds={}
        )
        patch.setattr(
            ray, "get", lambda done: [[msgspec.json.encode(receipt)] if one == "unit" else [] for one in done]
        )

    def _wait(self, refs: list[str], *, timeout: int) -> tuple[list[str], list[str]]:
        if "warm" in refs:
            return ["warm"], []
        self._left -= 1
        if self._left < 0:
            return ["unit"], []
        if self._gets_on:
            self._staging.note_progress(self._unit, self._left)
        return [], refs


def execute(ready: Preflight, settings: BatchSettings) -> list[Receipt]:
    """On one CPU."""
    pool = TaskPool(Cluster(num_cpus=1, joined=True), settings)
    return list(pool.execute(ready.plan.units, ready.work))


def test_a_unit_that_gets_on_is_waited_for(settings: BatchSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often `stall_timeout_s` goes by."""
    ready = preflight(settings)
    SlowCluster(ready, num_waits=5, gets_on=True).install(monkeypatch)

    assert [receipt.unit for receipt in execute(ready, settings)] == [ready.plan.units[0].id]


def test_a_unit_that_does_not_is_given_up(settings: BatchSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another job has said of the unit before counts once."""
    ready = preflight(settings)
    Staging.open(settings.output, ready.plan.run_id).note_progress(ready.plan.units[0].id, 7)
    SlowCluster(ready, num_waits=5, gets_on=False).install(monkeypatch)

    with pytest.raises(BatchError, match="no unit has finished for 900 s, or got further"):
        execute(ready, settings)


def test_a_unit_says_how_far_it_is(settings: BatchSettings) -> None:
    """In staging, where the driver looks."""
    ready = preflight(settings)
    (unit,) = ready.plan.units

    score_unit(unit, msgspec.structs.replace(ready.work, pulse_s=0.0))

    assert Staging.open(settings.output, ready.plan.run_id).progress() == {unit.id: b"200"}


@pytest.mark.parametrize(("num_rows", "carrier"), [(1_000, "Ray Data"), (1_001, "tasks"), (None, "tasks")])
def test_units_of_any_size_are_no_matter_for_ray_data(
    settings: BatchSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, num_rows: int | None, carrier: str
) -> None:
    """It would take one that has not ended for stalled."""
    ready = preflight(settings)
    units = [msgspec.structs.replace(ready.plan.units[0], num_rows=num_rows)]
    asked: list[str] = []

    class Pool:
        size = 1

        def execute(self, units: Sequence[Unit], work: Work) -> Iterator[Receipt]:
            asked.append("tasks")
            return iter(())

    def carry(units: Sequence[Unit], work: Work, **words: object) -> Iterator[Receipt]:
        asked.append("Ray Data")
        return iter(())

    monkeypatch.setattr(dataset, "execute", carry)
    monkeypatch.setattr(execution, "num_machines", lambda: 1)
    with execution.ray_executor(settings, run_dir=tmp_path, seconds=1.0, joined=Pool) as run:  # type: ignore[arg-type]
        list(run(units, ready.work))

    assert asked == [carrier]
