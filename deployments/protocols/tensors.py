"""Named tensors of the Open Inference Protocol, to columns and from predictions; REST and gRPC carry the same ones."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deployments.protocols.tables import check_num_rows, from_whole_table
from zaphod.columns import Columns
from zaphod.errors import DecodeError, InvalidInputError, SchemaMismatchError
from zaphod.outputs import JsonScalar, label_columns, split
from zaphod.predictor import Predictions
from zaphod.schema import MAX_EXACT_INT, DType, Field, Schema, Task
from zaphod.schema import Output as ModelOutput
from zaphod.served import Scored, Snapshot

BYTES = "BYTES"
# Little-endian, as the protocol carries them.
NUMBERS = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
OF_FIELD = {DType.FLOAT64: "FP64", DType.INT64: "INT64", DType.BOOL: "BOOL", DType.STRING: BYTES}
# Up to here building rows is faster than building an Arrow table, by 400 us for one row.
_MAX_ROWS_AS_ROWS = 32
_LENGTH = struct.Struct("<I")

Values: TypeAlias = Sequence[JsonScalar]


@dataclass(frozen=True, slots=True)
class Tensor:
    """values: row-major, flat, as long as the product of the shape; None is a null."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a model. values: row-major, flat."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[np.generic]

    def raw(self) -> bytes:
        """The bytes of the binary form."""
        if self.datatype != BYTES:
            return np.ascontiguousarray(self.values, dtype=NUMBERS[self.datatype]).tobytes()
        encoded = [str(value).encode() for value in self.values.tolist()]
        return b"".join(part for text in encoded for part in (_LENGTH.pack(len(text)), text))


def check_datatype(name: str, datatype: str) -> None:
    """Raises: InvalidInputError."""
    if datatype != BYTES and datatype not in NUMBERS:
        known = ", ".join((*NUMBERS, BYTES))
        raise InvalidInputError(f"Expected one of the datatypes {known}, got another - at `{clip_name(name)}`")


def clip_name(name: str) -> str:
    """A tensor's name short enough to send back."""
    return name if len(name) <= 100 else name[:99] + "…"


def with_nulls(tensor: Tensor, null_value: object) -> Tensor:
    """The binary form has no nulls for strings: `null_value`, a parameter of an input, says which string is one."""
    if tensor.datatype != BYTES or not isinstance(null_value, str):
        return tensor
    values = [None if value == null_value else value for value in tensor.values]
    return Tensor(tensor.name, tensor.datatype, tensor.shape, values)


def from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: bytes | memoryview) -> Tensor:
    """A tensor in its binary form. Raises: DecodeError when the bytes are not what datatype and shape say."""
    check_datatype(name, datatype)
    if datatype == BYTES:
        return Tensor(name, datatype, shape, _strings(name, raw))
    dtype = NUMBERS[datatype]
    if len(raw) % dtype.itemsize:
        raise DecodeError(f"Expected whole values of {dtype.itemsize} bytes, got a rest - at `{clip_name(name)}`")
    return Tensor(name, datatype, shape, np.frombuffer(raw, dtype=dtype).tolist())


def to_columns(snapshot: Snapshot, tensors: Sequence[Tensor], *, max_rows: int) -> Columns:
    """One tensor a field, of shape [n] or [n, 1]; or one tensor of shape [n, fields] when all fields are of its type.

    Raises: InvalidInputError, SchemaMismatchError, LimitExceededError.
    """
    schema = snapshot.schema
    num_rows = _check_shapes(tensors, schema, max_rows=max_rows)
    if _is_matrix(tensors, schema):
        tensors = _split(tensors[0], schema)
    named = {tensor.name: tensor for tensor in tensors}
    if len(named) < len(tensors):
        raise InvalidInputError("Expected inputs of different names, got one twice - at `inputs`")
    unknown = next((name for name in named if name not in schema.names), None)
    if unknown is not None:
        raise SchemaMismatchError(f"Expected one of the model's fields, got another - at `{clip_name(unknown)}`")
    if num_rows <= _MAX_ROWS_AS_ROWS and all(_is_exact(tensor) for tensor in tensors):
        columns = _by_rows(snapshot, named, num_rows)
        if columns is not None:
            return columns
    arrays = {field.name: _array(named[field.name], field) for field in schema.fields if field.name in named}
    # A table without columns has no rows: fields that may all be left out still need their number.
    table = pa.table(arrays) if arrays else pa.table({"": pa.nulls(num_rows)})
    return from_whole_table(schema, table, max_rows=max_rows)


