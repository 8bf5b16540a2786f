"""Experiments start, ramp and end by one journal entry each, whoever else tries the same at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.conftest import wait_for
from tests.experiment.conftest import PLAN, run
from zaphod.errors import ConfigError, GateError, ModelNotFoundError, RegistryConflictError
from zaphod.experiment.auto import End, Look, Watcher, watch
from zaphod.experiment.lifecycle import Ended, find, promote, ramp, roll_back, start, stop
from zaphod.experiment.plan import MetricPlan, Plan
from zaphod.experiment.results import Analysis
from zaphod.experiment.spec import Experiment, Mode
from zaphod.experiment.verdict import Decision, Verdict, decide
from zaphod.monitoring.log import open_log
from zaphod.monitoring.record import Arm, Call, Origin, Status
from zaphod.monitoring.settings import LogSettings
from zaphod.registry import CHAMPION, Registry


def begin(registry: Registry, share: float = 0.5) -> Experiment:
    """Version 2 against version 1."""
    return start(registry, "constant", challenger=2, plan=PLAN, share=share, why="test")


def test_from_start_to_stop(registry: Registry) -> None:
    """Each step is one entry that says what and why; the first step is one per cent, the next ones the ramp's."""
    started = start(registry, "constant", challenger=2, plan=PLAN, why="looks better")
    shares = [started.phase.share] + [ramp(registry, "constant", why="fine so far").share for _ in range(4)]
    with pytest.raises(ConfigError, match=r"has 0\.5 already"):
        ramp(registry, "constant", why="more")
    stopped = stop(registry, "constant", why="enough")

    assert shares == [0.01, 0.05, 0.1, 0.25, 0.5]
    assert [phase.number for phase in stopped.phases] == [1, 2, 3, 4, 5]
    assert stopped.phases[0] == started.phase
    assert registry.state("constant").experiment is None
    actions = [(change.action.split(":")[0], change.why) for change in registry.journal("constant")[1:]]
    assert actions == [
        (f"experiment start {started.id}", "looks better"),
        *[(f"experiment ramp {started.id}", "fine so far")] * 4,
        (f"experiment stop {started.id}", "enough"),
    ]


def test_what_cannot_run_is_refused(registry: Registry) -> None:
    """A second experiment, the champion against itself, fields that differ, a plan that cannot be measured."""
    for version, plan, mode, message in (
        (1, PLAN, Mode.AB, "with itself"),
        (3, PLAN, Mode.AB, "`age` is unknown to the champion"),
        (9, PLAN, Mode.AB, "Cannot find constant@9"),
        (2, PLAN, Mode.SHADOW, "nobody was given the challenger's answers"),
        (2, Plan(metrics=(MetricPlan(name="m", covariate="income"),)), Mode.AB, "Expected a covariate among"),
    ):
        with pytest.raises((ConfigError, ModelNotFoundError), match=message):
            start(registry, "constant", challenger=version, plan=plan, why="test", mode=mode)
    begin(registry)
    with pytest.raises(ConfigError, match="Stop it first"):
        begin(registry)
    with pytest.raises(ConfigError, match="an experiment holds it"):
        registry.delete("constant", version=2, why="test")


def test_a_share_that_the_split_cannot_keep_is_refused(registry: Registry) -> None:
    """At the start and at every later step, with one that it can."""
    with pytest.raises(ConfigError, match=r"a multiple of 0\.0001, such as 0\.3333"):
        begin(registry, share=1 / 3)
    assert registry.state("constant").experiment is None
    begin(registry)
    with pytest.raises(ConfigError, match=r"such as 0\.0001"):
        ramp(registry, "constant", why="test", share=0.00004)
    assert ramp(registry, "constant", why="test", share=0.3333).number == 2


