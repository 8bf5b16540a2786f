"""Looks at a running experiment again and again, and acts on the verdict: at once, once, and in the journal."""

from __future__ import annotations

import contextlib
import enum
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from zaphod.errors import GateError, RegistryConflictError, StorageUnavailableError
from zaphod.experiment.analysis import analyse
from zaphod.experiment.joining import Joined
from zaphod.experiment.lifecycle import promote, roll_back
from zaphod.experiment.plan import Plan
from zaphod.experiment.results import Analysis
from zaphod.experiment.samples import PhaseData
from zaphod.experiment.spec import Experiment
from zaphod.experiment.verdict import Decision, Verdict, decide
from zaphod.registry import Registry

_log = logging.getLogger(__name__)


class End(enum.StrEnum):
    """Why watching ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    ELSEWHERE = "ended elsewhere"


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found. took_s: joining and computing."""

    experiment: Experiment
    plan: Plan
    analysis: Analysis
    decision: Decision
    took_s: float


class Watcher:
    """Several may watch one experiment: the journal lets one of them act, the others see that it is done."""

    def __init__(self, registry: Registry, experiment: Experiment, *, log_uri: str) -> None:
        """Raises: ConfigError."""
        self._registry = registry
        self._experiment = experiment
        self._plan = experiment.read_plan()
        self._joined = Joined(experiment, self._plan, log_uri=log_uri)

    def close(self) -> None:
        self._joined.close()

    def look(self, *, now_s: float | None = None) -> Look:
        """now_s: the present by default. Raises: StorageUnavailableError."""
        began = time.monotonic()
        self._joined.refresh(self._experiment)
        moment = time.time() if now_s is None else now_s
        return self._judge(self._joined.look(now_s=moment), now_s=moment, began=began)

    def glance(self) -> Look | None:
        """What cannot wait, on a log so large that a look takes long; None when nothing speaks for a roll-back.

        Raises: StorageUnavailableError.
        """
        began, moment = time.monotonic(), time.time()
        self._joined.refresh(self._experiment)
        look = self._judge([self._joined.glance(now_s=moment)], now_s=moment, began=began)
        return look if look.decision.verdict is Verdict.ROLL_BACK else None

    def _judge(self, phases: Sequence[PhaseData], *, now_s: float, began: float) -> Look:
        analysis = analyse(self._plan, self._experiment.mode, phases, now_s=now_s)
        decision = decide(self._plan, analysis)
        return Look(self._experiment, self._plan, analysis, decision, time.monotonic() - began)

    def step(self, *, may_promote: bool, on_look: Callable[[Look], None]) -> End | None:
        """One look, and what follows from it; None when the experiment goes on.

        One that is inconclusive, and one whose challenger has not passed the gate, goes on until people end it, and
        may still be rolled back. Raises: StorageUnavailableError.
        """
        running = self._registry.state(self._experiment.model).experiment
        if running is None or running.id != self._experiment.id:
            return End.ELSEWHERE
        self._experiment = running
        look = self.glance() or self.look()
        on_look(look)
        try:
            return self._act(look, may_promote=may_promote)
        except RegistryConflictError:
            # Somebody wrote something else meanwhile: the next look decides on what is there then.
            return None
        except GateError as error:
            _log.error("%s It is watched until then.", error.message)
            return None

    def _act(self, look: Look, *, may_promote: bool) -> End | None:
        why = "; ".join(look.decision.reasons)
        if look.decision.verdict is Verdict.ROLL_BACK:
            return End.ELSEWHERE if roll_back(self._registry, look.experiment, why=why) is None else End.ROLLED_BACK
        if look.decision.verdict is Verdict.PROMOTE and may_promote:
            return End.ELSEWHERE if promote(self._registry, look.experiment, why=why) is None else End.PROMOTED
        return None


@contextlib.contextmanager
def watcher(registry: Registry, experiment: Experiment, *, log_uri: str) -> Iterator[Watcher]:
    """Closed at the end."""
    opened = Watcher(registry, experiment, log_uri=log_uri)
    try:
        yield opened
    finally:
        opened.close()


def watch(
    registry: Registry,
    experiment: Experiment,
    *,
    log_uri: str,
    may_promote: bool,
    interval_s: float,
    on_look: Callable[[Look], None],
    pause: Callable[[float], object] = time.sleep,
) -> End:
    """Until the experiment has ended, here or elsewhere: whatever a look runs into, there is a next one."""
    with watcher(registry, experiment, log_uri=log_uri) as opened:
        while True:
            try:
                end = opened.step(may_promote=may_promote, on_look=on_look)
            except (StorageUnavailableError, OSError, pa.ArrowException, duckdb.Error):
                _log.exception("cannot look at the experiment; trying again")
                end = None
            if end is not None:
                return end
            pause(interval_s)
