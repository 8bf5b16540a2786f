"""Starts, ramps and ends an experiment: each a single journal entry, so that of racing writers one succeeds."""

from __future__ import annotations

import datetime
import secrets
import time
from dataclasses import dataclass

import msgspec

from zaphod.contender import project
from zaphod.errors import ConfigError, GateError, ModelNotFoundError
from zaphod.experiment.assignment import RAMP, check_share, next_share
from zaphod.experiment.plan import Plan
from zaphod.experiment.spec import Experiment, Mode, Phase, write_plan
from zaphod.promotion import refusal
from zaphod.registry import CHAMPION, Change, Reference, Registry
from zaphod.schema import Schema


@dataclass(frozen=True, slots=True)
class Ended:
    """An experiment of the past. at_s: when, seconds since the epoch. how: the journal's words."""

    experiment: Experiment
    at_s: float
    how: str


def start(
    registry: Registry,
    name: str,
    *,
    challenger: int,
    plan: Plan,
    why: str,
    mode: Mode = Mode.AB,
    share: float | None = None,
    entity: str | None = None,
) -> Experiment:
    """The champion against a challenger. share: the ramp's first step by default, all rows where both score.

    Raises: ConfigError when one runs already, the share is no whole number of buckets, or the two cannot be compared as
        planned; ModelNotFoundError;
        RegistryConflictError when somebody changed the model at the same time.
    """
    before = registry.state(name)
    if before.experiment is not None:
        raise ConfigError(
            f"Cannot start an experiment of {name}: {before.experiment.id} runs. Stop it first with "
            f"`zaphod experiment stop {name}`."
        )
    champion = registry.resolve(Reference(name, CHAMPION, None))
    if challenger == champion:
        raise ConfigError(f"Cannot compare {name}@{challenger} with itself: it is the champion. Name another version.")
    registry.check_version(name, challenger, before=before)
    schema, other = registry.describe(name, champion)[1], registry.describe(name, challenger)[1]
    project(schema, other)
    _check_plan(plan, schema, mode=mode, entity=entity)
    first = (RAMP[0] if mode is Mode.AB else 1.0) if share is None else share
    check_share(first)
    experiment = Experiment(
        id=f"{datetime.datetime.now(datetime.UTC):%Y%m%d}-{secrets.token_hex(4)}",
        model=name,
        mode=mode,
        champion=champion,
        challenger=challenger,
        salt=secrets.token_hex(16),
        phases=(Phase(number=1, share=first, started_s=time.time()),),
        plan=write_plan(plan),
        entity=entity,
    )
    action = f"experiment start {experiment.id}: {challenger} at {first:g} ({mode})"
    registry.append(name, before=before, experiment=experiment, action=action, why=why)
    return experiment


def ramp(registry: Registry, name: str, *, why: str, share: float | None = None) -> Phase:
    """A new phase. share: the ramp's next step by default.

    Raises: ConfigError when no experiment runs, the ramp is at its end, or the share is the same or no whole number
        of buckets;
        RegistryConflictError.
    """
    before = registry.state(name)
    experiment = running(before, name)
    present = experiment.phase
    wanted = next_share(present.share) if share is None else share
    if wanted is None or wanted == present.share:
        raise ConfigError(
            f"Cannot ramp {experiment.id}: the challenger has {present.share:g} already. Name another --share."
        )
    check_share(wanted)
    phase = Phase(number=present.number + 1, share=wanted, started_s=time.time())
    later = msgspec.structs.replace(experiment, phases=(*experiment.phases, phase))
    action = f"experiment ramp {experiment.id}: phase {phase.number} at {wanted:g}"
    registry.append(name, before=before, experiment=later, action=action, why=why)
    return phase


def stop(registry: Registry, name: str, *, why: str) -> Experiment:
    """The champion answers all again. Raises: ConfigError when no experiment runs; RegistryConflictError."""
    before = registry.state(name)
    experiment = running(before, name)
    registry.append(name, before=before, experiment=None, action=f"experiment stop {experiment.id}", why=why)
    return experiment


def roll_back(registry: Registry, experiment: Experiment, *, why: str) -> Change | None:
    """Ends this experiment; None when it has ended already. Raises: RegistryConflictError."""
    before = registry.state(experiment.model)
    if before.experiment is None or before.experiment.id != experiment.id:
        return None
    action = f"experiment roll back {experiment.id}"
    return registry.append(experiment.model, before=before, experiment=None, action=action, why=why)


def promote(registry: Registry, experiment: Experiment, *, why: str) -> Change | None:
    """The challenger becomes champion and the experiment ends, in one entry; None when it has ended already.

    Raises: GateError when the challenger has not passed the offline gate; RegistryConflictError.
    """
    before = registry.state(experiment.model)
    if before.experiment is None or before.experiment.id != experiment.id:
        return None
    reason = refusal(registry, experiment.model, experiment.challenger)
    if reason is not None:
        raise GateError(
            f"Cannot promote {experiment.model}@{experiment.challenger}: {reason} Run `zaphod validate`, or promote it "
            "with `zaphod promote --override` and the reason."
        )
    aliases = {**before.aliases, CHAMPION: experiment.challenger}
    action = f"experiment promote {experiment.id}"
    return registry.append(experiment.model, before=before, aliases=aliases, experiment=None, action=action, why=why)


def running(state: Change, name: str) -> Experiment:
    """Raises: ConfigError when none is."""
    if state.experiment is None:
        raise ConfigError(f"Cannot find an experiment of {name}: none runs. Start one with `zaphod experiment start`.")
    return state.experiment


def find(registry: Registry, name: str, identity: str | None = None) -> Experiment | Ended:
    """The one that runs, else the newest that did; or the one of this id. Raises: ModelNotFoundError."""
    last: Experiment | None = None
    ended: Ended | None = None
    for change in registry.journal(name):
        if last is not None and (change.experiment is None or change.experiment.id != last.id):
            ended, last = Ended(last, datetime.datetime.fromisoformat(change.at).timestamp(), change.action), None
            if identity == ended.experiment.id:
                return ended
        last = change.experiment
    if last is not None and identity in (None, last.id):
        return last
    if ended is None or identity is not None:
        which = name if identity is None else f"{identity} of {name}"
        raise ModelNotFoundError(f"Cannot find experiment {which}: the journal has none. Look at `zaphod journal`.")
    return ended


def _check_plan(plan: Plan, schema: Schema, *, mode: Mode, entity: str | None) -> None:
    """Raises: ConfigError."""
    fields = {field.name: field for field in schema.fields}
    named = [(metric.covariate, "a covariate") for metric in plan.metrics if metric.covariate is not None]
    named += [(segment, "a segment") for segment in plan.segments]
    named += [(entity, "the entity")] if entity is not None else []
    for name, what in named:
        if name not in fields:
            raise ConfigError(f"Expected {what} among the model's fields {sorted(fields)}, got {name!r}")
        if what != "the entity" and fields[name].log != "keep":
            raise ConfigError(
                f"Cannot use {name!r} as {what}: the log does not keep it. Set `log: keep` in the schema."
            )
    if mode.paired:
        blind = [metric.name for metric in plan.metrics if metric.measure == "outcome"]
        if blind:
            raise ConfigError(
                f"Cannot measure {blind} in mode {mode}: nobody was given the challenger's answers, so outcomes say "
                "nothing of them. Measure `correct`, `absolute_error` or `squared_error`."
            )
