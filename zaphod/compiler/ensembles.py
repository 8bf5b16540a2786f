"""Estimators made of other estimators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV, _SigmoidCalibration
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import RANSACRegressor
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor, RegressorChain

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Computed, Features, concatenate, from_tensor
from zaphod.compiler.forests import TREE_CLASSIFIERS, TREE_REGRESSORS, class_shares, means, read_tree
from zaphod.compiler.graph import Graph
from zaphod.compiler.inverses import invert
from zaphod.compiler.linear import (
    complete,
    complete_each,
    first_largest,
    flags,
    last_column,
    share_out,
    side_by_side,
    sigmoid_of_negative,
)
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope
from zaphod.compiler.steps import Interpolate, to_double
from zaphod.compiler.trees import sum_numbers, sum_trees, sum_vectors


def _wanted(tensor: str | None, model: Estimator, what: str) -> str:
    if tensor is None:
        raise NotCompilable(f"{type(model).__name__} has no converter that gives {what}")
    return tensor


def _by_probabilities(graph: Graph, probabilities: str) -> Prediction:
    return Prediction(label=first_largest(graph, probabilities), probabilities=probabilities)


def _spread(graph: Graph, tensor: str, model: Estimator, classes: NDArray[np.generic]) -> str:
    """Columns of the classes that a member was trained on, among all `classes`; the others are 0."""
    positions = np.searchsorted(classes, model.classes_)
    if len(positions) == len(classes):
        return tensor
    return graph.add("MatMul", tensor, np.eye(len(classes))[positions])


def _sum(graph: Graph, tensors: Sequence[str]) -> str:
    """Added from left to right, as Python's `sum` does."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = graph.add("Add", total, tensor)
    return total