def test_the_loser_of_a_race_is_told(registry: Registry) -> None:
    """Of writers that start, ramp or promote at once, one succeeds and the others learn it."""
    before = registry.state("constant")
    registry.append("constant", before=before, action="somebody else's", why="first")

    with pytest.raises(RegistryConflictError):
        registry.append("constant", before=before, experiment=None, action="mine", why="second")

    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def race() -> None:
        barrier.wait()
        try:
            begin(registry)
            outcomes.append("won")
        except (RegistryConflictError, ConfigError):
            outcomes.append("told")

    threads = [threading.Thread(target=race, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["told", "told", "told", "won"]


def test_a_promotion_needs_the_gate_and_ends_the_experiment(registry: Registry) -> None:
    """Alias and end stand in one entry, made once; without the gate nothing changes."""
    experiment = begin(registry)
    with pytest.raises(GateError, match="never validated"):
        promote(registry, experiment, why="better")
    assert registry.state("constant").experiment is not None

    registry.set_alias("constant", alias=CHAMPION, version=2, action="promote", why="by hand")

    assert registry.state("constant").experiment is None
    assert promote(registry, experiment, why="again") is None
    assert roll_back(registry, experiment, why="again") is None


def test_past_experiments_are_found(registry: Registry) -> None:
    """By id or the newest, with the moment and the way they ended."""
    first = begin(registry)
    stop(registry, "constant", why="test")
    second = begin(registry)
    assert find(registry, "constant") == second
    roll_back(registry, second, why="worse")

    newest, older = find(registry, "constant"), find(registry, "constant", first.id)

    assert isinstance(newest, Ended)
    assert isinstance(older, Ended)
    assert (newest.experiment, newest.how) == (second, f"experiment roll back {second.id}")
    assert older.experiment == first
    assert abs(older.at_s - time.time()) < 60
    with pytest.raises(ModelNotFoundError):
        find(registry, "constant", "nothing")


def write_failures(uri: Path, registry: Registry, experiment: Experiment) -> None:
    """A log in which the challenger fails on half of its rows, written when the log writes by itself."""
    log = open_log(LogSettings(uri=str(uri)))
    assert log is not None
    schema = registry.describe("constant", 1)[1]
    rng = np.random.default_rng(0)
    for variant in ("champion", "challenger"):
        origin = Origin(
            arm=Arm.ONLINE, model="constant", version=1, bundle_sha256="", schema=schema, variant=variant,
            experiment=experiment.id, phase=1, mode=Mode.AB,
        )  # fmt: skip
        for i in range(2_000):
            failed = variant == "challenger" and rng.random() < 0.5
            log.put(
                Call(
                    origin=origin, id=f"{variant}-{i}", served_s=experiment.phase.started_s, num_rows=1,
                    entities=[f"{variant}-{i}"], status=Status.FAILED if failed else Status.OK,
                )
            )  # fmt: skip
    wait_for(lambda: log.counts.waiting == 0, what="the log is written")
    log.close()


def test_two_watchers_act_once(registry: Registry, tmp_path: Path) -> None:
    """Both see the breach before either acts: one rolls back, the other finds it done."""
    experiment = begin(registry)
    write_failures(tmp_path / "log", registry, experiment)
    barrier = threading.Barrier(2)
    ends: list[End | None] = []

    def both_have_looked(look: Look) -> None:
        barrier.wait(timeout=30)

    def watch_once() -> None:
        watcher = Watcher(registry, experiment, log_uri=str(tmp_path / "log"))
        end = watcher.step(may_promote=True, on_look=both_have_looked)
        ends.append(end or watcher.step(may_promote=True, on_look=lambda _: None))
        watcher.close()

    threads = [threading.Thread(target=watch_once, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(ends) == [End.ELSEWHERE, End.ROLLED_BACK]
    (entry,) = [c for c in registry.journal("constant") if c.action.startswith("experiment roll back")]
    assert "failed predictions" in entry.why


KILLED = """
import os, sys
from zaphod.experiment.auto import Watcher
from zaphod.registry import Registry
from zaphod.storage import LocalStorage

before_journal = sys.argv[3] == "before"
create = LocalStorage.create

def die(self, path, data):
    if "/journal/" in path:
        if not before_journal:
            create(self, path, data)
        os.kill(os.getpid(), 9)
    create(self, path, data)

LocalStorage.create = die
registry = Registry.open(sys.argv[1])
experiment = registry.state("constant").experiment
Watcher(registry, experiment, log_uri=sys.argv[2]).step(may_promote=True, on_look=lambda _: None)
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_watcher_killed_while_it_acts_leaves_one_entry(registry: Registry, tmp_path: Path, when: str) -> None:
    """Killed before its entry the next one acts; killed right after it, the next one finds it done."""
    experiment = begin(registry)
    write_failures(tmp_path / "log", registry, experiment)

    command = [sys.executable, "-c", KILLED, registry.uri, str(tmp_path / "log"), when]
    # What it joins in stays where it is when it is killed: among the test's own files.
    killed = subprocess.run(command, timeout=60, env={**os.environ, "TMPDIR": str(tmp_path)})
    watcher = Watcher(registry, experiment, log_uri=str(tmp_path / "log"))
    end = watcher.step(may_promote=True, on_look=lambda _: None)
    watcher.close()

    assert killed.returncode == -9
    assert end is (End.ROLLED_BACK if when == "before" else End.ELSEWHERE)
    assert sum(c.action.startswith("experiment roll back") for c in registry.journal("constant")) == 1
    assert registry.state("constant").experiment is None


def test_an_experiment_of_an_older_champion_is_nobodys(registry: Registry) -> None:
    """Written by hand with another champion, it is followed by no arm."""
    import msgspec

    from zaphod.served import ServedModel

    experiment = begin(registry)
    run(registry, msgspec.structs.replace(experiment, champion=3))
    served = ServedModel.open(registry, "constant")

    assert served.snapshot().trial is None
    served.close()


def time_roll_back(registry: Registry, log: Path) -> float:
    """Seconds from the first bad prediction, with the log's and the watcher's own intervals."""
    experiment = begin(registry)
    ends: list[End] = []
    looks: list[Look] = []

    def keep_watch() -> None:
        end = watch(registry, experiment, log_uri=str(log), may_promote=False, interval_s=2.0, on_look=looks.append)
        ends.append(end)

    thread = threading.Thread(target=keep_watch, daemon=True)
    thread.start()
    wait_for(lambda: len(looks) > 0, what="the first look")

    began = time.monotonic()
    write_failures(log, registry, experiment)
    wait_for(lambda: registry.state("constant").experiment is None, what="the roll-back")
    took_s = time.monotonic() - began
    thread.join()

    assert ends == [End.ROLLED_BACK]
    return took_s


def test_a_breach_is_rolled_back_within_ten_seconds(registry: Registry, tmp_path: Path) -> None:
    """Once in three times at least: what else the machine has to do only ever adds."""
    assert any(time_roll_back(registry, tmp_path / f"log-{again}") < 10.0 for again in range(3))


def test_a_watcher_that_is_ended_leaves_nothing_behind(registry: Registry, tmp_path: Path) -> None:
    """Its joined log, which may be large, goes with it."""
    begin(registry)
    (tmp_path / "temporary").mkdir()
    command = [
        str(Path(sys.executable).parent / "zaphod"), "experiment", "status", "constant", "--auto",
        "--registry", registry.uri, "--log", str(tmp_path / "log"),
    ]  # fmt: skip
    watching = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(tmp_path / "temporary")})
    wait_for(lambda: any((tmp_path / "temporary").glob("*/join.duckdb")), what="the joined log")

    watching.terminate()

    assert watching.wait(timeout=60) == 143
    assert not list((tmp_path / "temporary").iterdir())


QUERYING = """
import sys
from zaphod import cli
from zaphod.experiment.joining import Joined

def refresh(self, experiment):
    print("querying", flush=True)
    self._db.execute("SELECT sum(hash(a.range + b.range)) FROM range(1000000) a, range(200) b")

Joined.refresh = refresh
cli.main(sys.argv[1:])
"""


def test_a_watcher_may_be_ended_amid_a_query(registry: Registry, tmp_path: Path) -> None:
    """As tidily; it does not take that for a look that failed."""
    begin(registry)
    (tmp_path / "temporary").mkdir()
    command = [
        sys.executable, "-c", QUERYING, "experiment", "status", "constant", "--auto",
        "--registry", registry.uri, "--log", str(tmp_path / "log"),
    ]  # fmt: skip
    environ = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == "querying\n"
        process = psutil.Process(watching.pid)
        before_s = process.cpu_times().user
        wait_for(lambda: process.cpu_times().user > before_s + 0.2, what="the query is under way")

        watching.terminate()

        assert watching.wait(timeout=60) == 143
    assert not list((tmp_path / "temporary").iterdir())


def test_a_breach_does_not_wait_for_outcomes(registry: Registry, tmp_path: Path) -> None:
    """What is in the log speaks for a roll-back: it comes before the outcomes are joined."""
    experiment = begin(registry)
    write_failures(tmp_path / "log", registry, experiment)
    looks: list[Look] = []

    end = watch(
        registry, experiment, log_uri=str(tmp_path / "log"), may_promote=False, interval_s=0.0, on_look=looks.append
    )

    assert end is End.ROLLED_BACK
    assert looks[-1].analysis.current.outcomes.challenger.predictions == 0


@pytest.mark.parametrize("verdict", [Verdict.PROMOTE, Verdict.INCONCLUSIVE])
def test_what_cannot_be_decided_is_watched_on(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
) -> None:
    """A challenger that has not passed the gate, and one about which nothing is sure, are still rolled back."""
    experiment = begin(registry)
    write_failures(tmp_path / "log", registry, experiment)
    looks: list[Look] = []

    def decide_later(plan: Plan, analysis: Analysis) -> Decision:
        return decide(plan, analysis) if len(looks) >= 2 else Decision(verdict=verdict, reasons=("test",))

    monkeypatch.setattr("zaphod.experiment.auto.decide", decide_later)
    end = watch(
        registry, experiment, log_uri=str(tmp_path / "log"), may_promote=True, interval_s=0.0, on_look=looks.append
    )

    assert [look.decision.verdict for look in looks] == [verdict, verdict, Verdict.ROLL_BACK]
    assert end is End.ROLLED_BACK


def test_a_look_that_fails_is_made_again(registry: Registry, tmp_path: Path) -> None:
    """By a file that is none: nothing of what could be read is lost or counted twice when it is gone."""
    experiment = begin(registry)
    write_failures(tmp_path / "log", registry, experiment)
    (folder,) = {path.parent for path in (tmp_path / "log").rglob("*.parquet")}
    broken = folder / "zzz.parquet"
    broken.write_bytes(b"PAR1 and no more")
    looks: list[Look] = []
    pauses: list[float] = []

    def mend(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 2:
            broken.unlink()

    end = watch(
        registry, experiment, log_uri=str(tmp_path / "log"), may_promote=False, interval_s=1.0, on_look=looks.append,
        pause=mend,
    )  # fmt: skip

    assert (end, len(pauses)) == (End.ROLLED_BACK, 2)
    last = looks[0].analysis.current.exposure[-1]
    assert (last.champion, last.challenger) == (2_000, 2_000)
