"""Multi-layer perceptrons: scikit-learn computes them in double, so do we."""

from __future__ import annotations

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features, dot
from zaphod.compiler.graph import Graph
from zaphod.compiler.linear import complete, complete_each, first_largest, flags, is_multilabel, sigmoid_of_negative
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope

_OPS = {"relu": "Relu", "tanh": "Tanh"}


def _classify(model: MLPClassifier, features: Features, scope: Scope) -> Prediction:
    output = _forward(model, features, scope)
    if is_multilabel(model):
        probabilities = complete_each(scope.graph, output, model.n_outputs_)
        return Prediction(label=flags(scope.graph, output, above=0.5), probabilities=probabilities)
    probabilities = complete(scope.graph, output) if model.n_outputs_ == 1 else output
    return Prediction(label=first_largest(scope.graph, probabilities), probabilities=probabilities)


def _regress(model: MLPRegressor, features: Features, scope: Scope) -> Prediction:
    return Prediction(value=_forward(model, features, scope))


def _forward(model: Estimator, features: Features, scope: Scope) -> str:
    graph = scope.graph
    # Weights that Adam learnt are double, and stay it.
    coefs = [np.asarray(coef, dtype=np.float64) for coef in model.coefs_]
    intercepts = [np.asarray(intercept, dtype=np.float64) for intercept in model.intercepts_]
    done = dot(graph, scope.inputs, features, coefs[0], intercepts[0])
    for coef, intercept in zip(coefs[1:], intercepts[1:], strict=True):
        done = graph.add("Gemm", _activate(graph, done, model.activation), coef, intercept)
    return _activate(graph, done, model.out_activation_)


def _activate(graph: Graph, tensor: str, name: str) -> str:
    match name:
        case "identity":
            return tensor
        case "softmax":
            return graph.add("Softmax", tensor, axis=1)
        case "logistic":
            return sigmoid_of_negative(graph, graph.add("Neg", tensor))
        case _ if name in _OPS:
            return graph.add(_OPS[name], tensor)
        case _:
            raise NotCompilable(f"the output activation {name} has no converter")


PREDICTORS: dict[type, PredictConverter] = {MLPClassifier: _classify, MLPRegressor: _regress}
