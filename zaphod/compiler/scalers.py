"""Shifting, scaling and reshaping single columns, in the order and with the operations that scikit-learn uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypeAlias

import numpy as np
from scipy.special import boxcox
from scipy.stats import yeojohnson
from sklearn.preprocessing import (
    Binarizer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Column, Features, apply_steps
from zaphod.compiler.graph import Graph
from zaphod.compiler.scope import Estimator, Scope, TransformConverter
from zaphod.compiler.steps import (
    Above,
    Add,
    Clip,
    Divide,
    Doubles,
    Interpolate,
    Multiply,
    Piecewise,
    Step,
    Subtract,
    emit_function,
)

Chain: TypeAlias = "tuple[Step, ...]"


def _each(chain: Callable[[Estimator, int], Chain]) -> TransformConverter:
    """A converter that gives column i the steps `chain(estimator, i)`."""

    def convert(estimator: Estimator, features: Features, scope: Scope) -> Features:
        return apply_steps(scope.graph, features, [chain(estimator, i) for i in range(len(features))])

    return convert


def standardise(scaler: StandardScaler, i: int) -> Chain:
    """The steps of column i."""
    shift: Chain = (Subtract(float(scaler.mean_[i])),) if scaler.with_mean else ()
    return (*shift, Divide(float(scaler.scale_[i]))) if scaler.with_std else shift


def _fit_range(scaler: MinMaxScaler, i: int) -> Chain:
    chain = (Multiply(float(scaler.scale_[i])), Add(float(scaler.min_[i])))
    if not scaler.clip:
        return chain
    low, high = scaler.feature_range
    return (*chain, Clip(float(low), float(high)))


def _divide_by_largest(scaler: MaxAbsScaler, i: int) -> Chain:
    chain = (Divide(float(scaler.scale_[i])),)
    return (*chain, Clip(-1.0, 1.0)) if getattr(scaler, "clip", False) else chain


def _centre_on_median(scaler: RobustScaler, i: int) -> Chain:
    shift: Chain = (Subtract(float(scaler.center_[i])),) if scaler.with_centering else ()
    return (*shift, Divide(float(scaler.scale_[i]))) if scaler.with_scaling else shift


def _binarise(binarizer: Binarizer, i: int) -> Chain:
    del i  # one threshold for all
    return (Above(float(binarizer.threshold)),)


@dataclass(frozen=True, slots=True)
class YeoJohnson:
    """scipy's yeojohnson. Rises with its input, whatever lmbda is."""

    lmbda: float
    direction: ClassVar[int] = 1

    def apply(self, values: Doubles) -> Doubles:
        return np.asarray(yeojohnson(values, self.lmbda), dtype=np.float64)

    def group(self) -> object:
        return self

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        del steps  # equal by group
        lmbda, eps = self.lmbda, float(np.finfo(np.float64).eps)
        zero = np.array(0.0)
        above = emit_function(graph, "log1p", graph.add("Max", tensor, zero))
        if abs(lmbda) >= eps:
            power = emit_function(graph, "expm1", graph.add("Mul", above, np.array(lmbda)))
            above = graph.add("Div", power, np.array(lmbda))
        below = emit_function(graph, "log1p", graph.add("Max", graph.add("Neg", tensor), zero))
        if abs(lmbda - 2) > eps:
            power = emit_function(graph, "expm1", graph.add("Mul", below, np.array(2 - lmbda)))
            below = graph.add("Div", power, np.array(2 - lmbda))
        return graph.add("Where", graph.add("Less", tensor, zero), graph.add("Neg", below), above)


@dataclass(frozen=True, slots=True)
class BoxCox:
    """scipy's boxcox, for numbers above 0; scikit-learn raises on others."""

    lmbda: float
    direction: ClassVar[int] = 0

    def apply(self, values: Doubles) -> Doubles:
        return np.asarray(boxcox(values, self.lmbda), dtype=np.float64)

    def group(self) -> object:
        return self

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        del steps  # equal by group
        logarithm = graph.add("Log", tensor)
        if self.lmbda == 0:
            return logarithm
        power = emit_function(graph, "expm1", graph.add("Mul", logarithm, np.array(self.lmbda)))
        return graph.add("Div", power, np.array(self.lmbda))


