"""Linear models: one product, and for classifiers a sigmoid or a softmax."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from zaphod.compiler.features import Features, dot
from zaphod.compiler.graph import Graph
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope


def weights(model: Estimator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """coef_ as (p, t) and intercept_ as (t,)."""
    coef = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64)).T
    intercept = np.asarray(model.intercept_, dtype=np.float64).reshape(-1)
    return coef, np.broadcast_to(intercept, coef.shape[1:]).copy()


def _regress(model: Estimator, features: Features, scope: Scope) -> Prediction:
    return Prediction(value=dot(scope.graph, scope.inputs, features, *weights(model)))


def _logistic(model: LogisticRegression, features: Features, scope: Scope) -> Prediction:
    coef, intercept = weights(model)
    if coef.shape[1] == 1:
        # Both classes from one product: -z and z.
        both = dot(scope.graph, scope.inputs, features, np.hstack([-coef, coef]), np.hstack([-intercept, intercept]))
        return binary_logistic(scope.graph, both)
    decision = dot(scope.graph, scope.inputs, features, coef, intercept)
    return multinomial(scope.graph, decision)


def binary_logistic(graph: Graph, both: str) -> Prediction:
    """both: [n, 2], -z and z. The label is 1 when z > 0: of equals, ArgMax takes the first."""
    return Prediction(
        label=graph.add("ArgMax", both, axis=1, keepdims=0),
        decision=graph.add("Slice", both, np.array([1]), np.array([2]), np.array([1])),
        probabilities=graph.add("Sigmoid", both),
    )


def multinomial(graph: Graph, decision: str) -> Prediction:
    """decision: [n, C], one column a class."""
    return Prediction(
        label=graph.add("ArgMax", decision, axis=1, keepdims=0),
        decision=decision,
        probabilities=graph.add("Softmax", decision, axis=1),
    )


PREDICTORS: dict[type, PredictConverter] = {
    LinearRegression: _regress,
    Ridge: _regress,
    LogisticRegression: _logistic,
}
