"""Linear models: one product, and for classifiers a sigmoid or a softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cross_decomposition import PLSRegression
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    ElasticNetCV,
    GammaRegressor,
    HuberRegressor,
    Lars,
    Lasso,
    LassoCV,
    LassoLars,
    LassoLarsCV,
    LassoLarsIC,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    MultiTaskElasticNet,
    MultiTaskLasso,
    OrthogonalMatchingPursuit,
    PassiveAggressiveClassifier,
    PassiveAggressiveRegressor,
    Perceptron,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDClassifier,
    SGDOneClassSVM,
    SGDRegressor,
    TheilSenRegressor,
    TweedieRegressor,
)
from sklearn.svm import LinearSVC, LinearSVR

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features, apply_steps, dot
from zaphod.compiler.graph import Graph
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope
from zaphod.compiler.steps import Subtract

REGRESSORS = (
    ARDRegression, BayesianRidge, ElasticNet, ElasticNetCV, HuberRegressor, Lars, Lasso, LassoCV, LassoLars,
    LassoLarsCV, LassoLarsIC, LinearRegression, LinearSVR, MultiTaskElasticNet, MultiTaskLasso,
    OrthogonalMatchingPursuit, PassiveAggressiveRegressor, QuantileRegressor, Ridge, RidgeCV, SGDRegressor,
    TheilSenRegressor,
)  # fmt: skip
# These have a decision and a label, and no probabilities.
SEPARATORS = (LinearSVC, PassiveAggressiveClassifier, Perceptron, RidgeClassifier, RidgeClassifierCV)


def weights(model: Estimator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """coef_ as (p, t) and intercept_ as (t,)."""
    coef = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64)).T
    intercept = np.asarray(model.intercept_, dtype=np.float64).reshape(-1)
    return coef, np.broadcast_to(intercept, coef.shape[1:]).copy()


def both_sides(model: Estimator, features: Features, scope: Scope) -> str:
    """Z and -z of a binary model from one product, [n, 2]."""
    coef, intercept = weights(model)
    return dot(scope.graph, scope.inputs, features, np.hstack([coef, -coef]), np.hstack([intercept, -intercept]))


def is_binary(model: Estimator) -> bool:
    """One decision decides between two classes."""
    return bool(weights(model)[0].shape[1] == 1)


def is_multilabel(model: Estimator) -> bool:
    """It gives a flag for each of several labels instead of one label."""
    return str(model._label_binarizer.y_type_).startswith("multilabel")


def binary_logistic(graph: Graph, both: str) -> Prediction:
    """both: [n, 2], z and -z. The label is 1 when z > 0: of equals, ArgMin takes the first."""
    return Prediction(
        label=graph.add("ArgMin", both, axis=1, keepdims=0),
        decision=first_column(graph, both),
        probabilities=sigmoid_of_negative(graph, both),
    )


def sigmoid_of_negative(graph: Graph, negative: str) -> str:
    """1 / (1 + exp(x)) of x: the operator Sigmoid gives 0 from -40 on, where the true value is 1e-18."""
    return graph.add("Reciprocal", graph.add("Add", graph.add("Exp", negative), np.array(1.0)))


def multinomial(graph: Graph, decision: str) -> Prediction:
    """decision: [n, C], one column a class."""
    return Prediction(
        label=first_largest(graph, decision),
        decision=decision,
        probabilities=graph.add("Softmax", decision, axis=1),
    )


def first_largest(graph: Graph, scores: str) -> str:
    """The column of each row's largest, [n]; the first of equals, as numpy's argmax."""
    return graph.add("ArgMax", scores, axis=1, keepdims=0)


def likeliest(graph: Graph, probabilities: str, num_classes: Sequence[int]) -> str:
    """The first largest among each target's probabilities, which stand side by side: [n], or [n, T] of several."""
    if len(num_classes) == 1:
        return first_largest(graph, probabilities)
    ends = np.cumsum(num_classes).tolist()
    parts = [
        graph.add("Slice", probabilities, np.array([end - count]), np.array([end]), np.array([1]))
        for end, count in zip(ends, num_classes, strict=True)
    ]
    return side_by_side(graph, [graph.add("ArgMax", part, axis=1, keepdims=1) for part in parts])


def flags(graph: Graph, scores: str, *, above: float) -> str:
    """1 where a score is above, else 0; int64, of the same shape."""
    return graph.add("Where", graph.add("Greater", scores, np.array(above)), np.array([1]), np.array([0]))


def side_by_side(graph: Graph, tensors: Sequence[str]) -> str:
    """Of [n, …] each."""
    return tensors[0] if len(tensors) == 1 else graph.add("Concat", *tensors, axis=1)


def complete_each(graph: Graph, positive: str, num_targets: int) -> str:
    """1 - p and p of each target from p, [n, T] to [n, 2 T]."""
    spread = graph.add("Gather", positive, np.repeat(np.arange(num_targets), 2), axis=1)
    negative = graph.add("Sub", np.array(1.0), spread)
    return graph.add("Where", np.tile([True, False], num_targets), negative, spread)


