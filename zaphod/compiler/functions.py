"""FunctionTransformer with functions that are known here; any other is code that cannot be read."""

from __future__ import annotations

import numpy as np
from sklearn.preprocessing import FunctionTransformer

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features, apply_steps
from zaphod.compiler.scope import Scope, TransformConverter
from zaphod.compiler.steps import FUNCTIONS, Function


def _apply(transformer: FunctionTransformer, features: Features, scope: Scope) -> Features:
    function = transformer.func
    if function is None:
        return features
    name = getattr(function, "__name__", type(function).__name__)
    if not isinstance(function, np.ufunc) or name not in FUNCTIONS or transformer.kw_args:
        raise NotCompilable(f"FunctionTransformer with {name} has no converter")
    return apply_steps(scope.graph, features, [(Function(name),)] * len(features))


TRANSFORMERS: dict[type, TransformConverter] = {FunctionTransformer: _apply}
