"""What the statistics are computed from: the join of predictions and outcomes, one position an entity.

All of one phase. `Entities` and `Pairs` hold complete entities only (see `Plan.entity_window_s`), in the order in which
they became complete, so that the first n of them are what a look at that time saw: no look has to be stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """One metric's sums over the counted predictions of each entity, shape (n_entities,) each.

    total: of the measure. count: of predictions, or of the `per` field; 0 where none counts, which leaves the entity
    out of this metric. covariate: NaN where unknown; None when the plan names none.
    """

    total: Floats
    count: Floats
    covariate: Floats | None = None


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Which segment of one field each entity is in, by its first prediction: codes index labels, -1 is in none."""

    field: str
    labels: tuple[str, ...]
    codes: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Entities:
    """Mode `ab`. complete_s: seconds since the epoch, ascending. challenger: bool, who answered the entity.

    Entities that both answered are left out. sums, segments: one for each of the plan's.
    """

    complete_s: Floats
    challenger: NDArray[np.bool_]
    sums: tuple[Sums, ...]
    segments: tuple[Segmentation, ...] = ()


@dataclass(frozen=True, slots=True)
class Pairs:
    """Modes `shadow` and `interleave`: both variants' sums of the same entities, over predictions that both made."""

    complete_s: Floats
    champion: tuple[Sums, ...]
    challenger: tuple[Sums, ...]
    segments: tuple[Segmentation, ...] = ()


@dataclass(frozen=True, slots=True)
class BadShare:
    """One guardrail of one variant: predictions and bad ones, up to this moment, whether complete or not.

    Sums over entities, for predictions of one entity are alike: count and bad, their squares, and their product.
    """

    entities: int
    count: float
    bad: float
    count_squared: float
    bad_squared: float
    count_bad: float

    @classmethod
    def of(cls, count: Floats, bad: Floats) -> BadShare:
        """From each entity's predictions and bad ones."""
        return cls(
            entities=len(count),
            count=float(count.sum()),
            bad=float(bad.sum()),
            count_squared=float(count @ count),
            bad_squared=float(bad @ bad),
            count_bad=float(count @ bad),
        )


@dataclass(frozen=True, slots=True)
class Guarded:
    """One guardrail of the plan, both variants."""

    champion: BadShare
    challenger: BadShare


@dataclass(frozen=True, slots=True)
class Exposed:
    """Distinct entities seen up to `at_s`, by the variant that answered first."""

    at_s: float
    champion: int
    challenger: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """Predictions of one variant, and what became of them.

    mature: the outcome window is over; with_outcome: of those, an outcome came in time.
    """

    predictions: int
    mature: int
    with_outcome: int


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The join's bookkeeping. late: after the window; early: from before the prediction; doubled: another for the same
    prediction; unusable: no finite number; orphan: for no prediction.
    """

    champion: Coverage
    challenger: Coverage
    late: int = 0
    early: int = 0
    doubled: int = 0
    unusable: int = 0
    orphan: int = 0


@dataclass(frozen=True, slots=True)
class PhaseData:
    """All there is of one phase.

    exposure: ascending in time, the last is the state now; a few hundred points at most. crossed: entities that both
    variants answered within the phase. unnamed: entities that are single predictions, for nobody said whom about.
    unusable: predictions that were no finite number, and count as failed. keys: by which entities may be hashed.
    """

    number: int
    share: float
    started_s: float
    exposure: tuple[Exposed, ...]
    crossed: int
    guarded: tuple[Guarded, ...]
    outcomes: Outcomes
    observed: Entities | Pairs
    unnamed: int = 0
    unusable: int = 0
    keys: int = 1