def to_outputs(schema: Schema, scored: Scored, *, names: Sequence[str] = (), frame: bool = False) -> list[Output]:
    """What the task has: `label`, `probabilities`, `value` (each with `_<target>` where there are several), `score`.

    frame: one tensor of shape [n, 1] a column, as the DataFrame convention wants it, with `probability_<class>`.
    names: which outputs, in this order, as `check_names` lets them pass; none means all.
    """
    made = {output.name: output for output in _outputs(schema, scored.predictions, frame=frame)}
    if not names:
        if scored.stamp_index is not None:
            made |= {output.name: output for output in _stamps(scored, frame=frame)}
        return list(made.values())
    made |= {output.name: output for output in _outputs(schema, scored.predictions, frame=not frame)}
    made |= {output.name: output for output in _stamps(scored, frame=frame)}
    return [_pick(made, name) for name in names]


def check_names(schema: Schema, names: Sequence[str]) -> None:
    """Refuses outputs that the model does not have, before it is asked. Raises: InvalidInputError."""
    if len(set(names)) < len(names):
        raise InvalidInputError("Expected outputs of different names, got one twice - at `outputs`")
    known = {name for name, _, _ in describe_outputs(schema)} | {"version", "variant"}
    if schema.output.has_probabilities:
        known |= set(schema.output.probability_names)
    if "probabilities" in known:
        known |= {"predict_proba"}
    if known & {"label", "value"}:
        known.add("predict")
    if not known.issuperset(names):
        raise InvalidInputError(f"Expected one of the outputs {sorted(known)}, got another - at `outputs`")


def describe_outputs(schema: Schema) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of each output."""
    shapes: list[tuple[str, str, list[int]]] = []
    output = schema.output
    match output.task:
        case Task.CLASSIFICATION:
            by_target = output.classes_by_target
            shapes += [(name, _label_type(one), [-1]) for name, one in zip(output.label_names, by_target, strict=True)]
            if output.has_probabilities:
                names = _probabilities_names(output)
                shapes += [(name, "FP64", [-1, len(one)]) for name, one in zip(names, by_target, strict=True)]
        case Task.REGRESSION:
            shapes += [(name, "FP64", [-1]) for name in output.value_names]
        case Task.OUTLIER:
            shapes += [("label", "INT64", [-1]), ("score", "FP64", [-1])]
        case Task.CLUSTERING:
            shapes.append(("label", "INT64", [-1]))
    return shapes


def _strings(name: str, raw: bytes | memoryview) -> list[str]:
    data = bytes(raw)
    texts: list[str] = []
    position, end = 0, len(data)
    while position < end:
        if end - position < _LENGTH.size:
            raise DecodeError(f"Expected a length of 4 bytes, got a rest - at `{clip_name(name)}`")
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        if length > end - position:
            raise DecodeError(f"Expected a string as long as its length says, got less - at `{clip_name(name)}`")
        texts.append(decode_text(name, data[position : position + length]))
        position += length
    return texts


def decode_text(name: str, data: bytes) -> str:
    """Raises: DecodeError."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DecodeError(f"Expected UTF-8, got other bytes - at `{clip_name(name)}`") from error


def _check_shapes(tensors: Sequence[Tensor], schema: Schema, *, max_rows: int) -> int:
    if not tensors:
        raise InvalidInputError("Expected at least one input, got none - at `inputs`")
    num_rows = tensors[0].shape[0] if tensors[0].shape else 0
    check_num_rows(num_rows, max_rows=max_rows)
    matrix = _is_matrix(tensors, schema)
    for tensor in tensors:
        shape = tensor.shape
        if not (shape[1:] in ((), (1,)) or (matrix and len(shape) == 2)):
            raise InvalidInputError(f"Expected a shape [n] or [n, 1], got another - at `{clip_name(tensor.name)}`")
        if shape[:1] != (num_rows,):
            raise InvalidInputError(f"Expected {num_rows} rows, got another number - at `{clip_name(tensor.name)}`")
        if math.prod(shape) != len(tensor.values):
            raise InvalidInputError(
                f"Expected {math.prod(shape)} values by the shape, got {len(tensor.values)} - at "
                f"`{clip_name(tensor.name)}`"
            )
    return num_rows


def _is_matrix(tensors: Sequence[Tensor], schema: Schema) -> bool:
    shape, width = tensors[0].shape, len(schema.fields)
    return len(tensors) == 1 and shape[1:] == (width,) and (width > 1 or tensors[0].name not in schema.names)