def _power(transformer: PowerTransformer, i: int) -> Chain:
    lmbda = float(transformer.lambdas_[i])
    if np.isnan(lmbda):
        raise NotCompilable("PowerTransformer on a column that was empty in training has no converter")
    step: Step = YeoJohnson(lmbda) if transformer.method == "yeo-johnson" else BoxCox(lmbda)
    return (step, *standardise(transformer._scaler, i)) if transformer.standardize else (step,)


@dataclass(frozen=True, slots=True, eq=False)
class Quantile:
    """One column of a fitted QuantileTransformer. Rises with its input."""

    transformer: Estimator
    column: int
    direction: ClassVar[int] = 1

    def apply(self, values: Doubles) -> Doubles:
        quantiles = self.transformer.quantiles_[:, self.column]
        return np.asarray(self.transformer._transform_col(values.copy(), quantiles, False))  # noqa: FBT003  # its name is `inverse`

    def group(self) -> object:
        return Quantile, self.transformer.output_distribution

    def emit(self, graph: Graph, tensor: str, steps: Sequence[Self]) -> str:
        if self.transformer.output_distribution != "uniform":
            raise NotCompilable("QuantileTransformer to a normal distribution has a converter before trees only")
        up, down = [], []
        for step in steps:
            quantiles = step.transformer.quantiles_[:, step.column]
            references = step.transformer.references_
            up.append(Interpolate(tuple(quantiles.tolist()), tuple(references.tolist())))
            down.append(Interpolate(tuple((-quantiles[::-1]).tolist()), tuple((-references[::-1]).tolist())))
        upward = up[0].emit(graph, tensor, up)
        downward = down[0].emit(graph, graph.add("Neg", tensor), down)
        level = graph.add("Mul", graph.add("Sub", upward, downward), np.array(0.5))
        lowest = np.array([step.xs[0] for step in up])
        highest = np.array([step.xs[-1] for step in up])
        level = graph.add("Where", graph.add("Equal", tensor, highest), np.array(1.0), level)
        return graph.add("Where", graph.add("Equal", tensor, lowest), np.array(0.0), level)


def _quantile(transformer: QuantileTransformer, i: int) -> Chain:
    return (Quantile(transformer, i),)


def _bins(discretizer: KBinsDiscretizer, i: int) -> Piecewise:
    inner = discretizer.bin_edges_[i][1:-1]
    return Piecewise(tuple(inner.tolist()), tuple(float(k) for k in range(len(inner) + 1)), np.nan)


def _discretise(discretizer: KBinsDiscretizer, features: Features, scope: Scope) -> Features:
    numbered = apply_steps(scope.graph, features, [(_bins(discretizer, i),) for i in range(len(features))])
    if discretizer.encode == "ordinal":
        return numbered
    columns: list[Column] = []
    steps: list[Chain] = []
    for i, column in enumerate(features.columns):
        bins = _bins(discretizer, i)
        for category in discretizer._encoder.categories_[i]:
            columns.append(column)
            values = tuple(float(value == category) for value in bins.values)
            steps.append((Piecewise(bins.breaks, values, np.nan),))
    return apply_steps(scope.graph, Features(tuple(columns)), steps)


TRANSFORMERS: dict[type, TransformConverter] = {
    StandardScaler: _each(standardise),
    MinMaxScaler: _each(_fit_range),
    MaxAbsScaler: _each(_divide_by_largest),
    RobustScaler: _each(_centre_on_median),
    Binarizer: _each(_binarise),
    PowerTransformer: _each(_power),
    QuantileTransformer: _each(_quantile),
    KBinsDiscretizer: _discretise,
}
