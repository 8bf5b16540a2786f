"""A running experiment, as the registry's journal holds it and every arm reads it."""

from __future__ import annotations

import enum

import msgspec

from zaphod.experiment.plan import Plan


class Mode(enum.StrEnum):
    """Who is asked, and whose answer is given."""

    AB = "ab"
    """Each entity is answered by one of the two."""
    SHADOW = "shadow"
    """The champion answers all; the challenger scores a share of them too, and is only recorded."""
    INTERLEAVE = "interleave"
    """Batch: both score every row."""

    @property
    def paired(self) -> bool:
        """Both variants score the same rows."""
        return self is not Mode.AB


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time of constant shares: never changed, only followed by the next.

    number: from 1. share: the challenger's, 0 to 1. started_s: seconds since the epoch.
    """

    number: int
    share: float
    started_s: float


class Experiment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """champion, challenger: versions. entity: the model's field that names whom a row is about, where rows have one.

    plan: JSON of a `Plan`. An arm needs it not, and reads an experiment whose plan a newer release wrote.
    """

    id: str
    model: str
    mode: Mode
    champion: int
    challenger: int
    salt: str
    phases: tuple[Phase, ...]
    plan: msgspec.Raw
    entity: str | None = None

    @property
    def phase(self) -> Phase:
        """The one that runs."""
        return self.phases[-1]

    def read_plan(self) -> Plan:
        """Raises: pydantic.ValidationError for the plan of another release."""
        return Plan.model_validate_json(bytes(self.plan))


def write_plan(plan: Plan) -> msgspec.Raw:
    """As an experiment holds it."""
    return msgspec.Raw(plan.model_dump_json().encode())
