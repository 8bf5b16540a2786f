"""The way back from a transformed target to the target itself."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import FunctionTransformer, MinMaxScaler, RobustScaler, StandardScaler

from zaphod.compiler import NotCompilable
from zaphod.compiler.graph import Graph
from zaphod.compiler.scope import Estimator
from zaphod.compiler.steps import FUNCTIONS, emit_function


def invert(transformer: Estimator, value: str, graph: Graph) -> str:
    """`inverse_transform` of a double tensor [n, t]. Raises: NotCompilable."""
    match transformer:
        case FunctionTransformer():
            return _call(transformer, value, graph)
        case StandardScaler():
            if transformer.with_std:
                value = graph.add("Mul", value, np.asarray(transformer.scale_))
            return graph.add("Add", value, np.asarray(transformer.mean_)) if transformer.with_mean else value
        case MinMaxScaler():
            return graph.add("Div", graph.add("Sub", value, np.asarray(transformer.min_)), transformer.scale_)
        case RobustScaler():
            if transformer.with_scaling:
                value = graph.add("Mul", value, np.asarray(transformer.scale_))
            return graph.add("Add", value, np.asarray(transformer.center_)) if transformer.with_centering else value
        case _:
            raise NotCompilable(f"the inverse of {type(transformer).__name__} has no converter")


def _call(transformer: FunctionTransformer, value: str, graph: Graph) -> str:
    function = transformer.inverse_func
    if function is None:
        return value
    name = getattr(function, "__name__", "")
    if not isinstance(function, np.ufunc) or name not in FUNCTIONS or transformer.inv_kw_args:
        raise NotCompilable(f"the inverse function {name or type(function).__name__} has no converter")
    return emit_function(graph, name, value)
