"""Classifiers that model each class's distribution: naive Bayes and discriminant analysis."""

from __future__ import annotations

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, ComplementNB, GaussianNB, MultinomialNB

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Coded, Column, Features, apply_steps, dot, matrix, numeric
from zaphod.compiler.linear import binary_logistic, both_sides, first_largest, is_binary, multinomial, weights
from zaphod.compiler.scope import PredictConverter, Prediction, Scope
from zaphod.compiler.steps import Above


def _gaussian(model: GaussianNB, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    # [n, 1, p] against [C, p].
    x = graph.add("Unsqueeze", matrix(graph, features, inputs=scope.inputs), np.array([1]))
    off = graph.add("Sub", x, np.asarray(model.theta_, dtype=np.float64))
    share = graph.add("Div", graph.add("Mul", off, off), np.asarray(model.var_, dtype=np.float64))
    half = graph.add("Mul", graph.add("ReduceSum", share, np.array([2]), keepdims=0), np.array(0.5))
    constants = -0.5 * np.sum(np.log(2.0 * np.pi * model.var_), axis=1)
    likelihood = graph.add("Add", graph.add("Sub", constants, half), np.log(model.class_prior_))
    return _by_likelihood(scope, likelihood)


def _multinomial(model: MultinomialNB, features: Features, scope: Scope) -> Prediction:
    prior = np.asarray(model.class_log_prior_, dtype=np.float64)
    return _by_likelihood(scope, dot(scope.graph, scope.inputs, features, model.feature_log_prob_.T, prior))


def _complement(model: ComplementNB, features: Features, scope: Scope) -> Prediction:
    zero = np.zeros(len(model.classes_))
    return _by_likelihood(scope, dot(scope.graph, scope.inputs, features, model.feature_log_prob_.T, zero))


def _bernoulli(model: BernoulliNB, features: Features, scope: Scope) -> Prediction:
    if model.binarize is not None:
        features = apply_steps(scope.graph, features, [(Above(float(model.binarize)),)] * len(features))
    negative = np.log(1 - np.exp(model.feature_log_prob_))
    bias = model.class_log_prior_ + negative.sum(axis=1)
    likelihood = dot(scope.graph, scope.inputs, features, (model.feature_log_prob_ - negative).T, bias)
    return _by_likelihood(scope, likelihood)


def _categorical(model: CategoricalNB, features: Features, scope: Scope) -> Prediction:
    """Every feature has to be a category that an encoder numbered: its codes pick the logarithms directly."""
    num_classes = len(model.classes_)
    columns: list[Column] = []
    for column, logarithms in zip(features.columns, model.feature_log_prob_, strict=True):
        if not isinstance(column, Coded):
            raise NotCompilable("CategoricalNB on numbers has no converter")
        picked = numeric(column).astype(np.int64)
        outside = (picked < 0) | (picked >= logarithms.shape[1])
        scope.refuse(column.field, np.flatnonzero(outside))
        table = logarithms[:, np.where(outside, 0, picked)].T
        columns += [Coded(column.field, np.ascontiguousarray(table[:, k])) for k in range(num_classes)]
    sums = np.tile(np.eye(num_classes), (len(features), 1))
    prior = np.asarray(model.class_log_prior_, dtype=np.float64)
    return _by_likelihood(scope, dot(scope.graph, scope.inputs, Features(tuple(columns)), sums, prior))


def _by_likelihood(scope: Scope, likelihood: str) -> Prediction:
    # exp(l - logsumexp(l)) is what Softmax computes.
    return Prediction(
        label=first_largest(scope.graph, likelihood), probabilities=scope.graph.add("Softmax", likelihood, axis=1)
    )


def _linear_discriminant(model: LinearDiscriminantAnalysis, features: Features, scope: Scope) -> Prediction:
    if is_binary(model):
        return binary_logistic(scope.graph, both_sides(model, features, scope))
    return multinomial(scope.graph, dot(scope.graph, scope.inputs, features, *weights(model)))


def _quadratic_discriminant(model: QuadraticDiscriminantAnalysis, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    x = matrix(graph, features, inputs=scope.inputs)
    distances = []
    for mean, rotation, scaling in zip(model.means_, model.rotations_, model.scalings_, strict=True):
        turned = graph.add("MatMul", graph.add("Sub", x, mean), rotation * scaling ** (-0.5))
        distances.append(graph.add("ReduceSumSquare", turned, np.array([1]), keepdims=1))
    spread = np.asarray([np.sum(np.log(scaling)) for scaling in model.scalings_])
    total = graph.add("Add", graph.add("Concat", *distances, axis=1), spread)
    scores = graph.add("Add", graph.add("Mul", total, np.array(-0.5)), np.log(model.priors_))
    label, probabilities = first_largest(graph, scores), graph.add("Softmax", scores, axis=1)
    if len(model.classes_) > 2:
        return Prediction(label=label, decision=scores, probabilities=probabilities)
    decision = graph.add("MatMul", scores, np.array([[-1.0], [1.0]]))
    return Prediction(label=label, decision=decision, probabilities=probabilities)


PREDICTORS: dict[type, PredictConverter] = {
    GaussianNB: _gaussian,
    MultinomialNB: _multinomial,
    ComplementNB: _complement,
    BernoulliNB: _bernoulli,
    CategoricalNB: _categorical,
    LinearDiscriminantAnalysis: _linear_discriminant,
    QuadraticDiscriminantAnalysis: _quadratic_discriminant,
}
