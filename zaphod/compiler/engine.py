"""The engine that runs compiled models."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.compiler.codes import Coder, decode_metadata
from zaphod.errors import ModelLoadError, PredictionError
from zaphod.predictor import Predictions
from zaphod.schema import Schema, Task


class OnnxPredictor:
    """One session, shared by all threads; ONNX Runtime releases the GIL while it computes.

    vocabulary: for each string field, the strings that the model tells apart.
    """

    engine = "onnx"

    def __init__(self, model_bytes: bytes, schema: Schema, *, num_threads: int = 1) -> None:
        """Raises: ModelLoadError when the bytes are no model, or no model of this schema."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(model_bytes, options, providers=["CPUExecutionProvider"])
            fields = decode_metadata(self._session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise ModelLoadError(f"Cannot load model.onnx: {type(error).__name__}. Package the model again.") from error
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
        # Only a classifier's labels are positions; other labels are what they are.
        self._classes = _classes(schema) if schema.output.task is Task.CLASSIFICATION else None
        self._run = self._session.run

    def predict(self, columns: Columns) -> Predictions:
        """Raises: PredictionError when ONNX Runtime does, or on a category that the estimator refuses."""
        x = self.encode(columns)
        try:
            results = self._run(self._outputs, {self._input: x})
        except Exception as error:  # ONNX Runtime has a dozen kinds
            raise PredictionError(f"Cannot predict: ONNX Runtime raised {type(error).__name__}.") from error
        answers = dict(zip(self._outputs, results, strict=True))
        label = answers.get("label")
        if label is not None:
            label = label.reshape(-1)
            if self._classes is not None:
                label = self._classes[label]
        score = answers.get("score")
        return Predictions(
            labels=label,
            probabilities=answers.get("probabilities"),
            values=answers.get("value"),
            scores=None if score is None else score.reshape(-1),
        )

    def refuses(self, columns: Columns) -> NDArray[np.bool_]:
        """Rows with a category that the estimator refuses, shape (n_rows,)."""
        refused = np.zeros(columns.num_rows, dtype=bool)
        for coder, column in zip(self._coders, columns.strings, strict=True):
            refused |= coder.many(column) < 0
        return refused

    def encode(self, columns: Columns) -> NDArray[np.float64]:
        """What the model is fed: numbers, then codes; float64, shape (n_rows, num_inputs).

        Raises: PredictionError on a category that the estimator refuses.
        """
        if not self._coders:
            return columns.numbers
        num_numbers = self._num_numbers
        x = np.empty((columns.num_rows, self._num_inputs))
        x[:, :num_numbers] = columns.numbers
        for i, (coder, column) in enumerate(zip(self._coders, columns.strings, strict=True), start=num_numbers):
            codes = coder.many(column)
            x[:, i] = codes
            if codes.size and codes.min() < 0:
                raise PredictionError("Cannot predict: the estimator refuses a category it was not trained on.")
        return x


def _classes(schema: Schema) -> NDArray[np.generic]:
    classes = schema.output.classes
    return np.array(classes, dtype=object if isinstance(classes[0], str) else None)