def _vote(model: VotingClassifier, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    given = model._weights_not_none
    weights = [1.0] * len(model.estimators_) if given is None else [float(weight) for weight in given]
    members = [scope.predict(member, features) for member in model.estimators_]
    if model.voting == "soft":
        shares = [
            _wanted(done.probabilities, member, "probabilities")
            for done, member in zip(members, model.estimators_, strict=True)
        ]
        weighted = [graph.add("Mul", share, np.array(weight)) for share, weight in zip(shares, weights, strict=True)]
        return _by_probabilities(graph, graph.add("Div", _sum(graph, weighted), np.array(sum(weights))))
    num_classes = len(model.classes_)
    votes = []
    for done, member, weight in zip(members, model.estimators_, weights, strict=True):
        # A member's classes are the positions that the labels were encoded to.
        ballot = np.eye(num_classes)[np.asarray(member.classes_, dtype=np.int64)] * weight
        votes.append(graph.add("Gather", ballot, _flat(graph, _wanted(done.label, member, "a label")), axis=0))
    return Prediction(label=first_largest(graph, _sum(graph, votes)))


def _flat(graph: Graph, label: str) -> str:
    return graph.add("Reshape", label, np.array([-1]))


def _average(model: VotingRegressor, features: Features, scope: Scope) -> Prediction:
    given = model._weights_not_none
    weights = np.ones(len(model.estimators_)) if given is None else np.asarray(given, dtype=np.float64)
    values = [
        scope.graph.add("Mul", _value(member, features, scope), np.array(float(weight)))
        for member, weight in zip(model.estimators_, weights, strict=True)
    ]
    return Prediction(value=scope.graph.add("Div", _sum(scope.graph, values), np.array(float(weights.sum()))))


def _value(member: Estimator, features: Features, scope: Scope) -> str:
    return _wanted(scope.predict(member, features).value, member, "a value")


def _stack(model: Estimator, features: Features, scope: Scope) -> Features:
    """What the final estimator sees."""
    parts: list[Features] = []
    for member, method in zip(model.estimators_, model.stack_method_, strict=True):
        done = scope.predict(member, features)
        match method:
            case "predict_proba" if len(model.classes_) == 2:
                parts.append(Features((Computed(_wanted(done.probabilities, member, "probabilities"), 1, 2),)))
            case "predict_proba":
                width = len(model.classes_)
                parts.append(from_tensor(_wanted(done.probabilities, member, "probabilities"), width))
            case "decision_function":
                width = 1 if len(model.classes_) == 2 else len(model.classes_)
                parts.append(from_tensor(_wanted(done.decision, member, "a decision"), width))
            case "predict" if done.value is not None:
                parts.append(from_tensor(done.value, 1))
            case _:
                raise NotCompilable(f"{type(model).__name__} that stacks labels has no converter")
    if model.passthrough:
        parts.append(features)
    return concatenate(parts)


def _stack_classifiers(model: StackingClassifier, features: Features, scope: Scope) -> Prediction:
    if isinstance(model.classes_, list):
        raise NotCompilable("StackingClassifier of several labels a row has no converter")
    # The labels were encoded: the final estimator's classes are positions already.
    return scope.predict(model.final_estimator_, _stack(model, features, scope))


def _stack_regressors(model: StackingRegressor, features: Features, scope: Scope) -> Prediction:
    return scope.predict(model.final_estimator_, _stack(model, features, scope))


def _bag_classifiers(model: BaggingClassifier, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    classes = np.arange(len(model.classes_))
    members = list(zip(model.estimators_, model.estimators_features_, strict=True))
    if all(type(member) in TREE_CLASSIFIERS for member, _ in members):
        trees = []
        for member, columns in members:
            shares = np.zeros((member.tree_.node_count, len(classes)))
            shares[:, np.searchsorted(classes, member.classes_)] = class_shares(member)
            trees.append(read_tree(member, shares, columns=columns))
        total = sum_vectors(graph, scope.inputs, features, trees, float32=True)
    else:
        shares_of = []
        for member, columns in members:
            done = scope.predict(member, features.select(columns).nameless())
            if not hasattr(member, "predict_proba"):
                ballot = np.eye(len(classes))[np.searchsorted(classes, member.classes_)]
                label = _flat(graph, _wanted(done.label, member, "a label"))
                shares_of.append(graph.add("Gather", ballot, label, axis=0))
                continue
            share = _wanted(done.probabilities, member, "probabilities")
            shares_of.append(_spread(graph, share, member, classes))
        total = _sum(graph, shares_of)
    return _by_probabilities(graph, graph.add("Div", total, np.array(float(len(members)))))


def _bag_regressors(model: BaggingRegressor, features: Features, scope: Scope) -> Prediction:
    members = list(zip(model.estimators_, model.estimators_features_, strict=True))
    if all(type(member) in TREE_REGRESSORS and member.n_outputs_ == 1 for member, _ in members):
        trees = [read_tree(member, means(member)[:, 0], columns=columns) for member, columns in members]
        total = sum_numbers(scope.graph, scope.inputs, features, trees, float32=True)
    else:
        total = _sum(
            scope.graph,
            [_value(member, features.select(columns).nameless(), scope) for member, columns in members],
        )
    return Prediction(value=scope.graph.add("Div", total, np.array(float(len(members)))))


def _boost_classifiers(model: AdaBoostClassifier, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    num_classes = len(model.classes_)
    # Boosting that stopped early has weights for the members it did not train.
    members = list(zip(model.estimators_, model.estimator_weights_, strict=False))
    if all(type(member) in TREE_CLASSIFIERS for member, _ in members):
        trees = [
            read_tree(member, _ballot(model, member, float(weight))[np.argmax(class_shares(member), axis=1)])
            for member, weight in members
        ]
        total = sum_vectors(graph, scope.inputs, features, trees, float32=True)
    else:
        votes = []
        for member, weight in members:
            label = _flat(graph, _wanted(scope.predict(member, features.nameless()).label, member, "a label"))
            votes.append(graph.add("Gather", _ballot(model, member, float(weight)), label, axis=0))
        total = _sum(graph, votes)
    scores = graph.add("Div", total, np.array(float(model.estimator_weights_.sum())))
    if num_classes > 2:
        shares = graph.add("Softmax", graph.add("Div", scores, np.array(num_classes - 1.0)), axis=1)
        return Prediction(label=first_largest(graph, scores), decision=scores, probabilities=shares)
    # Of two scores the second less the first: the sum is exact, for one is the other's negative.
    both = graph.add("MatMul", scores, np.array([[1.0, -1.0], [-1.0, 1.0]]))
    shares = graph.add("Softmax", graph.add("Div", both, np.array(2.0)), axis=1)
    return Prediction(label=first_largest(graph, both), decision=last_column(graph, both), probabilities=shares)


def _ballot(model: AdaBoostClassifier, member: Estimator, weight: float) -> NDArray[np.float64]:
    """What a member adds to each class, by the position of its label in its own classes."""
    chosen = np.asarray(member.classes_)[:, None] == np.asarray(model.classes_)[None, :]
    return np.where(chosen, weight, -1 / (len(model.classes_) - 1) * weight)


def _boost_regressors(model: AdaBoostRegressor, features: Features, scope: Scope) -> Prediction:
    """The weighted median of the members."""
    graph = scope.graph
    weights = np.asarray(model.estimator_weights_, dtype=np.float64)[: len(model.estimators_)]
    values = _members_side_by_side(model, features, scope)
    in_order, positions = graph.add_many(
        "TopK", values, np.array([len(weights)]), num_outputs=2, axis=1, largest=0, sorted=1
    )
    shares = graph.add("CumSum", graph.add("Gather", weights, positions, axis=0), np.array(1))
    half = graph.add(
        "Mul", graph.add("Slice", shares, np.array([-1]), np.array([2**31 - 1]), np.array([1])), np.array(0.5)
    )
    reached = to_double(graph, graph.add("GreaterOrEqual", shares, half))
    median = graph.add("ArgMax", reached, axis=1, keepdims=1)
    return Prediction(value=graph.add("GatherElements", in_order, median, axis=1))


def _members_side_by_side(model: AdaBoostRegressor, features: Features, scope: Scope) -> str:
    members = model.estimators_
    if all(type(member) in TREE_REGRESSORS for member in members):
        trees = [read_tree(member, means(member)[:, 0], target=i) for i, member in enumerate(members)]
        return sum_trees(scope.graph, scope.inputs, features, trees, num_targets=len(trees), float32=True)
    values = [_value(member, features.nameless(), scope) for member in members]
    return values[0] if len(values) == 1 else scope.graph.add("Concat", *values, axis=1)


def _calibrate(model: CalibratedClassifierCV, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    shares = [_calibrated(part, model, features, scope) for part in model.calibrated_classifiers_]
    return _by_probabilities(graph, graph.add("Div", _sum(graph, shares), np.array(float(len(shares)))))


def _calibrated(part: Estimator, model: CalibratedClassifierCV, features: Features, scope: Scope) -> str:
    graph, num_classes = scope.graph, len(part.classes)
    member = part.estimator
    done = scope.predict(member, features)
    if hasattr(member, "decision_function"):
        response = _wanted(done.decision, member, "a decision")
    else:
        response = _wanted(done.probabilities, member, "probabilities")
        response = last_column(graph, response) if num_classes == 2 else response
    if len(member.classes_) != num_classes:
        raise NotCompilable("CalibratedClassifierCV with a fold that lacks a class has no converter")
    if part.method == "temperature":
        raise NotCompilable("CalibratedClassifierCV with temperature scaling has no converter")
    if num_classes == 2:
        return complete(graph, _calibrator(graph, response, part.calibrators[0]))
    columns = [
        _calibrator(graph, graph.add("Gather", response, np.array([i]), axis=1), calibrator)
        for i, calibrator in enumerate(part.calibrators)
    ]
    return share_out(graph, graph.add("Concat", *columns, axis=1), num_classes=num_classes)


def _calibrator(graph: Graph, response: str, calibrator: Estimator) -> str:
    match calibrator:
        case _SigmoidCalibration():
            scaled = graph.add("Mul", response, np.array(float(calibrator.a_)))
            return sigmoid_of_negative(graph, graph.add("Add", scaled, np.array(float(calibrator.b_))))
        case IsotonicRegression():
            step = Interpolate(tuple(calibrator.X_thresholds_.tolist()), tuple(calibrator.y_thresholds_.tolist()))
            return step.emit(graph, response, [step])
        case _:
            raise NotCompilable(f"the calibrator {type(calibrator).__name__} has no converter")


def _one_against_rest(model: OneVsRestClassifier, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    if model.multilabel_:
        return _each_for_itself(model, features, scope)
    if len(model.estimators_) == 1:
        return _one_of_two(model.estimators_[0], features, scope)
    members = [scope.predict(member, features) for member in model.estimators_]
    has_probabilities = all(done.probabilities is not None for done in members)
    scores = [
        done.decision if hasattr(member, "decision_function") else _positive(graph, done, member)
        for done, member in zip(members, model.estimators_, strict=True)
    ]
    stacked = graph.add("Concat", *[_wanted(score, model, "a decision") for score in scores], axis=1)
    # Its loop keeps the first class of equal scores.
    label = first_largest(graph, stacked)
    if not has_probabilities:
        return Prediction(label=label, decision=stacked)
    shares = graph.add(
        "Concat",
        *[_positive(graph, done, member) for done, member in zip(members, model.estimators_, strict=True)],
        axis=1,
    )
    total = graph.add("ReduceSum", shares, np.array([1]), keepdims=1)
    whole = graph.add("Where", graph.add("Equal", total, np.array(0.0)), np.array(1.0), total)
    return Prediction(label=label, decision=stacked, probabilities=graph.add("Div", shares, whole))


def _each_for_itself(model: OneVsRestClassifier, features: Features, scope: Scope) -> Prediction:
    """A flag for each label."""
    graph = scope.graph
    members = [scope.predict(member, features) for member in model.estimators_]
    pairs = list(zip(members, model.estimators_, strict=True))
    has_decision = hasattr(model.estimators_[0], "decision_function")
    scores = [
        _wanted(done.decision, member, "a decision") if has_decision else _positive(graph, done, member)
        for done, member in pairs
    ]
    label = flags(graph, side_by_side(graph, scores), above=0.0 if has_decision else 0.5)
    if not hasattr(model, "predict_proba"):
        return Prediction(label=label)
    shares = side_by_side(graph, [_positive(graph, done, member) for done, member in pairs])
    return Prediction(label=label, probabilities=complete_each(graph, shares, len(pairs)))


def _one_of_two(member: Estimator, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    done = scope.predict(member, features)
    if hasattr(member, "decision_function"):
        above = graph.add("Greater", _wanted(done.decision, member, "a decision"), np.array(0.0))
    else:
        above = graph.add("Greater", _positive(graph, done, member), np.array(0.5))
    label = graph.add("Where", above, np.array([1]), np.array([0]))
    shares = complete(graph, last_column(graph, done.probabilities)) if done.probabilities else None
    return Prediction(label=label, decision=done.decision, probabilities=shares)


def _positive(graph: Graph, done: Prediction, member: Estimator) -> str:
    return last_column(graph, _wanted(done.probabilities, member, "probabilities"))


def _side_by_side(model: MultiOutputRegressor, features: Features, scope: Scope) -> Prediction:
    return Prediction(
        value=side_by_side(scope.graph, [_value(member, features, scope) for member in model.estimators_])
    )


def _classify_side_by_side(model: MultiOutputClassifier, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    members = [scope.predict(member, features) for member in model.estimators_]
    labels = [
        graph.add("Reshape", _wanted(done.label, member, "a label"), np.array([-1, 1]))
        for done, member in zip(members, model.estimators_, strict=True)
    ]
    shares = [done.probabilities for done in members if done.probabilities is not None]
    return Prediction(
        label=side_by_side(graph, labels),
        probabilities=side_by_side(graph, shares) if len(shares) == len(members) else None,
    )


def _classify_chain(model: ClassifierChain, features: Features, scope: Scope) -> Prediction:
    """Each member sees what those before it said."""
    graph, order = scope.graph, np.argsort(model.order_)
    seen = features.nameless()
    labels: list[str] = []
    shares: list[str] = []
    for member in model.estimators_:
        done = scope.predict(member, seen)
        label = graph.add("Reshape", _wanted(done.label, member, "a label"), np.array([-1, 1]))
        labels.append(label)
        if hasattr(model, "predict_proba"):
            shares.append(_positive(graph, done, member))
        match model.chain_method_:
            case "predict":
                said = graph.add("Gather", np.asarray(member.classes_, dtype=np.float64), label, axis=0)
            case "predict_proba":
                said = _positive(graph, done, member)
            case "decision_function":
                said = _wanted(done.decision, member, "a decision")
            case _:
                raise NotCompilable(f"ClassifierChain by {model.chain_method_} has no converter")
        seen = concatenate([seen, from_tensor(said, 1)])
    label = side_by_side(graph, [labels[i] for i in order])
    if not shares:
        return Prediction(label=label)
    positive = side_by_side(graph, [shares[i] for i in order])
    return Prediction(label=label, probabilities=complete_each(graph, positive, len(shares)))


def _chain(model: RegressorChain, features: Features, scope: Scope) -> Prediction:
    seen = features.nameless()
    values: list[str] = []
    for member in model.estimators_:
        values.append(_value(member, seen, scope))
        seen = concatenate([seen, from_tensor(values[-1], 1)])
    return Prediction(value=side_by_side(scope.graph, [values[i] for i in np.argsort(model.order_)]))


def _transform_target(model: TransformedTargetRegressor, features: Features, scope: Scope) -> Prediction:
    value = _value(model.regressor_, features, scope)
    return Prediction(value=invert(model.transformer_, value, scope.graph))


def _best(model: Estimator, features: Features, scope: Scope) -> Prediction:
    return scope.predict(model.best_estimator_, features)


def _frozen(model: FrozenEstimator, features: Features, scope: Scope) -> Prediction:
    return scope.predict(model.estimator, features)


def _consensus(model: RANSACRegressor, features: Features, scope: Scope) -> Prediction:
    return scope.predict(model.estimator_, features)


def _threshold(model: Estimator, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    member = getattr(model, "estimator_", None) or model.estimator
    done = scope.predict(member, features)
    tuned = isinstance(model, TunedThresholdClassifierCV)
    pos_label = model._curve_scorer._get_pos_label() if tuned else model.pos_label
    classes = np.asarray(model.classes_)
    positive = 1 if pos_label is None else int(np.flatnonzero(classes == pos_label)[0])
    method = model._get_response_method()
    methods = [method] if isinstance(method, str) else list(method)
    uses_probabilities = next(name for name in methods if hasattr(member, name)) == "predict_proba"
    if uses_probabilities:
        probabilities = _wanted(done.probabilities, member, "probabilities")
        score = graph.add("Gather", probabilities, np.array([positive]), axis=1)
    else:
        decision = _wanted(done.decision, member, "a decision")
        score = decision if positive == 1 else graph.add("Neg", decision)
    threshold = model.best_threshold_ if tuned else model.threshold
    if threshold == "auto":
        threshold = 0.5 if uses_probabilities else 0.0
    above = graph.add("GreaterOrEqual", score, np.array(float(threshold)))
    label = graph.add("Where", above, np.array([positive]), np.array([1 - positive]))
    return Prediction(label=label, decision=done.decision, probabilities=done.probabilities)


def _prior(model: DummyClassifier, features: Features, scope: Scope) -> Prediction:
    if model.n_outputs_ > 1:
        raise NotCompilable("DummyClassifier of several targets has no converter")
    if model.strategy not in ("prior", "most_frequent"):
        raise NotCompilable(f"DummyClassifier with strategy {model.strategy!r} has no converter")
    shares = np.asarray(model.class_prior_, dtype=np.float64)
    if model.strategy == "most_frequent":
        shares = np.eye(len(shares))[int(np.argmax(shares))]
    return _by_probabilities(scope.graph, _everywhere(scope, shares, features))


def _constant(model: DummyRegressor, features: Features, scope: Scope) -> Prediction:
    return Prediction(value=_everywhere(scope, np.asarray(model.constant_, dtype=np.float64).reshape(-1), features))


def _everywhere(scope: Scope, row: NDArray[np.float64], features: Features) -> str:
    """The same row for each row of x."""
    del features  # it looks at nothing
    graph = scope.graph
    first = graph.add("Slice", "x", np.array([0]), np.array([1]), np.array([1]))
    return graph.add("Where", graph.add("IsNaN", first), row, row)


PREDICTORS: dict[type, PredictConverter] = {
    VotingClassifier: _vote,
    VotingRegressor: _average,
    StackingClassifier: _stack_classifiers,
    StackingRegressor: _stack_regressors,
    BaggingClassifier: _bag_classifiers,
    BaggingRegressor: _bag_regressors,
    AdaBoostClassifier: _boost_classifiers,
    AdaBoostRegressor: _boost_regressors,
    CalibratedClassifierCV: _calibrate,
    OneVsRestClassifier: _one_against_rest,
    ClassifierChain: _classify_chain,
    MultiOutputClassifier: _classify_side_by_side,
    MultiOutputRegressor: _side_by_side,
    RegressorChain: _chain,
    TransformedTargetRegressor: _transform_target,
    GridSearchCV: _best,
    RandomizedSearchCV: _best,
    FrozenEstimator: _frozen,
    RANSACRegressor: _consensus,
    FixedThresholdClassifier: _threshold,
    TunedThresholdClassifierCV: _threshold,
    DummyClassifier: _prior,
    DummyRegressor: _constant,
}
