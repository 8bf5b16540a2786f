"""Where a compiled model's trees change their answer, and sample rows that get there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_LEQ, _LESS, _EQUAL, _MEMBER = 0, 1, 4, 6
_LEAF = -1


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """One entry per split on an input of the model.

    column: of x. value: the split. row: a sample row that is asked this question, -1 where none is.
    """

    column: NDArray[np.int64]
    value: NDArray[np.float64]
    row: NDArray[np.int64]


def find_thresholds(model_bytes: bytes, x: NDArray[np.float64], *, num_numbers: int) -> Thresholds:
    """Of every tree that looks at the inputs, or at columns that equal an input on all of x.

    x: what the model is fed for the sample, shape (n_rows, num_inputs).
    """
    model = onnx.load_model_from_string(model_bytes)
    nodes = [node for node in model.graph.node if node.op_type == "TreeEnsemble"]
    columns, values, rows = [np.zeros(0, np.int64)], [np.zeros(0)], [np.zeros(0, np.int64)]
    for node, seen in zip(nodes, _inputs_of(model, nodes, x), strict=True):
        ensemble = _Ensemble(node)
        source = _same_columns(seen, x, num_numbers)
        column = source[ensemble.feature]
        chosen = np.flatnonzero((column >= 0) & (ensemble.mode <= _LESS) & np.isfinite(ensemble.split))
        columns.append(column[chosen])
        values.append(ensemble.split[chosen])
        rows.append(ensemble.visitors(seen)[chosen])
    return Thresholds(np.concatenate(columns), np.concatenate(values), np.concatenate(rows))


def _inputs_of(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], x: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """The tensors that the nodes are fed, computed by running the model up to there."""
    names = dict.fromkeys(node.input[0] for node in nodes)
    made = [name for name in names if name != "x"]
    found = {"x": x}
    if made:
        opened = onnx.ModelProto()
        opened.CopyFrom(model)
        del opened.graph.output[:]
        opened.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in made)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found |= dict(zip(made, session.run(made, {"x": x}), strict=True))
    return (found[node.input[0]] for node in nodes)


def _same_columns(seen: NDArray[np.float64], x: NDArray[np.float64], num_numbers: int) -> NDArray[np.int64]:
    """For each column the input that it equals on every row where that is not null; -1 where there is none."""
    source = np.full(seen.shape[1], -1, dtype=np.int64)
    for i in range(seen.shape[1]):
        for j in range(num_numbers):
            known = ~np.isnan(x[:, j])
            if known.any() and (seen[known, i] == x[known, j]).all():
                source[i] = j
                break
    return source


class _Ensemble:
    """The attributes of a TreeEnsemble node."""

    def __init__(self, node: onnx.NodeProto) -> None:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        self.feature = np.array(attributes["nodes_featureids"].ints)
        self.mode = numpy_helper.to_array(attributes["nodes_modes"].t)
        self.split = numpy_helper.to_array(attributes["nodes_splits"].t)
        self._missing_true = np.array(attributes["nodes_missing_value_tracks_true"].ints).astype(bool)
        self._roots = np.array(attributes["tree_roots"].ints)
        self._true, self._false = (
            np.where(
                np.array(attributes[f"nodes_{side}leafs"].ints) == 1,
                _LEAF,
                np.array(attributes[f"nodes_{side}nodeids"].ints),
            )
            for side in ("true", "false")
        )
        self._members = _members(attributes, self.mode)

    def visitors(self, seen: NDArray[np.float64]) -> NDArray[np.int64]:
        """For each node a row that comes by it, -1 where none does."""
        visitor = np.full(len(self.feature), -1, dtype=np.int64)
        at = np.repeat(self._roots[None, :], len(seen), axis=0)
        rows = np.repeat(np.arange(len(seen))[:, None], len(self._roots), axis=1)
        at, rows = at.ravel(), rows.ravel()
        while at.size:
            visitor[at] = rows
            goes_true = self._answers(at, seen[rows, self.feature[at]])
            at = np.where(goes_true, self._true[at], self._false[at])
            inner = at != _LEAF
            at, rows = at[inner], rows[inner]
        return visitor

    def _answers(self, at: NDArray[np.int64], values: NDArray[np.float64]) -> NDArray[np.bool_]:
        mode, split = self.mode[at], self.split[at]
        answers = np.where(mode == _LEQ, values <= split, np.where(mode == _LESS, values < split, values == split))
        for node in np.unique(at[mode == _MEMBER]):
            here = at == node
            answers[here] = np.isin(values[here], self._members[int(node)])
        result: NDArray[np.bool_] = answers | (np.isnan(values) & self._missing_true[at])
        return result


def _members(attributes: dict[str, onnx.AttributeProto], mode: NDArray[np.uint8]) -> dict[int, NDArray[np.float64]]:
    """The sets of the nodes that ask for one, in the nodes' order, each ended by NaN."""
    asking = np.flatnonzero(mode == _MEMBER)
    if not asking.size:
        return {}
    values = numpy_helper.to_array(attributes["membership_values"].t)
    ends = np.flatnonzero(np.isnan(values))
    starts = np.concatenate([[0], ends[:-1] + 1])
    return {int(node): values[a:b] for node, a, b in zip(asking, starts, ends, strict=True)}