def first_column(graph: Graph, pair: str) -> str:
    """Column 0 of [n, 2], as [n, 1]."""
    return graph.add("Slice", pair, np.array([0]), np.array([1]), np.array([1]))


def last_column(graph: Graph, pair: str) -> str:
    """Column 1 of [n, 2], as [n, 1]."""
    return graph.add("Slice", pair, np.array([1]), np.array([2]), np.array([1]))


def share_out(graph: Graph, parts: str, *, num_classes: int) -> str:
    """Each row divided by its sum; a row of zeros becomes equal shares."""
    total = graph.add("ReduceSum", parts, np.array([1]), keepdims=1)
    is_zero = graph.add("Equal", total, np.array(0.0))
    return graph.add("Where", is_zero, np.array(1.0 / num_classes), graph.add("Div", parts, total))


def _regress(model: Estimator, features: Features, scope: Scope) -> Prediction:
    return Prediction(value=dot(scope.graph, scope.inputs, features, *weights(model)))


def _regress_partial_least_squares(model: PLSRegression, features: Features, scope: Scope) -> Prediction:
    centred = apply_steps(scope.graph, features, [(Subtract(float(mean)),) for mean in model._x_mean])
    return _regress(model, centred, scope)


def _regress_generalised(model: Estimator, features: Features, scope: Scope) -> Prediction:
    linear = dot(scope.graph, scope.inputs, features, *weights(model))
    link = type(model._base_loss.link).__name__
    match link:
        case "LogLink":
            return Prediction(value=scope.graph.add("Exp", linear))
        case "IdentityLink":
            return Prediction(value=linear)
        case _:
            raise NotCompilable(f"{type(model).__name__} with {link} has no converter")


def _separate(model: Estimator, features: Features, scope: Scope) -> Prediction:
    if isinstance(model, RidgeClassifier | RidgeClassifierCV) and is_multilabel(model):
        decision = dot(scope.graph, scope.inputs, features, *weights(model))
        return Prediction(label=flags(scope.graph, decision, above=0.0), decision=decision)
    if is_binary(model):
        both = both_sides(model, features, scope)
        label = scope.graph.add("ArgMin", both, axis=1, keepdims=0)
        return Prediction(label=label, decision=first_column(scope.graph, both))
    decision = dot(scope.graph, scope.inputs, features, *weights(model))
    return Prediction(label=first_largest(scope.graph, decision), decision=decision)


def _logistic(model: Estimator, features: Features, scope: Scope) -> Prediction:
    if is_binary(model):
        return binary_logistic(scope.graph, both_sides(model, features, scope))
    return multinomial(scope.graph, dot(scope.graph, scope.inputs, features, *weights(model)))


def _descend(model: SGDClassifier, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    separated = _separate(model, features, scope)
    assert separated.decision is not None
    match model.loss:
        case "log_loss" if is_binary(model):
            return binary_logistic(graph, both_sides(model, features, scope))
        case "log_loss":
            shares = sigmoid_of_negative(graph, graph.add("Neg", separated.decision))
        case "modified_huber":
            clipped = graph.add("Min", graph.add("Max", separated.decision, np.array(-1.0)), np.array(1.0))
            shares = graph.add("Div", graph.add("Add", clipped, np.array(1.0)), np.array(2.0))
        case _:
            return separated
    if is_binary(model):
        probabilities = complete(graph, shares)
    else:
        probabilities = share_out(graph, shares, num_classes=len(model.classes_))
    return Prediction(label=separated.label, decision=separated.decision, probabilities=probabilities)


def complete(graph: Graph, positive: str) -> str:
    """1 - p and p from p, [n, 1] to [n, 2]."""
    return graph.add("Concat", graph.add("Sub", np.array(1.0), positive), positive, axis=1)


def _detect(model: SGDOneClassSVM, features: Features, scope: Scope) -> Prediction:
    coef = np.asarray(model.coef_, dtype=np.float64).reshape(-1, 1)
    decision = dot(scope.graph, scope.inputs, features, coef, -np.asarray(model.offset_, dtype=np.float64).reshape(1))
    label = scope.graph.add("Where", scope.graph.add("Less", decision, np.array(0.0)), np.array([-1]), np.array([1]))
    return Prediction(label=label, decision=decision)


PREDICTORS: dict[type, PredictConverter] = {
    **dict.fromkeys(REGRESSORS, _regress),
    **dict.fromkeys(SEPARATORS, _separate),
    PLSRegression: _regress_partial_least_squares,
    GammaRegressor: _regress_generalised,
    PoissonRegressor: _regress_generalised,
    TweedieRegressor: _regress_generalised,
    LogisticRegression: _logistic,
    LogisticRegressionCV: _logistic,
    SGDClassifier: _descend,
    SGDOneClassSVM: _detect,
}
