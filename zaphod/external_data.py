"""ONNX models with tensors in files that they name: any file of the machine that loads them, covered by no hash."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from zaphod.errors import ModelLoadError

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

# The word by which a tensor names its file: without it there is none, and nothing need be taken apart.
_WORD = b"location"


def refuse_external_data(model: bytes) -> None:
    """Raises: ModelLoadError when there are such tensors, or the bytes are no model where that has to be looked at."""
    if _WORD not in model:
        return
    import onnx  # large, and replicas of compiled models do without
    from onnx.external_data_helper import uses_external_data

    try:
        parsed = onnx.load_model_from_string(model)
    except Exception as error:  # protobuf's own kinds
        raise ModelLoadError(f"Cannot load the ONNX model: it is broken ({type(error).__name__}).") from error
    if any(uses_external_data(tensor) or tensor.external_data for tensor in _tensors(parsed)):
        raise ModelLoadError(
            "Cannot load the ONNX model: it keeps tensors in other files. Save it as one file, with its tensors inside."
        )


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Wherever they stand: in graphs and functions, as attributes, dense or sparse."""
    import onnx
    from google.protobuf.message import Message

    for _, value in message.ListFields():
        # Of what is repeated only messages can be added in place.
        for inner in (value,) if isinstance(value, Message) else value if hasattr(value, "add") else ():
            if isinstance(inner, onnx.TensorProto):
                yield inner
            else:
                yield from _tensors(inner)
