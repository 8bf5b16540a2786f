"""One variant of a model, ready to answer rows that were decoded by the champion's schema."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.errors import ConfigError
from zaphod.monitoring.record import Origin
from zaphod.predictor import Predictions, Predictor
from zaphod.schema import Schema
from zaphod.validation.compatibility import compare_schemas


@dataclass(frozen=True, slots=True)
class Projection:
    """Where a narrower schema's columns stand in a wider one's."""

    numbers: NDArray[np.int64]
    strings: tuple[int, ...]

    def __call__(self, columns: Columns) -> Columns:
        return Columns(
            numbers=np.ascontiguousarray(columns.numbers[:, self.numbers]),
            strings=tuple(columns.strings[i] for i in self.strings),
        )


@dataclass(frozen=True, slots=True)
class Contender:
    """projection: None when the variant takes the columns as they are."""

    predictor: Predictor
    origin: Origin
    projection: Projection | None = None

    def predict(self, columns: Columns) -> Predictions:
        """Raises: PredictionError."""
        return self.predictor.predict(columns if self.projection is None else self.projection(columns))


def project(champion: Schema, challenger: Schema) -> Projection | None:
    """How a challenger is fed rows that the champion's schema has checked.

    It may leave fields of the champion out, have them in another order and know other ranges and categories.

    Raises: ConfigError when it takes what the champion has not, or answers another question.
    """
    names = champion.names
    reasons = [
        f"`{change.where}` {change.what}"
        for change in compare_schemas(champion, challenger)
        if change.breaks and change.what != "removed" and not change.what.startswith("refuses values")
    ]
    reasons += [f"`{name}` is unknown to the champion" for name in challenger.names if name not in names]
    if challenger.output != champion.output and not any(reason.startswith("`output`") for reason in reasons):
        reasons.append("`output` is another")
    if reasons:
        raise ConfigError(
            f"Cannot compare the two versions on the same rows: {'; '.join(sorted(set(reasons)))}. "
            "Package the challenger with fields that the champion has too."
        )
    numbers = [field.name for field in champion.number_fields]
    strings = [field.name for field in champion.string_fields]
    wanted_numbers = [numbers.index(field.name) for field in challenger.number_fields]
    wanted_strings = [strings.index(field.name) for field in challenger.string_fields]
    if wanted_numbers == list(range(len(numbers))) and wanted_strings == list(range(len(strings))):
        return None
    return Projection(np.array(wanted_numbers, dtype=np.int64), tuple(wanted_strings))
