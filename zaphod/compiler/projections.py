"""Transformers that mix columns: products, splines, decompositions, random features; and those that pick columns."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import BSpline, PPoly
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, FastICA, IncrementalPCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import (
    RFE,
    RFECV,
    GenericUnivariateSelect,
    SelectFdr,
    SelectFpr,
    SelectFromModel,
    SelectFwe,
    SelectKBest,
    SelectPercentile,
    SequentialFeatureSelector,
    VarianceThreshold,
)
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.preprocessing import Normalizer, PolynomialFeatures, SplineTransformer
from sklearn.random_projection import GaussianRandomProjection

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Column, Features, apply_steps, dot, from_tensor, matrix
from zaphod.compiler.kernels import pairwise
from zaphod.compiler.scope import Estimator, Scope, TransformConverter
from zaphod.compiler.steps import Clip, Constant, Polynomials, Step, Subtract

SELECTORS = (
    GenericUnivariateSelect, RFE, RFECV, SelectFdr, SelectFpr, SelectFromModel, SelectFwe, SelectKBest,
    SelectPercentile, SequentialFeatureSelector, VarianceThreshold,
)  # fmt: skip


def _select(selector: Estimator, features: Features, scope: Scope) -> Features:
    del scope  # nothing is computed
    return features.select(np.flatnonzero(selector.get_support()))


def _principal(model: Estimator, features: Features, scope: Scope) -> Features:
    turned = np.ascontiguousarray(model.components_.T)
    tensor = dot(scope.graph, scope.inputs, features, turned, -(model.mean_.reshape(1, -1) @ turned)[0])
    if model.whiten:
        scale = np.sqrt(model.explained_variance_)
        scale[scale < np.finfo(scale.dtype).eps] = np.finfo(scale.dtype).eps
        tensor = scope.graph.add("Div", tensor, scale)
    return from_tensor(tensor, turned.shape[1])


def _turn(model: Estimator, features: Features, scope: Scope) -> Features:
    turned = np.asarray(model.components_, dtype=np.float64).T
    return from_tensor(dot(scope.graph, scope.inputs, features, turned, np.zeros(turned.shape[1])), turned.shape[1])


def _unmix(model: FastICA, features: Features, scope: Scope) -> Features:
    if model.whiten:
        features = apply_steps(scope.graph, features, [(Subtract(float(mean)),) for mean in model.mean_])
    return _turn(model, features, scope)


def _discriminate(model: LinearDiscriminantAnalysis, features: Features, scope: Scope) -> Features:
    if model.solver == "lsqr":
        raise NotCompilable("LinearDiscriminantAnalysis with solver 'lsqr' transforms nothing")
    width = model._max_components
    if model.solver == "svd":
        features = apply_steps(scope.graph, features, [(Subtract(float(mean)),) for mean in model.xbar_])
    scalings = np.ascontiguousarray(np.asarray(model.scalings_, dtype=np.float64)[:, :width])
    return from_tensor(dot(scope.graph, scope.inputs, features, scalings, np.zeros(width)), width)


def _normalise(normalizer: Normalizer, features: Features, scope: Scope) -> Features:
    graph = scope.graph
    x = matrix(graph, features, inputs=scope.inputs)
    match normalizer.norm:
        case "l1":
            norm = graph.add("ReduceSum", graph.add("Abs", x), np.array([1]), keepdims=1)
        case "l2":
            norm = graph.add("Sqrt", graph.add("ReduceSumSquare", x, np.array([1]), keepdims=1))
        case _:
            norm = graph.add("ReduceMax", graph.add("Abs", x), np.array([1]), keepdims=1)
    # _handle_zeros_in_scale: a norm this small is noise around 0.
    small = graph.add("Less", norm, np.array(10 * np.finfo(np.float64).eps))
    tensor = graph.add("Div", x, graph.add("Where", small, np.array(1.0), norm))
    return from_tensor(tensor, len(features))


def _multiply(transformer: PolynomialFeatures, features: Features, scope: Scope) -> Features:
    graph = scope.graph
    powers = transformer.powers_
    if powers.sum(axis=1).max(initial=0) > 3:
        raise NotCompilable("PolynomialFeatures above degree 3 has no converter")
    columns: list[Column] = []
    products: dict[tuple[int, ...], int] = {}
    for row in powers:
        factors = tuple(int(i) for i in np.repeat(np.arange(len(row)), row))
        match factors:
            case ():
                columns += apply_steps(graph, features.select([0]), [(Constant(1.0),)]).columns
            case (i,):
                columns.append(features.columns[i])
            case _:
                products[factors] = len(columns)
                columns.append(features.columns[factors[0]])
    if products:
        x = matrix(graph, features, inputs=scope.inputs)
        for degree in sorted({len(factors) for factors in products}):
            chosen = [factors for factors in products if len(factors) == degree]
            # scikit-learn multiplies the product of the later columns by the first one.
            tensor = graph.add("Gather", x, np.array([factors[-1] for factors in chosen]), axis=1)
            for place in range(degree - 2, -1, -1):
                picked = graph.add("Gather", x, np.array([factors[place] for factors in chosen]), axis=1)
                tensor = graph.add("Mul", tensor, picked)
            for column, factors in zip(from_tensor(tensor, len(chosen)).columns, chosen, strict=True):
                columns[products[factors]] = column
    return Features(tuple(columns))


def _splines(transformer: SplineTransformer, features: Features, scope: Scope) -> Features:
    """Each spline as its polynomials: which piece by binary search, then Horner's scheme."""
    if transformer.extrapolation not in ("constant", "continue"):
        raise NotCompilable(f"SplineTransformer with extrapolation {transformer.extrapolation!r} has no converter")
    if transformer.handle_missing != "error":
        raise NotCompilable("SplineTransformer that handles missing values has no converter")
    columns: list[Column] = []
    steps: list[tuple[Step, ...]] = []
    for column, spline in zip(features.columns, transformer.bsplines_, strict=True):
        degree = spline.k
        if (np.diff(spline.t[degree:-degree] if degree else spline.t) <= 0).any():
            raise NotCompilable("SplineTransformer on a column that was constant in training has no converter")
        num_splines = spline.c.shape[1]
        inner = slice(degree, len(spline.t) - 1 - degree)
        starts = tuple(spline.t[inner].tolist())
        clip: tuple[Step, ...] = ()
        if transformer.extrapolation == "constant":
            clip = (Clip(float(spline.t[degree]), float(spline.t[-degree - 1])),)
        for k in range(num_splines - (0 if transformer.include_bias else 1)):
            columns.append(column)
            pieces = PPoly.from_spline(BSpline(spline.t, spline.c[:, k], degree)).c[:, inner]
            polynomials = Polynomials(
                starts=starts,
                coefficients=tuple(tuple(row) for row in pieces.tolist()),
                spline=(tuple(spline.t.tolist()), tuple(spline.c[:, k].tolist()), degree),
            )
            steps.append((*clip, polynomials))
    return apply_steps(scope.graph, Features(tuple(columns)), steps)


