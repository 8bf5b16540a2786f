"""FunctionTransformer with functions that are known here; any other is code that cannot be read."""

from __future__ import annotations

from sklearn.preprocessing import FunctionTransformer

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features
from zaphod.compiler.scope import Scope, TransformConverter


def _apply(transformer: FunctionTransformer, features: Features, scope: Scope) -> Features:
    del scope  # the identity needs no node
    if transformer.func is None:
        return features
    name = getattr(transformer.func, "__name__", type(transformer.func).__name__)
    raise NotCompilable(f"FunctionTransformer with {name} has no converter")


TRANSFORMERS: dict[type, TransformConverter] = {FunctionTransformer: _apply}
