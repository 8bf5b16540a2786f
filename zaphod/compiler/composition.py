"""Pipelines, column transformers and unions: which columns go where."""

from __future__ import annotations

import functools

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

from zaphod.compiler import NotCompilable
from zaphod.compiler.features import Features, concatenate
from zaphod.compiler.scope import Estimator, PredictConverter, Prediction, Scope, TransformConverter


def _transform_pipeline(pipeline: Pipeline, features: Features, scope: Scope) -> Features:
    return functools.reduce(lambda done, step: _step(step[1], done, scope), pipeline.steps, features)


def _predict_pipeline(pipeline: Pipeline, features: Features, scope: Scope) -> Prediction:
    for _, step in pipeline.steps[:-1]:
        features = _step(step, features, scope)
    return scope.predict(pipeline.steps[-1][1], features)


def _transform_columns(estimator: ColumnTransformer, features: Features, scope: Scope) -> Features:
    indices = estimator._transformer_to_input_indices
    seen = positions(estimator, features)
    parts = []
    for name, transformer, _ in estimator.transformers_:
        if isinstance(transformer, str) and transformer == "drop":
            continue
        chosen = features.select([seen[i] for i in indices[name]])
        if len(chosen):
            parts.append(_step(transformer, chosen, scope))
    return _named(estimator, concatenate(parts))


def _transform_union(union: FeatureUnion, features: Features, scope: Scope) -> Features:
    if union.transformer_weights:
        raise NotCompilable("FeatureUnion with transformer_weights has no converter")
    parts = [_step(step, features, scope) for _, step in union.transformer_list if step != "drop"]
    return _named(union, concatenate(parts))


def _step(step: BaseEstimator | str | None, features: Features, scope: Scope) -> Features:
    if step is None or (isinstance(step, str) and step == "passthrough"):
        return features
    return _named(step, scope.transform(step, features))


def _named(estimator: Estimator, features: Features) -> Features:
    """Names live on only where the transformer was told to give a frame; everything else gives an array."""
    config = getattr(estimator, "_sklearn_output_config", {})
    if config.get("transform") not in ("pandas", "polars"):
        return features.nameless()
    return Features(features.columns, tuple(str(name) for name in estimator.get_feature_names_out()))


def positions(estimator: ColumnTransformer, features: Features) -> list[int]:
    """Where the columns of the table it was fitted on stand in the features: by name in a frame."""
    fitted = getattr(estimator, "feature_names_in_", None)
    if features.names is None or fitted is None:
        return list(range(estimator.n_features_in_))
    missing = [name for name in fitted if name not in features.names]
    if missing:
        raise NotCompilable(f"the schema has no fields {missing}, which the estimator was fitted on")
    return [features.names.index(name) for name in fitted]


TRANSFORMERS: dict[type, TransformConverter] = {
    Pipeline: _transform_pipeline,
    ColumnTransformer: _transform_columns,
    FeatureUnion: _transform_union,
}
PREDICTORS: dict[type, PredictConverter] = {Pipeline: _predict_pipeline}
