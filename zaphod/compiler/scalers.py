"""Shifting and scaling, in the order and with the operations that scikit-learn uses."""

from __future__ import annotations

from sklearn.preprocessing import StandardScaler

from zaphod.compiler.features import Features, apply_steps
from zaphod.compiler.scope import Scope, TransformConverter
from zaphod.compiler.steps import Divide, Step, Subtract


def _standardise(scaler: StandardScaler, features: Features, scope: Scope) -> Features:
    steps: list[tuple[Step, ...]] = []
    for i in range(len(features)):
        chain: list[Step] = []
        if scaler.with_mean:
            chain.append(Subtract(float(scaler.mean_[i])))
        if scaler.with_std:
            chain.append(Divide(float(scaler.scale_[i])))
        steps.append(tuple(chain))
    return apply_steps(scope.graph, features, steps)


TRANSFORMERS: dict[type, TransformConverter] = {StandardScaler: _standardise}