def _sample_fourier(model: RBFSampler, features: Features, scope: Scope) -> Features:
    width = model.random_weights_.shape[1]
    tensor = dot(scope.graph, scope.inputs, features, model.random_weights_, model.random_offset_)
    return from_tensor(scope.graph.add("Mul", scope.graph.add("Cos", tensor), np.array((2.0 / width) ** 0.5)), width)


def _nystroem(model: Nystroem, features: Features, scope: Scope) -> Features:
    if not isinstance(model.kernel, str) or model.kernel_params:
        raise NotCompilable("Nystroem with a kernel that is a function has no converter")
    points = np.asarray(model.components_, dtype=np.float64)
    kernel = pairwise(
        scope.graph,
        matrix(scope.graph, features, inputs=scope.inputs),
        points,
        name=model.kernel,
        gamma=1.0 / points.shape[1] if model.gamma is None else float(model.gamma),
        coef0=1.0 if model.coef0 is None else float(model.coef0),
        degree=3.0 if model.degree is None else float(model.degree),
    )
    turned = np.ascontiguousarray(np.asarray(model.normalization_, dtype=np.float64).T)
    return from_tensor(scope.graph.add("MatMul", kernel, turned), len(points))


def _distances(model: KMeans, features: Features, scope: Scope) -> Features:
    from zaphod.compiler.distances import plain_squared_distances

    graph = scope.graph
    points = np.asarray(model.cluster_centers_, dtype=np.float64)
    squared = plain_squared_distances(graph, matrix(graph, features, inputs=scope.inputs), points)
    return from_tensor(graph.add("Sqrt", squared), len(points))


TRANSFORMERS: dict[type, TransformConverter] = {
    **dict.fromkeys(SELECTORS, _select),
    PCA: _principal,
    IncrementalPCA: _principal,
    TruncatedSVD: _turn,
    GaussianRandomProjection: _turn,
    FastICA: _unmix,
    LinearDiscriminantAnalysis: _discriminate,
    Normalizer: _normalise,
    PolynomialFeatures: _multiply,
    SplineTransformer: _splines,
    RBFSampler: _sample_fourier,
    Nystroem: _nystroem,
    KMeans: _distances,
}