def _split(tensor: Tensor, schema: Schema) -> list[Tensor]:
    """One tensor a field, in the order of the schema."""
    rows, width = tensor.shape
    return [
        Tensor(field.name, tensor.datatype, (rows,), tensor.values[i::width]) for i, field in enumerate(schema.fields)
    ]


def _is_exact(tensor: Tensor) -> bool:
    """The row decoder judges these values as the table check does, unlike NaN, infinity and huge integers."""
    if tensor.datatype.startswith("FP"):
        return all(value is None or math.isfinite(value) for value in tensor.values)  # type: ignore[arg-type]
    if tensor.datatype.endswith("64"):
        return all(value is None or -MAX_EXACT_INT <= value <= MAX_EXACT_INT for value in tensor.values)  # type: ignore[operator]
    return True


def _by_rows(snapshot: Snapshot, named: dict[str, Tensor], num_rows: int) -> Columns | None:
    """None when a row is not accepted: the table check has the last word and the reason."""
    names = tuple(named)
    rows = [
        dict(zip(names, values, strict=True))
        for values in zip(*(tensor.values for tensor in named.values()), strict=True)
    ]
    try:
        return snapshot.decoder.columns(msgspec.convert(rows, list[snapshot.decoder.row_type]))  # type: ignore[name-defined]
    except msgspec.ValidationError:
        return None


def _array(tensor: Tensor, field: Field) -> pa.Array:
    if tensor.datatype == BYTES:
        return pa.array(tensor.values, type=pa.string())
    # Half precision has few casts in Arrow; its values are exact in single precision.
    kind = pa.float32() if tensor.datatype == "FP16" else pa.from_numpy_dtype(NUMBERS[tensor.datatype])
    try:
        return pa.array(tensor.values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise InvalidInputError(f"Expected values of {tensor.datatype}, got others - at `{field.name}`") from error


def _outputs(schema: Schema, predictions: Predictions, *, frame: bool) -> Iterable[Output]:
    output = schema.output
    if predictions.labels is not None:
        by_target, columns = output.classes_by_target, label_columns(predictions.labels)
        for name, classes, labels in zip(output.label_names, by_target, columns, strict=True):
            datatype = _label_type(classes) if output.task is Task.CLASSIFICATION else "INT64"
            yield _column(name, datatype, labels, frame=frame)
    if predictions.probabilities is not None:
        if frame:
            for name, column in zip(output.probability_names, predictions.probabilities.T, strict=True):
                yield _column(name, "FP64", column, frame=True)
        else:
            parts = split(output, predictions.probabilities)
            for name, part in zip(_probabilities_names(output), parts, strict=True):
                yield Output(name, "FP64", (part.shape[0], part.shape[1]), part.reshape(-1))
    if predictions.values is not None:
        for name, values in zip(output.value_names, predictions.values.T, strict=True):
            yield _column(name, "FP64", values, frame=frame)
    if predictions.scores is not None:
        yield _column("score", "FP64", predictions.scores, frame=frame)


def _stamps(scored: Scored, *, frame: bool) -> Iterable[Output]:
    stamps = [scored.stamp_of(row) for row in range(scored.predictions.num_rows)]
    yield _column("version", "INT64", np.array([stamp.version for stamp in stamps]), frame=frame)
    yield _column("variant", BYTES, np.array([stamp.variant for stamp in stamps], dtype=object), frame=frame)


def _column(name: str, datatype: str, values: NDArray[np.generic], *, frame: bool) -> Output:
    shape = (len(values), 1) if frame else (len(values),)
    return Output(name, datatype, shape, values)


def _probabilities_names(output: ModelOutput) -> list[str]:
    """One tensor a target."""
    targets = output.targets
    return ["probabilities"] if len(targets) == 1 else [f"probabilities_{target}" for target in targets]


def _label_type(classes: Sequence[object]) -> str:
    kinds = {type(label) for label in classes}
    if kinds == {bool}:
        return "BOOL"
    if kinds == {int}:
        return "INT64"
    return "FP64" if kinds <= {int, float} else BYTES


def _pick(outputs: dict[str, Output], name: str) -> Output:
    if name in outputs:
        return outputs[name]
    # What MLServer's scikit-learn runtime calls them.
    wanted = ("probabilities",) if name == "predict_proba" else ("label", "value")
    found = next(outputs[alias] for alias in wanted if alias in outputs)
    return Output(name, found.datatype, found.shape, found.values)
