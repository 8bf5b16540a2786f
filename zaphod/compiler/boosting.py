"""Gradient boosting by histograms: trees that compare doubles, summed in scikit-learn's order."""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features
from zaphod.compiler.linear import binary_logistic, multinomial
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope
from zaphod.compiler.trees import Tree, constant_tree, sum_trees


def _classify(model: HistGradientBoostingClassifier, features: Features, scope: Scope) -> Prediction:
    raw = _raw(model, features, scope)
    if model.n_trees_per_iteration_ > 1:
        return multinomial(scope.graph, raw)
    return binary_logistic(scope.graph, scope.graph.add("Mul", raw, np.array([1.0, -1.0])))


def _regress(model: HistGradientBoostingRegressor, features: Features, scope: Scope) -> Prediction:
    raw = _raw(model, features, scope)
    match model.loss:
        case "squared_error" | "absolute_error" | "quantile":
            return Prediction(value=raw)
        case "gamma" | "poisson":
            return Prediction(value=scope.graph.add("Exp", raw))
        case _:
            raise NotCompilable(f"HistGradientBoostingRegressor with loss {model.loss!r} has no converter")


def _raw(model: Estimator, features: Features, scope: Scope) -> str:
    left_of: list[NDArray[np.bool_]] = []
    if model._preprocessor is not None:
        features = scope.transform(model._preprocessor, features)
    baseline = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
    trees = [constant_tree(float(value), target=k) for k, value in enumerate(baseline)]
    for iteration in model._predictors:
        trees += [_tree(predictor.nodes, target=k) for k, predictor in enumerate(iteration)]
    return sum_trees(scope.graph, scope.inputs, features, trees, num_targets=len(baseline))


def _tree(nodes: np.ndarray, *, target: int) -> Tree:
    is_leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        left=np.where(is_leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(is_leaf, -1, nodes["right"].astype(np.int64)),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        value=nodes["value"].astype(np.float64),
        target=target,
    )


PREDICTORS: dict[type, PredictConverter] = {
    HistGradientBoostingClassifier: _classify,
    HistGradientBoostingRegressor: _regress,
}
