"""Models that compare a row with a few points: clusters, centroids and a robust ellipse; and those that are refused."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.covariance import EllipticEnvelope
from sklearn.neighbors import (
    KNeighborsClassifier,
    KNeighborsRegressor,
    LocalOutlierFactor,
    NearestCentroid,
    RadiusNeighborsClassifier,
    RadiusNeighborsRegressor,
)

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features, matrix
from zaphod.compiler.forests import outlier
from zaphod.compiler.graph import Graph
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope


def _cluster(model: Estimator, features: Features, scope: Scope) -> Prediction:
    x = matrix(scope.graph, features, inputs=scope.inputs)
    return Prediction(label=_nearest(scope.graph, x, np.asarray(model.cluster_centers_, dtype=np.float64)))


def _nearest(graph: Graph, x: str, points: NDArray[np.float64]) -> str:
    """|x|^2 is the same for every point and left out, as scikit-learn does."""
    centre = points.mean(axis=0)
    points = points - centre
    scores = graph.add("Gemm", graph.add("Sub", x, centre), -2.0 * points.T, np.sum(points**2, axis=1))
    return graph.add("ArgMin", scores, axis=1, keepdims=0)


def _classify_centroid(model: NearestCentroid, features: Features, scope: Scope) -> Prediction:
    if model.metric != "euclidean" or not np.isclose(model.class_prior_, 1 / len(model.classes_)).all():
        raise NotCompilable("NearestCentroid with another metric than euclidean or with priors has no converter")
    graph = scope.graph
    x = matrix(graph, features, inputs=scope.inputs)
    centroids = np.asarray(model.centroids_, dtype=np.float64)
    label = graph.add("ArgMin", plain_squared_distances(graph, x, centroids), axis=1, keepdims=0)
    return Prediction(label=label, probabilities=graph.add("Softmax", _discriminant(model, graph, x), axis=1))


def _discriminant(model: NearestCentroid, graph: Graph, x: str) -> str:
    """Negative squared distances in units of the spread within classes, and twice the priors' logarithms, [n, C]."""
    spread = np.where(model.within_class_std_dev_ != 0, model.within_class_std_dev_, 1.0)
    centroids = np.asarray(model.centroids_, dtype=np.float64) / spread
    distances = plain_squared_distances(graph, graph.add("Div", x, spread), centroids)
    return graph.add("Sub", 2.0 * np.log(np.asarray(model.class_prior_)), distances)


def plain_squared_distances(graph: Graph, x: str, points: NDArray[np.float64]) -> str:
    """With |x|^2 and the rounding it brings, as scikit-learn has it: of points far from a row the first is nearest."""
    cross = graph.add("MatMul", x, np.ascontiguousarray(-2.0 * points.T))
    squares = graph.add("ReduceSumSquare", x, np.array([1]), keepdims=1)
    total = graph.add("Add", graph.add("Add", cross, squares), np.sum(points**2, axis=1))
    return graph.add("Max", total, np.array(0.0))


def _detect(model: EllipticEnvelope, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    off = graph.add("Sub", matrix(graph, features, inputs=scope.inputs), np.asarray(model.location_))
    turned = graph.add("Mul", graph.add("MatMul", off, np.asarray(model.get_precision())), off)
    distance = graph.add("ReduceSum", turned, np.array([1]), keepdims=1)
    score = graph.add("Neg", distance)
    return outlier(scope, graph.add("Sub", score, np.array(float(model.offset_))))


def _refuse_neighbours(model: Estimator, features: Features, scope: Scope) -> Prediction:
    del features, scope
    raise NotCompilable(
        f"{type(model).__name__}: of several neighbours at one distance its search tree decides which count, "
        "and no graph can follow it"
    )


NEIGHBOURS = (
    KNeighborsClassifier,
    KNeighborsRegressor,
    LocalOutlierFactor,
    RadiusNeighborsClassifier,
    RadiusNeighborsRegressor,
)

PREDICTORS: dict[type, PredictConverter] = {
    KMeans: _cluster,
    MiniBatchKMeans: _cluster,
    NearestCentroid: _classify_centroid,
    EllipticEnvelope: _detect,
    **dict.fromkeys(NEIGHBOURS, _refuse_neighbours),
}
