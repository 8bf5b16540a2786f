"""What a converter is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features, Inputs
from zaphod.compiler.graph import Graph


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Tensors of one predictor's answers; None where it has no such method.

    label: int64 [n] or [n, 1]: a class's position in `classes_`; for others what `predict` returns.
    decision: `decision_function`, double [n, 1] where scikit-learn gives one number a row, else [n, C].
    probabilities: `predict_proba`, double [n, C]. value: a regressor's `predict`, double [n, T].
    Of a classifier of several targets: label [n, T], probabilities side by side.
    """

    label: str | None = None
    decision: str | None = None
    probabilities: str | None = None
    value: str | None = None


# Estimators carry no types of their own: attributes are checked by what is built from them.
Estimator: TypeAlias = Any
TransformConverter: TypeAlias = "Callable[[Estimator, Features, Scope], Features]"
PredictConverter: TypeAlias = "Callable[[Estimator, Features, Scope], Prediction]"


class Vocabulary:
    """For each string field, the strings that some part of the estimator tells apart from the others.

    Compiling runs until it notes nothing new: tables are made from the strings known when a run begins.
    """

    def __init__(self, num_fields: int) -> None:
        self._known: list[dict[str, None]] = [{} for _ in range(num_fields)]
        self._noted: list[dict[str, None]] = [{} for _ in range(num_fields)]

    def note(self, field: int, strings: Iterable[object]) -> None:
        self._noted[field].update(dict.fromkeys(value for value in strings if isinstance(value, str)))

    def settle(self) -> bool:
        """Takes over what was noted; True when that was nothing new."""
        grown = any(set(noted) - set(known) for noted, known in zip(self._noted, self._known, strict=True))
        for noted, known in zip(self._noted, self._known, strict=True):
            known.update(noted)
        return not grown

    def known(self, field: int) -> tuple[str, ...]:
        return tuple(self._known[field])

    def sizes(self) -> tuple[int, ...]:
        return tuple(len(known) + 2 for known in self._known)

    def values(self, field: int) -> NDArray[np.generic]:
        """By code: the known strings, NaN for null, then a string that is none of them. dtype object."""
        known, other = self._known[field], "other"
        while other in known or other in self._noted[field]:
            other += "_"
        return np.array([*known, np.nan, other], dtype=object)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """One run over the estimator."""

    graph: Graph
    inputs: Inputs
    vocabulary: Vocabulary
    transformers: Mapping[type, TransformConverter]
    predictors: Mapping[type, PredictConverter]
    # By string field: codes that the estimator raises on.
    refused: dict[int, set[int]] = field(default_factory=dict)
    # By number field: the only numbers that the estimator takes.
    allowed: dict[int, set[float]] = field(default_factory=dict)

    def transform(self, estimator: BaseEstimator, features: Features) -> Features:
        """Raises: NotCompilable."""
        converter = self.transformers.get(type(estimator))
        if converter is None:
            raise NotCompilable(f"no converter for {type(estimator).__name__}")
        return converter(estimator, features, self)

    def refuse(self, field: int, codes: Iterable[int]) -> None:
        """Rows with these codes of a string field are refused, as the estimator does."""
        self.refused.setdefault(field, set()).update(int(code) for code in codes)

    def allow_only(self, source: int, numbers: Iterable[float]) -> None:
        """Rows with another number in this column of x, null aside, are refused, as the estimator does."""
        numbers = set(numbers)
        self.allowed[source] = self.allowed.get(source, numbers) & numbers

    def predict(self, estimator: BaseEstimator, features: Features) -> Prediction:
        """Raises: NotCompilable."""
        converter = self.predictors.get(type(estimator))
        if converter is None:
            raise NotCompilable(f"no converter for {type(estimator).__name__}")
        return converter(estimator, features, self)
