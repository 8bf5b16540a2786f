"""The engine for an ONNX model that was given ready-made: served as it is, for there is nothing to compare it with."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.errors import ModelLoadError, PackagingError, PredictionError
from zaphod.external_data import refuse_external_data
from zaphod.predictor import Predictions
from zaphod.schema import Field, Output, Schema, Task

_NUMPY = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
_STRING = "tensor(string)"


class GivenOnnxPredictor:
    """Feeds one tensor of all numbers in schema order, or one column for each field by name, whichever the model takes.

    A classifier's first output is the label, its second the probabilities, as a tensor or as maps; of several targets
    one tensor a target, or one tensor for all.
    """

    engine = "onnx"

    def __init__(self, model: bytes, schema: Schema) -> None:
        """Raises: ModelLoadError when the bytes are no model, or one that takes something else than the fields."""
        self._session = open_session(model)
        self._schema = schema
        self._inputs = self._session.get_inputs()
        self._whole = len(self._inputs) == 1 and len(schema.fields) > 1
        self._check_inputs()

    def predict(self, columns: Columns) -> Predictions:
        """Raises: PredictionError when ONNX Runtime does."""
        try:
            results = self._session.run(None, self._feed(columns))
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise PredictionError(f"Cannot predict: ONNX Runtime raised {type(error).__name__}.") from error
        output = self._schema.output
        match output.task:
            case Task.CLASSIFICATION:
                labels = _flat(results[0])
                if output.target_classes:
                    labels = labels.reshape(columns.num_rows, len(output.targets))
                probabilities = _probabilities(results[1], output) if output.has_probabilities else None
                return Predictions(labels=labels, probabilities=probabilities)
            case Task.REGRESSION:
                values = np.asarray(results[0], dtype=np.float64).reshape(columns.num_rows, len(output.targets))
                return Predictions(values=values)
            case Task.OUTLIER:
                scores = np.asarray(results[1], dtype=np.float64).reshape(-1)
                return Predictions(labels=_flat(results[0]), scores=scores)
            case _:
                return Predictions(labels=_flat(results[0]))

    def _feed(self, columns: Columns) -> dict[str, NDArray[Any]]:
        if self._whole:
            wanted = self._inputs[0]
            return {wanted.name: np.ascontiguousarray(columns.numbers, dtype=_NUMPY[wanted.type])}
        feed: dict[str, NDArray[Any]] = {}
        numbers = {field.name: columns.numbers[:, i] for i, field in enumerate(self._schema.number_fields)}
        strings = dict(zip((field.name for field in self._schema.string_fields), columns.strings, strict=True))
        for wanted in self._inputs:
            if wanted.name in strings:
                values = strings[wanted.name]
                plain = values.to_pylist() if isinstance(values, pa.Array) else values
                feed[wanted.name] = np.array(plain, dtype=object).reshape(-1, 1)
            else:
                feed[wanted.name] = numbers[wanted.name].astype(_NUMPY[wanted.type]).reshape(-1, 1)
        return feed

    def _check_inputs(self) -> None:
        if self._whole:
            wanted = self._inputs[0]
            width = wanted.shape[1] if len(wanted.shape) == 2 else None
            if self._schema.string_fields or wanted.type not in _NUMPY or width not in (None, len(self._schema.fields)):
                raise ModelLoadError(
                    f"Expected a model of {len(self._schema.fields)} fields, got one that takes {wanted.type} of shape "
                    f"{wanted.shape} - at input `{wanted.name}`"
                )
            return
        fields = {field.name: field for field in self._schema.fields}
        names = {wanted.name for wanted in self._inputs}
        if names != fields.keys():
            raise ModelLoadError(
                "Expected the model's inputs to be the schema's fields, "
                f"got {sorted(names ^ fields.keys())} in only one of the two"
            )
        for wanted in self._inputs:
            _check_input(fields[wanted.name], wanted.type)


def open_session(model: bytes) -> onnxruntime.InferenceSession:
    """On one thread, without a model's own libraries.

    Raises: ModelLoadError when the bytes are no model, or one that reads other files.
    """
    refuse_external_data(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has a dozen kinds
        raise ModelLoadError(
            f"Cannot load the ONNX model: {type(error).__name__}. Check that it is whole and of standard operators."
        ) from error


def infer_onnx_output(model: bytes, fields: tuple[Field, ...]) -> Output:
    """Classification when the first output is a label and a second follows, else regression.

    Raises: PackagingError when it cannot be told, the classes of a tensor of probabilities among it.
    """
    outputs = open_session(model).get_outputs()
    first = outputs[0]
    if first.type in ("tensor(float)", "tensor(double)"):
        width = first.shape[1] if len(first.shape) == 2 and isinstance(first.shape[1], int) else 1
        targets = ("target",) if width == 1 else tuple(f"target_{i}" for i in range(width))
        return Output(task=Task.REGRESSION, targets=targets)
    classes = _map_classes(model, fields) if len(outputs) > 1 and outputs[1].type.startswith("seq(map") else ()
    if not classes:
        raise PackagingError(
            "Cannot tell the classes of the ONNX model: its probabilities have no names. Give a schema with `output`."
        )
    return Output(task=Task.CLASSIFICATION, classes=classes, has_probabilities=True)


def _map_classes(model: bytes, fields: tuple[Field, ...]) -> tuple[int | str, ...]:
    """The keys of the first row's map."""
    session = open_session(model)
    feed = {
        wanted.name: np.full((1, 1), "", dtype=object)
        if wanted.type == _STRING
        else np.zeros((1, len(fields) if len(session.get_inputs()) == 1 else 1), dtype=_NUMPY[wanted.type])
        for wanted in session.get_inputs()
    }
    try:
        maps: list[dict[int | str, float]] = session.run(None, feed)[1]
    except Exception as error:  # ONNX Runtime has a dozen kinds
        raise PackagingError(f"Cannot run the ONNX model on a row of zeros: {type(error).__name__}.") from error
    return tuple(maps[0])


def _check_input(field: Field, kind: str) -> None:
    if field.is_string != (kind == _STRING) or (not field.is_string and kind not in _NUMPY):
        raise ModelLoadError(f"Expected an input for `{field.dtype}`, got {kind} - at input `{field.name}`")
    if field.nullable and kind not in ("tensor(float)", "tensor(double)"):
        raise ModelLoadError(
            f"Expected a field that is never null, for {kind} has no null - at input `{field.name}`. "
            "Give it a default instead of `nullable`."
        )


def _flat(labels: Any) -> NDArray[np.generic]:  # whatever ONNX Runtime gave
    return np.asarray(labels).reshape(-1)


def _probabilities(result: Any, output: Output) -> NDArray[np.float64]:
    if output.target_classes:
        # One tensor a target, as a sequence or stacked, or all of them side by side.
        parts = result if isinstance(result, list) or np.ndim(result) == 3 else [result]
        return np.concatenate(list(parts), axis=1).astype(np.float64, copy=False)
    if isinstance(result, list):
        return np.array([[row[label] for label in output.classes] for row in result], dtype=np.float64)
    return np.asarray(result, dtype=np.float64)
