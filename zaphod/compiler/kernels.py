"""Kernel methods: every row against the points that were kept from training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.kernel_ridge import KernelRidge
from sklearn.svm import SVC, SVR, NuSVC, NuSVR, OneClassSVM

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features, matrix
from zaphod.compiler.graph import Graph
from zaphod.compiler.linear import first_largest
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope

Doubles = NDArray[np.float64]


def pairwise(graph: Graph, x: str, points: Doubles, *, name: str, gamma: float, coef0: float, degree: float) -> str:
    """scikit-learn's kernel `name` between rows and points, [n, num_points]. Raises: NotCompilable."""
    match name:
        case "linear":
            return graph.add("MatMul", x, np.ascontiguousarray(points.T))
        case "rbf":
            return graph.add("Exp", graph.add("Mul", squared_distances(graph, x, points), np.array(-gamma)))
        case "poly" | "polynomial":
            return graph.add("Pow", _affine(graph, x, points, gamma=gamma, coef0=coef0), np.array(float(degree)))
        case "sigmoid":
            return graph.add("Tanh", _affine(graph, x, points, gamma=gamma, coef0=coef0))
        case _:
            raise NotCompilable(f"the kernel {name!r} has no converter")


def squared_distances(graph: Graph, x: str, points: Doubles) -> str:
    """Euclidean, [n, num_points].

    |x|^2 - 2 x.p + |p|^2 loses digits where both are far from the origin: all is moved to the points' centre first.
    """
    centre = points.mean(axis=0)
    # Beyond 1e153 squares overflow, and infinity less infinity is no distance; as far as that, all kernels are 0.
    off = graph.add("Clip", graph.add("Sub", x, centre), np.array(-1e153), np.array(1e153))
    points = points - centre
    squares = graph.add("ReduceSumSquare", off, np.array([1]), keepdims=1)
    cross = graph.add("Gemm", off, np.ascontiguousarray(-2.0 * points.T), np.sum(points**2, axis=1))
    return graph.add("Max", graph.add("Add", cross, squares), np.array(0.0))


def _affine(graph: Graph, x: str, points: Doubles, *, gamma: float, coef0: float) -> str:
    return graph.add("Gemm", x, np.ascontiguousarray(gamma * points.T), np.full(len(points), float(coef0)))


def _machine(model: Estimator, features: Features, scope: Scope) -> str:
    """The kernel between rows and support vectors."""
    if model._sparse:
        raise NotCompilable(f"{type(model).__name__} fitted on sparse features has no converter")
    if not isinstance(model.kernel, str):
        raise NotCompilable("a kernel that is a function has no converter")
    x = matrix(scope.graph, features, inputs=scope.inputs)
    points = np.asarray(model.support_vectors_, dtype=np.float64)
    return pairwise(
        scope.graph, x, points, name=model.kernel, gamma=float(model._gamma), coef0=model.coef0, degree=model.degree
    )


def _classify(model: Estimator, features: Features, scope: Scope) -> Prediction:
    graph = scope.graph
    num_classes = len(model.classes_)
    if model.break_ties:
        raise NotCompilable(f"{type(model).__name__} with break_ties has no converter")
    coefs = _pair_weights(model)
    # libsvm's own sign: positive is the first class of a pair.
    pairs = graph.add("Gemm", _machine(model, features, scope), coefs, np.asarray(model._intercept_))
    if num_classes == 2:
        # libsvm gives the second class all that is not above 0, an overflow to NaN among it.
        is_first = graph.add("Greater", pairs, np.array(0.0))
        label = graph.add("Where", is_first, np.array([0]), np.array([1]))
        return Prediction(label=label, decision=graph.add("Neg", pairs))
    first, second = _votes(num_classes)
    won = graph.add("Cast", graph.add("Greater", pairs, np.array(0.0)), to=11)
    lost = graph.add("Sub", np.array(1.0), won)
    votes = graph.add("Add", graph.add("MatMul", won, first), graph.add("MatMul", lost, second))
    label = first_largest(graph, votes)
    if model.decision_function_shape != "ovr":
        return Prediction(label=label, decision=pairs)
    # _ovr_decision_function on (dec < 0, -dec): a 0 is a vote for the first here.
    below = graph.add("Cast", graph.add("Less", pairs, np.array(0.0)), to=11)
    above = graph.add("Sub", np.array(1.0), below)
    counted = graph.add("Add", graph.add("MatMul", above, first), graph.add("MatMul", below, second))
    confidence = graph.add("MatMul", pairs, first - second)
    bounded = graph.add("Mul", graph.add("Add", graph.add("Abs", confidence), np.array(1.0)), np.array(3.0))
    return Prediction(label=label, decision=graph.add("Add", counted, graph.add("Div", confidence, bounded)))


