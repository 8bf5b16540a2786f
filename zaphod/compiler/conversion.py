"""The table of converters, and the run over an estimator."""

from __future__ import annotations

from sklearn.base import BaseEstimator

from zaphod.compiler import (
    NotCompilable,
    boosting,
    composition,
    distances,
    encoders,
    ensembles,
    forests,
    functions,
    imputers,
    kernels,
    linear,
    neural,
    probabilistic,
    projections,
    scalers,
)
from zaphod.compiler.codes import Encoding, FieldCodes, encode_metadata
from zaphod.compiler.features import Coded, Column, Features, Inputs, Number
from zaphod.compiler.graph import Graph
from zaphod.compiler.refusals import find_refused_nulls
from zaphod.compiler.scope import Prediction, Scope, Vocabulary
from zaphod.schema import Schema, Task

TRANSFORMERS = {
    **composition.TRANSFORMERS,
    **encoders.TRANSFORMERS,
    **functions.TRANSFORMERS,
    **imputers.TRANSFORMERS,
    **projections.TRANSFORMERS,
    **scalers.TRANSFORMERS,
}
PREDICTORS = {
    **boosting.PREDICTORS,
    **composition.PREDICTORS,
    **distances.PREDICTORS,
    **ensembles.PREDICTORS,
    **forests.PREDICTORS,
    **kernels.PREDICTORS,
    **linear.PREDICTORS,
    **neural.PREDICTORS,
    **probabilistic.PREDICTORS,
}


def convert(estimator: BaseEstimator, schema: Schema) -> bytes:
    """The ONNX model. Raises: NotCompilable."""
    vocabulary = Vocabulary(len(schema.string_fields))
    while True:
        _run(estimator, schema, vocabulary, is_rehearsal=True)
        if vocabulary.settle():
            break
    scope, prediction = _run(estimator, schema, vocabulary, is_rehearsal=False)
    refused = find_refused_nulls(estimator, schema)
    for i, field in enumerate(schema.string_fields):
        if field.name in refused:
            scope.refuse(i, [len(vocabulary.known(i))])
    fields = tuple(
        FieldCodes(
            values=vocabulary.known(i),
            offset=scope.inputs.offsets[i],
            refused=tuple(sorted(scope.refused.get(i, ()))),
        )
        for i in range(len(schema.string_fields))
    )
    refused_nulls = tuple(i for i, field in enumerate(schema.number_fields) if field.name in refused)
    allowed = tuple((source, tuple(sorted(numbers))) for source, numbers in sorted(scope.allowed.items()))
    encoding = Encoding(strings=fields, refused_nulls=refused_nulls, allowed_numbers=allowed)
    return scope.graph.build(_outputs(prediction, schema), metadata=encode_metadata(encoding))


def _run(
    estimator: BaseEstimator, schema: Schema, vocabulary: Vocabulary, *, is_rehearsal: bool
) -> tuple[Scope, Prediction]:
    inputs = Inputs(nullable=tuple(field.nullable for field in schema.number_fields), sizes=vocabulary.sizes())
    scope = Scope(
        graph=Graph(inputs.num_inputs, is_rehearsal=is_rehearsal),
        inputs=inputs,
        vocabulary=vocabulary,
        transformers=TRANSFORMERS,
        predictors=PREDICTORS,
    )
    return scope, scope.predict(estimator, _raw_features(schema, vocabulary))


def _raw_features(schema: Schema, vocabulary: Vocabulary) -> Features:
    columns: list[Column] = []
    numbers = strings = 0
    for field in schema.fields:
        if field.is_string:
            columns.append(Coded(strings, vocabulary.values(strings)))
            strings += 1
        else:
            columns.append(Number(numbers))
            numbers += 1
    return Features(tuple(columns), schema.names)


def _outputs(prediction: Prediction, schema: Schema) -> dict[str, str]:
    match schema.output.task:
        case Task.CLASSIFICATION if schema.output.has_probabilities:
            wanted = {"label": prediction.label, "probabilities": prediction.probabilities}
        case Task.CLASSIFICATION | Task.CLUSTERING:
            wanted = {"label": prediction.label}
        case Task.REGRESSION:
            wanted = {"value": prediction.value}
        case Task.OUTLIER:
            wanted = {"label": prediction.label, "score": prediction.decision}
    missing = sorted(name for name, tensor in wanted.items() if tensor is None)
    if missing:
        raise NotCompilable(f"the converter gives no {missing}")
    return {name: tensor for name, tensor in wanted.items() if tensor is not None}
