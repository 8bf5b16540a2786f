"""The engine that runs compiled models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.compiler.codes import Coder, decode_metadata
from zaphod.errors import ModelLoadError, PredictionError
from zaphod.external_data import refuse_external_data
from zaphod.predictor import Predictions, label_dtype
from zaphod.schema import Output, Schema, Task


class OnnxPredictor:
    """One session, shared by all threads; ONNX Runtime releases the GIL while it computes.

    vocabulary: for each string field, the strings that the model tells apart.
    """

    engine = "onnx"

    def __init__(self, model_bytes: bytes, schema: Schema, *, num_threads: int = 1) -> None:
        """Raises: ModelLoadError when the bytes are no model, or no model of this schema."""
        refuse_external_data(model_bytes)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
            encoding = decode_metadata(self._session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise ModelLoadError(f"Cannot load model.onnx: {type(error).__name__}. Package the model again.") from error
        fields = encoding.strings
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.model_bytes = model_bytes
        self.vocabulary = tuple(field.values for field in fields)
        self._coders = [Coder(field) for field in fields]
        self._num_numbers = len(schema.number_fields)
        self._num_inputs = self._num_numbers + len(fields)
        if len(fields) != len(schema.string_fields) or self._session.get_inputs()[0].shape[1] != self._num_inputs:
            raise ModelLoadError(
                "Cannot load model.onnx: it was not compiled for this schema. Package the model again."
            )
        self._refuses_codes = any(field.refused for field in fields)
        self._refused_nulls = list(encoding.refused_nulls)
        self._allowed = [(i, frozenset(numbers), np.array(numbers)) for i, numbers in encoding.allowed_numbers]
        # Only a classifier's labels are positions; other labels are what they are.
        self._classes = _classes(schema.output) if schema.output.task is Task.CLASSIFICATION else None
        self._targets = np.arange(len(schema.output.targets))
        self._has_label = "label" in self._outputs
        self._rest = next((name for name in self._outputs if name != "label"), None)
        self._any_row = np.zeros((1, self._num_inputs))
        # `InferenceSession.run` is this after checks of names and devices, which are the model's own here.
        self._run = getattr(self._session, "_sess", self._session).run

    def predict(self, columns: Columns) -> Predictions:
        """Raises: PredictionError when ONNX Runtime does, or on a null, number or category the estimator refuses."""
        x = self.encode(columns)
        try:
            if len(x):
                results = self._run(self._outputs, {self._input: x}, None)
            else:
                # Some operators refuse an empty tensor: what one row gets has the right shapes.
                results = [result[:0] for result in self._run(self._outputs, {self._input: self._any_row}, None)]
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise PredictionError(f"Cannot predict: ONNX Runtime raised {type(error).__name__}.") from error
        return self._answers(results)

    def _answers(self, results: list[NDArray[Any]]) -> Predictions:
        labels = None
        if self._has_label:
            if self._classes is None or self._classes.ndim == 1:
                labels = results[0].reshape(-1)
                labels = labels if self._classes is None else self._classes[labels]
            else:
                labels = self._classes[self._targets, results[0]]
        match self._rest:
            case "probabilities":
                return Predictions(labels=labels, probabilities=results[-1])
            case "value":
                return Predictions(values=results[-1])
            case "score":
                return Predictions(labels=labels, scores=results[-1].reshape(-1))
            case _:
                return Predictions(labels=labels)

    def refuses(self, columns: Columns) -> NDArray[np.bool_]:
        """Rows with a null, a number or a category that the estimator refuses, shape (n_rows,)."""
        refused = np.zeros(columns.num_rows, dtype=bool)
        refused |= np.isnan(columns.numbers[:, self._refused_nulls]).any(axis=1)
        for i, _, allowed in self._allowed:
            refused |= _is_other(columns.numbers[:, i], allowed)
        for coder, column in zip(self._coders, columns.strings, strict=True):
            refused |= coder.many(column) < 0
        return refused

    def encode(self, columns: Columns) -> NDArray[np.float64]:
        """What the model is fed: numbers, then codes; float64, shape (n_rows, num_inputs).

        Raises: PredictionError on a null, number or category that the estimator refuses.
        """
        num_numbers = self._num_numbers
        if not self._coders:
            x = columns.numbers
        elif columns.num_rows == 1:
            return self._encode_row(columns)
        else:
            x = np.empty((columns.num_rows, self._num_inputs))
            x[:, :num_numbers] = columns.numbers
            for i, (coder, column) in enumerate(zip(self._coders, columns.strings, strict=True), start=num_numbers):
                x[:, i] = coder.many(column)
            if self._refuses_codes and (x[:, num_numbers:] < 0).any():
                raise _refused("category")
        self._check_numbers(x)
        return x

    def _check_numbers(self, x: NDArray[np.float64]) -> None:
        if self._refused_nulls and np.isnan(x[:, self._refused_nulls]).any():
            raise _refused("null")
        for i, _, numbers in self._allowed:
            if _is_other(x[:, i], numbers).any():
                raise _refused("number")

    def _encode_row(self, columns: Columns) -> NDArray[np.float64]:
        # Every numpy call costs a microsecond, as much as all else together: there is one.
        (row,) = columns.numbers.tolist()
        for i in self._refused_nulls:
            if row[i] != row[i]:  # NaN is not equal to itself
                raise _refused("null")
        for i, allowed, _ in self._allowed:
            if row[i] not in allowed and row[i] == row[i]:
                raise _refused("number")
        for coder, column in zip(self._coders, columns.strings, strict=True):
            value = column[0]
            row.append(coder.one(value if value is None or isinstance(value, str) else value.as_py()))
        if self._refuses_codes and min(row[self._num_numbers :]) < 0:
            raise _refused("category")
        return np.array((row,))


def _is_other(values: NDArray[np.float64], allowed: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Neither one of the allowed numbers nor null."""
    return ~(np.isin(values, allowed) | np.isnan(values))


def _refused(what: str) -> PredictionError:
    return PredictionError(f"Cannot predict: the estimator refuses a {what} that it has no answer for.")


def _classes(output: Output) -> NDArray[np.generic]:
    """By position; of several targets by target and position, where the shorter ones are filled up."""
    if not output.target_classes:
        classes = output.classes
        return np.array(classes, dtype=object if isinstance(classes[0], str) else None)
    longest = max(map(len, output.target_classes))
    filled = [(*classes, *classes[-1:] * (longest - len(classes))) for classes in output.target_classes]
    return np.array(filled, dtype=label_dtype(output))
