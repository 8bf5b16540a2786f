"""An ONNX graph under construction: nodes and constants, each made once however often it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT = "x"
_OPSET = 21
_ML_OPSET = 5
_ML = "ai.onnx.ml"
_ML_OPS = frozenset({"ArrayFeatureExtractor", "TreeEnsemble"})
_IR_VERSION = 10

Attribute: TypeAlias = int | float | str | Sequence[int] | NDArray[np.generic]
Operand: TypeAlias = "str | NDArray[np.generic]"


class Graph:
    """Tensors are known by name. The input `x` is double, shape (n_rows, num_inputs).

    A rehearsal is never built: what is costly to make may be left out of it.
    """

    def __init__(self, num_inputs: int, *, is_rehearsal: bool = False) -> None:
        self.num_inputs = num_inputs
        self.is_rehearsal = is_rehearsal
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._made: dict[tuple[object, ...], list[str]] = {}

    def add(self, op: str, *inputs: Operand, **attributes: Attribute) -> str:
        """The name of the only output of a node. Arrays among the inputs become constants."""
        return self.add_many(op, *inputs, num_outputs=1, **attributes)[0]

    def add_many(self, op: str, *inputs: Operand, num_outputs: int, **attributes: Attribute) -> list[str]:
        names = [operand if isinstance(operand, str) else self.constant(operand) for operand in inputs]
        key = (op, num_outputs, *names, *((name, _hashable(attributes[name])) for name in sorted(attributes)))
        if key not in self._made:
            outputs = [
                f"t{len(self._nodes)}_{i}" if num_outputs > 1 else f"t{len(self._nodes)}" for i in range(num_outputs)
            ]
            tensors: dict[str, Any] = {
                name: numpy_helper.from_array(value, name) if isinstance(value, np.ndarray) else value
                for name, value in attributes.items()
            }
            domain = _ML if op in _ML_OPS else ""
            self._nodes.append(helper.make_node(op, names, outputs, domain=domain, **tensors))
            self._made[key] = outputs
        return self._made[key]

    def constant(self, array: NDArray[np.generic]) -> str:
        """Stores the array as it is: double stays double."""
        array = np.ascontiguousarray(array) if array.ndim else array
        key = ("constant", array.dtype.str, array.shape, array.tobytes())
        if key not in self._made:
            name = f"c{len(self._constants)}"
            self._constants[name] = numpy_helper.from_array(array, name)
            self._made[key] = [name]
        return self._made[key][0]

    def build(self, outputs: Mapping[str, str], *, metadata: Mapping[str, str]) -> bytes:
        """The model's bytes. outputs: tensor name by output name; `label` is int64, every other output double.

        Nodes that no output needs are left out.
        """
        needed, nodes = set(outputs.values()), []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                nodes.append(node)
        nodes.reverse()
        renamed = {tensor: output for output, tensor in outputs.items()}
        for output, tensor in outputs.items():
            # One tensor may answer two outputs, or an output may be a constant or the input itself.
            if renamed[tensor] != output or not any(tensor in node.output for node in nodes):
                nodes.append(helper.make_node("Identity", [tensor], [output]))
                renamed.pop(tensor, None) if renamed[tensor] == output else None
        nodes = [_rename(node, renamed) for node in nodes]
        graph = helper.make_graph(
            nodes,
            "model",
            [helper.make_tensor_value_info(INPUT, TensorProto.DOUBLE, ["rows", self.num_inputs])],
            [
                helper.make_tensor_value_info(name, TensorProto.INT64 if name == "label" else TensorProto.DOUBLE, None)
                for name in outputs
            ],
            [tensor for name, tensor in self._constants.items() if name in needed],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_ML, _ML_OPSET)],
            ir_version=_IR_VERSION,
            producer_name="zaphod",
        )
        helper.set_model_props(model, dict(metadata))
        return bytes(model.SerializeToString(deterministic=True))


def _hashable(value: Attribute) -> object:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    return value if isinstance(value, (int, float, str)) else tuple(value)


def _rename(node: onnx.NodeProto, renamed: Mapping[str, str]) -> onnx.NodeProto:
    node = onnx.NodeProto.FromString(node.SerializeToString())
    node.input[:] = [renamed.get(name, name) for name in node.input]
    node.output[:] = [renamed.get(name, name) for name in node.output]
    return node
