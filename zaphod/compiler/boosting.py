"""Gradient boosting by histograms: trees that compare doubles, summed in scikit-learn's order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from zaphod.compiler import NotCompilable
from zaphod.compiler.composition import positions
from zaphod.compiler.features import Features, concatenate
from zaphod.compiler.linear import binary_logistic, multinomial
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope
from zaphod.compiler.splits import Tree
from zaphod.compiler.trees import constant_tree, sum_trees


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
    if model._preprocessor is not None:
        features = _categories_first(model._preprocessor, features, scope)
    baseline = np.asarray(model._baseline_prediction, dtype=np.float64).reshape(-1)
    trees = [constant_tree(float(value), target=k) for k, value in enumerate(baseline)]
    for iteration in model._predictors:
        trees += [_tree(predictor, target=k) for k, predictor in enumerate(iteration)]
    return sum_trees(scope.graph, scope.inputs, features, trees, num_targets=len(baseline))


def _categories_first(preprocessor: ColumnTransformer, features: Features, scope: Scope) -> Features:
    """Its own preprocessing: categories are numbered and moved to the front, numbers follow as they are."""
    seen = positions(preprocessor, features)
    chosen = preprocessor._transformer_to_input_indices
    categories = features.select([seen[i] for i in chosen["encoder"]])
    encoded = scope.transform(preprocessor.named_transformers_["encoder"], categories)
    return concatenate([encoded, features.select([seen[i] for i in chosen["numerical"]])])


def _tree(predictor: Estimator, *, target: int) -> Tree:
    nodes = predictor.nodes
    is_leaf = nodes["is_leaf"].astype(bool)
    by_category = np.flatnonzero(nodes["is_categorical"].astype(bool) & ~is_leaf)
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        left=np.where(is_leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(is_leaf, -1, nodes["right"].astype(np.int64)),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        value=nodes["value"].astype(np.float64),
        target=target,
        categories={
            int(node): _members(predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]]) for node in by_category
        },
    )


def _members(bitset: NDArray[np.uint32]) -> NDArray[np.float64]:
    """The numbers of the bits that are set in eight words of 32."""
    bits = np.unpackbits(bitset.astype("<u4").view(np.uint8), bitorder="little")
    return np.flatnonzero(bits).astype(np.float64)


PREDICTORS: dict[type, PredictConverter] = {
    HistGradientBoostingClassifier: _classify,
    HistGradientBoostingRegressor: _regress,
}