def _pair_weights(model: Estimator) -> Doubles:
    """Weight of each support vector in each pair of classes, shape (num_vectors, num_pairs), in libsvm's order."""
    dual = np.asarray(model._dual_coef_, dtype=np.float64)
    ends = np.cumsum([0, *model._n_support])
    num_classes = len(model.classes_)
    columns = []
    for i in range(num_classes):
        for j in range(i + 1, num_classes):
            column = np.zeros(dual.shape[1])
            column[ends[i] : ends[i + 1]] = dual[j - 1, ends[i] : ends[i + 1]]
            column[ends[j] : ends[j + 1]] = dual[i, ends[j] : ends[j + 1]]
            columns.append(column)
    return np.array(columns).T


def _votes(num_classes: int) -> tuple[Doubles, Doubles]:
    """For each pair, who gets the vote when the first wins and when the second does, shape (num_pairs, C)."""
    pairs = [(i, j) for i in range(num_classes) for j in range(i + 1, num_classes)]
    eye = np.eye(num_classes)
    return eye[[i for i, _ in pairs]], eye[[j for _, j in pairs]]


def _weigh(model: Estimator, features: Features, scope: Scope) -> str:
    dual = np.asarray(model._dual_coef_, dtype=np.float64).T
    return scope.graph.add("Gemm", _machine(model, features, scope), dual, np.asarray(model._intercept_))


def _regress(model: Estimator, features: Features, scope: Scope) -> Prediction:
    return Prediction(value=_weigh(model, features, scope))


def _detect(model: OneClassSVM, features: Features, scope: Scope) -> Prediction:
    decision = _weigh(model, features, scope)
    is_inlier = scope.graph.add("Greater", decision, np.array(0.0))
    return Prediction(label=scope.graph.add("Where", is_inlier, np.array([1]), np.array([-1])), decision=decision)


def _regress_ridge(model: KernelRidge, features: Features, scope: Scope) -> Prediction:
    if not isinstance(model.kernel, str):
        raise NotCompilable("a kernel that is a function has no converter")
    points = np.asarray(model.X_fit_, dtype=np.float64)
    x = matrix(scope.graph, features, inputs=scope.inputs)
    gamma = 1.0 / points.shape[1] if model.gamma is None else float(model.gamma)
    kernel = pairwise(
        scope.graph, x, points, name=model.kernel, gamma=gamma, coef0=float(model.coef0), degree=float(model.degree)
    )
    dual = np.asarray(model.dual_coef_, dtype=np.float64).reshape(len(points), -1)
    return Prediction(value=scope.graph.add("MatMul", kernel, dual))


def _regress_process(model: GaussianProcessRegressor, features: Features, scope: Scope) -> Prediction:
    if not hasattr(model, "X_train_"):
        raise NotCompilable("GaussianProcessRegressor that was not fitted has no converter")
    graph = scope.graph
    x = matrix(graph, features, inputs=scope.inputs)
    kernel = _covariance(graph, x, np.asarray(model.X_train_, dtype=np.float64), model.kernel_)
    mean = graph.add("MatMul", kernel, np.asarray(model.alpha_, dtype=np.float64).reshape(len(model.X_train_), -1))
    spread = np.asarray(model._y_train_std, dtype=np.float64).reshape(-1)
    centre = np.asarray(model._y_train_mean, dtype=np.float64).reshape(-1)
    return Prediction(value=graph.add("Add", graph.add("Mul", mean, spread), centre))


def _covariance(graph: Graph, x: str, points: Doubles, kernel: Estimator) -> str:
    match kernel:
        case kernels.Product():
            return graph.add("Mul", _covariance(graph, x, points, kernel.k1), _covariance(graph, x, points, kernel.k2))
        case kernels.Sum():
            return graph.add("Add", _covariance(graph, x, points, kernel.k1), _covariance(graph, x, points, kernel.k2))
        case kernels.ConstantKernel():
            return graph.constant(np.full((1, len(points)), float(kernel.constant_value)))
        case kernels.WhiteKernel():
            # Noise is between a row and itself: a new row has none in common with the training rows.
            return graph.constant(np.zeros((1, len(points))))
        case _ if type(kernel) is kernels.RBF:
            scale = np.asarray(kernel.length_scale, dtype=np.float64)
            squared = squared_distances(graph, graph.add("Div", x, scale), points / scale)
            return graph.add("Exp", graph.add("Mul", squared, np.array(-0.5)))
        case _ if type(kernel) is kernels.DotProduct:
            return _affine(graph, x, points, gamma=1.0, coef0=float(kernel.sigma_0) ** 2)
        case _:
            raise NotCompilable(f"the kernel {type(kernel).__name__} has no converter")


PREDICTORS: dict[type, PredictConverter] = {
    SVC: _classify,
    NuSVC: _classify,
    SVR: _regress,
    NuSVR: _regress,
    OneClassSVM: _detect,
    KernelRidge: _regress_ridge,
    GaussianProcessRegressor: _regress_process,
}
