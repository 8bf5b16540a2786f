"""Classic decision trees and what is made of them: they compare float32 with double thresholds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features
from zaphod.compiler.linear import binary_logistic, likeliest, multinomial
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope
from zaphod.compiler.splits import Tree
from zaphod.compiler.trees import constant_tree, sum_numbers, sum_trees, sum_vectors

TREE_CLASSIFIERS = (DecisionTreeClassifier, ExtraTreeClassifier)
TREE_REGRESSORS = (DecisionTreeRegressor, ExtraTreeRegressor)


def read_tree(
    estimator: Estimator,
    value: NDArray[np.float64],
    *,
    columns: Sequence[int] | NDArray[np.int64] | None = None,
    target: int = 0,
) -> Tree:
    """A fitted tree with another value per node. columns: the features it was fitted on, if not all."""
    tree = estimator.tree_
    feature = np.asarray(tree.feature, dtype=np.int64)
    if columns is not None:
        feature = np.where(feature >= 0, np.asarray(columns)[np.maximum(feature, 0)], feature)
    return Tree(
        feature=feature,
        threshold=np.asarray(tree.threshold, dtype=np.float64),
        left=np.asarray(tree.children_left, dtype=np.int64),
        right=np.asarray(tree.children_right, dtype=np.int64),
        missing_left=np.asarray(tree.missing_go_to_left, dtype=bool),
        value=value,
        target=target,
    )


def class_shares(tree: Estimator) -> NDArray[np.float64]:
    """What `predict_proba` gives in each node, shape (num_nodes, num_classes); of several targets side by side."""
    num_classes = np.atleast_1d(tree.n_classes_).tolist()
    return np.concatenate([tree.tree_.value[:, i, :count] for i, count in enumerate(num_classes)], axis=1)


def means(tree: Estimator) -> NDArray[np.float64]:
    """What `predict` gives in each node, shape (num_nodes, num_targets)."""
    return np.ascontiguousarray(tree.tree_.value[:, :, 0])


def _classify_tree(model: Estimator, features: Features, scope: Scope) -> Prediction:
    shares = sum_vectors(scope.graph, scope.inputs, features, [read_tree(model, class_shares(model))], float32=True)
    return _by_probabilities(scope, shares, model)


def _classify_forest(model: Estimator, features: Features, scope: Scope) -> Prediction:
    trees = [read_tree(tree, class_shares(tree)) for tree in model.estimators_]
    total = sum_vectors(scope.graph, scope.inputs, features, trees, float32=True)
    return _by_probabilities(scope, scope.graph.add("Div", total, np.array(float(len(trees)))), model)


def _by_probabilities(scope: Scope, probabilities: str, model: Estimator) -> Prediction:
    label = likeliest(scope.graph, probabilities, np.atleast_1d(model.n_classes_).tolist())
    return Prediction(label=label, probabilities=probabilities)


def _regress_tree(model: Estimator, features: Features, scope: Scope) -> Prediction:
    return Prediction(value=_sum_means(scope, features, [model]))


def _regress_forest(model: Estimator, features: Features, scope: Scope) -> Prediction:
    total = _sum_means(scope, features, model.estimators_)
    return Prediction(value=scope.graph.add("Div", total, np.array(float(len(model.estimators_)))))


def _sum_means(scope: Scope, features: Features, trees: Sequence[Estimator]) -> str:
    if trees[0].n_outputs_ > 1:
        read = [read_tree(tree, means(tree)) for tree in trees]
        return sum_vectors(scope.graph, scope.inputs, features, read, float32=True)
    read = [read_tree(tree, means(tree)[:, 0]) for tree in trees]
    return sum_numbers(scope.graph, scope.inputs, features, read, float32=True)


def _classify_boosted(model: GradientBoostingClassifier, features: Features, scope: Scope) -> Prediction:
    raw = _raw_boosted(model, features, scope)
    if model.n_trees_per_iteration_ > 1:
        return multinomial(scope.graph, raw)
    # With the exponential loss a class's log-odds are twice the raw sum.
    factor = 2.0 if model.loss == "exponential" else 1.0
    both = scope.graph.add("Mul", raw, np.array([factor, -factor]))
    # A sum of exactly 0 is class 1 here, where HistGradientBoosting and linear models say 0.
    label = scope.graph.add("ArgMin", both, axis=1, keepdims=0, select_last_index=1)
    return Prediction(label=label, decision=raw, probabilities=binary_logistic(scope.graph, both).probabilities)


def _regress_boosted(model: GradientBoostingRegressor, features: Features, scope: Scope) -> Prediction:
    return Prediction(value=_raw_boosted(model, features, scope))


def _raw_boosted(model: Estimator, features: Features, scope: Scope) -> str:
    if not (isinstance(model.init_, str) or type(model.init_) in (DummyClassifier, DummyRegressor)):
        raise NotCompilable(f"{type(model).__name__} that starts from {type(model.init_).__name__} has no converter")
    start = model._raw_predict_init(np.zeros((1, model.n_features_in_)))[0]
    trees = [constant_tree(float(value), target=k) for k, value in enumerate(start)]
    for stage in model.estimators_:
        trees += [read_tree(tree, model.learning_rate * means(tree)[:, 0], target=k) for k, tree in enumerate(stage)]
    return sum_trees(scope.graph, scope.inputs, features, trees, num_targets=len(start), float32=True)


def _isolate(model: IsolationForest, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    trees = [
        read_tree(tree, lengths + average - 1.0, columns=columns)
        for tree, columns, lengths, average in zip(
            model.estimators_,
            model.estimators_features_,
            model._decision_path_lengths,
            model._average_path_length_per_tree,
            strict=True,
        )
    ]
    depths = sum_numbers(graph, scope.inputs, features, trees, float32=True)
    denominator = len(trees) * _average_path_length(model._max_samples)
    if denominator == 0:
        raise NotCompilable("IsolationForest of single samples has no converter")
    # 2 ** -(depths / denominator), and the score is its negative.
    exponent = graph.add("Neg", graph.add("Div", depths, np.array(denominator)))
    score = graph.add("Neg", graph.add("Pow", np.array(2.0), exponent))
    return outlier(scope, graph.add("Sub", score, np.array(float(model.offset_))))


def _average_path_length(num_samples: int) -> float:
    from sklearn.ensemble._iforest import _average_path_length

    return float(_average_path_length([num_samples])[0])


def outlier(scope: Scope, decision: str) -> Prediction:
    """1 for inliers, -1 where the decision, [n, 1], is below 0."""
    graph = scope.graph
    label = graph.add("Where", graph.add("Less", decision, np.array(0.0)), np.array([-1]), np.array([1]))
    return Prediction(label=label, decision=decision)


PREDICTORS: dict[type, PredictConverter] = {
    DecisionTreeClassifier: _classify_tree,
    DecisionTreeRegressor: _regress_tree,
    ExtraTreeClassifier: _classify_tree,
    ExtraTreeRegressor: _regress_tree,
    RandomForestClassifier: _classify_forest,
    RandomForestRegressor: _regress_forest,
    ExtraTreesClassifier: _classify_forest,
    ExtraTreesRegressor: _regress_forest,
    GradientBoostingClassifier: _classify_boosted,
    GradientBoostingRegressor: _regress_boosted,
    IsolationForest: _isolate,
}
