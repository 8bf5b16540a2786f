"""The Open Inference Protocol, version 2, over REST: `/v2` and below, with its binary tensor extension.

https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from deployments.catalogue import Catalogue, Wanted
from deployments.protocols.base import Question, Request, Response, check_encoding, nan_as_null, stamp_headers
from deployments.protocols.tensors import (
    BYTES,
    NUMBERS,
    OF_FIELD,
    Output,
    Tensor,
    check_datatype,
    check_names,
    clip_name,
    describe_outputs,
    from_raw,
    to_columns,
    to_outputs,
    with_nulls,
)
from deployments.settings import Limits
from zaphod import __version__
from zaphod.columns import clip
from zaphod.errors import DecodeError, InvalidInputError, ZaphodError
from zaphod.served import Scored, Snapshot

_MODEL = re.compile(r"/v2/models/([^/@]{1,100})(?:@([^/@]{1,100}))?(?:/versions/([^/]{1,100}))?(/infer|/ready)?")
_HEADER_LENGTH = b"inference-header-content-length"
_BINARY = b"application/octet-stream"
_FRAME = "pd"

_Parameters = dict[str, str | int | float | bool | None]


_NO_DATA = msgspec.Raw()


class _Input(msgspec.Struct):
    name: str
    shape: Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(min_length=1, max_length=8)]
    datatype: str
    parameters: _Parameters | None = None
    data: msgspec.Raw = _NO_DATA


class _Requested(msgspec.Struct):
    name: str
    parameters: _Parameters | None = None


class _Infer(msgspec.Struct):
    inputs: Annotated[list[_Input], msgspec.Meta(min_length=1, max_length=10_000)]
    id: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    parameters: _Parameters | None = None
    outputs: Annotated[list[_Requested], msgspec.Meta(max_length=10_000)] | None = None


class _Form(msgspec.Struct, frozen=True, gc=False):
    """How the caller wants the answer. id: the caller's, given back. binary: the outputs to send as bytes."""

    id: str | None
    names: tuple[str, ...]
    binary: frozenset[str]
    all_binary: bool
    frame: bool


_PLAIN_FORM = _Form(id=None, names=(), binary=frozenset(), all_binary=False, frame=False)
_RANGES = {
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
}


def _value_type(datatype: str) -> Any:  # a type made at run time
    if datatype == BYTES:
        return str | None
    if datatype == "BOOL":
        return bool | None
    if datatype.startswith("FP"):
        return float | None
    low, high = _RANGES[datatype]
    bounds = {"ge": low} if high >= 2**63 else {"ge": low, "le": high}
    return Annotated[int, msgspec.Meta(**bounds)] | None


def _list_decoder(kind: Any) -> msgspec.json.Decoder[list[Any]]:  # as above
    return msgspec.json.Decoder(list[kind])


class OpenInference:
    """Tensors in, tensors out."""

    name = "openinference"

    def __init__(self, *, limits: Limits) -> None:
        self._limits = limits
        self._encoder = msgspec.json.Encoder()
        self._request = msgspec.json.Decoder(_Infer)
        types = {datatype: _value_type(datatype) for datatype in (*NUMBERS, BYTES)}
        self._flat = {name: _list_decoder(kind) for name, kind in types.items()}
        self._nested = {name: _list_decoder(list[kind]) for name, kind in types.items()}  # type: ignore[valid-type]  # made at run time

    def path(self, reference: str) -> str:
        name, _, selector = reference.partition("@")
        return f"/v2/models/{name}/versions/{selector}/infer" if selector else f"/v2/models/{name}/infer"

    def match(self, path: str) -> Wanted | None:
        found = _MODEL.fullmatch(path)
        return _wanted(found) if found and found[4] == "/infer" else None

    def decode(self, snapshot: Snapshot, request: Request) -> Question:
        header, rest = self._split(request)
        try:
            infer = self._read(header)
        except DecodeError:
            check_encoding(request)
            if b"NaN" not in header:
                raise
            infer = self._read(nan_as_null(header))
        tensors: list[Tensor] = []
        for wire in infer.inputs:
            tensor, rest = self._tensor(wire, rest)
            tensors.append(tensor)
        if rest:
            raise DecodeError("Expected `binary_data_size` for all bytes after the JSON, got more bytes")
        columns = to_columns(snapshot, tensors, max_rows=self._limits.max_rows)
        form = _form(infer)
        check_names(snapshot.schema, form.names)
        return Question(columns, form=form)

    def encode(self, snapshot: Snapshot, question: Question, scored: Scored) -> Response:
        form = question.form if isinstance(question.form, _Form) else _PLAIN_FORM
        outputs = to_outputs(snapshot.schema, scored, names=form.names, frame=form.frame)
        stamp = scored.stamps[0]
        parameters: dict[str, object] = {"variant": stamp.variant if scored.stamp_index is None else "mixed"}
        if isinstance(scored.ids, str):
            parameters["prediction_id"] = scored.ids
        if form.frame:
            parameters["content_type"] = _FRAME
        document: dict[str, object] = {
            "model_name": stamp.model,
            "model_version": str(stamp.version),
            "parameters": parameters,
        }
        if form.id is not None:
            document["id"] = form.id
        if not (form.all_binary or form.binary):
            document["outputs"] = [_to_json(output) for output in outputs]
            return Response(200, self._encoder.encode(document), headers=stamp_headers(scored))
        return self._binary(document, outputs, form, scored)

    def refuse(self, status: int, error: ZaphodError) -> Response:
        return Response(status, self._encoder.encode({"error": error.message}))

    def inform(self, path: str, catalogue: Catalogue) -> Response | None:
        if not path.startswith("/v2"):
            return None
        document: Mapping[str, object] | None = None
        match path:
            case "/v2" | "/v2/":
                document = {"name": "zaphod", "version": __version__, "extensions": ["binary_tensor_data"]}
            case "/v2/health/live":
                document = {"live": True}
            case "/v2/health/ready":
                document = {"live": True, "ready": True}
        found = _MODEL.fullmatch(path)
        if found and found[4] != "/infer":
            wanted = _wanted(found)
            served = catalogue.find(wanted)
            ready = {"name": wanted.name, "ready": True}
            document = ready if found[4] else describe(wanted.name, served.snapshot(), catalogue)
        return None if document is None else Response(200, self._encoder.encode(document))

    def _read(self, header: bytes) -> _Infer:
        try:
            return self._request.decode(header)
        except msgspec.ValidationError as error:
            raise InvalidInputError(clip(str(error))) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(clip(f"Expected JSON, got something else: {error}")) from error

    def _split(self, request: Request) -> tuple[bytes, memoryview]:
        """The JSON, and the bytes behind it."""
        length, body = request.header(_HEADER_LENGTH), request.body
        if not body:
            raise InvalidInputError('Expected a body `{"inputs": [{…}]}`, got nothing')
        if not length:
            return body, memoryview(b"")
        if not (length.isdigit() and len(length) <= 12 and int(length) <= len(body)):
            raise DecodeError("Expected Inference-Header-Content-Length within the body, got something else")
        return body[: int(length)], memoryview(body)[int(length) :]

    def _tensor(self, wire: _Input, rest: memoryview) -> tuple[Tensor, memoryview]:
        check_datatype(wire.name, wire.datatype)
        shape = tuple(wire.shape)
        size = (wire.parameters or {}).get("binary_data_size")
        if size is None:
            return Tensor(wire.name, wire.datatype, shape, self._values(wire, shape)), rest
        if wire.data or isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(rest):
            raise DecodeError(
                f"Expected `binary_data_size` bytes after the JSON, got something else - at `{clip_name(wire.name)}`"
            )
        tensor = from_raw(wire.name, wire.datatype, shape, rest[:size])
        return with_nulls(tensor, (wire.parameters or {}).get("null_value")), rest[size:]

    def _values(self, wire: _Input, shape: tuple[int, ...]) -> Sequence[str | int | float | bool | None]:
        if not wire.data:
            raise InvalidInputError(f"Expected data, got none - at `{clip_name(wire.name)}`")
        try:
            if len(shape) > 1 and _is_nested(wire.data):
                rows = self._nested[wire.datatype].decode(wire.data)
                if math.prod(shape[1:]) and any(len(row) != shape[1] for row in rows):
                    raise InvalidInputError(
                        f"Expected rows of {shape[1]} values by the shape, got another number - at "
                        f"`{clip_name(wire.name)}`"
                    )
                return [value for row in rows for value in row]
            values: list[str | int | float | bool | None] = self._flat[wire.datatype].decode(wire.data)
            return values
        except (msgspec.ValidationError, UnicodeDecodeError) as error:
            raise InvalidInputError(
                f"Expected an array of {wire.datatype}, got something else - at `{clip_name(wire.name)}`"
            ) from error
        except (msgspec.DecodeError, RecursionError) as error:
            raise DecodeError(f"Expected an array, got something else - at `{clip_name(wire.name)}`") from error

    def _binary(self, document: dict[str, object], outputs: Sequence[Output], form: _Form, scored: Scored) -> Response:
        described: list[dict[str, object]] = []
        parts: list[bytes] = []
        for output in outputs:
            if not form.all_binary and output.name not in form.binary:
                described.append(_to_json(output))
                continue
            raw = output.raw()
            parts.append(raw)
            described.append(_described(output) | {"parameters": {"binary_data_size": len(raw)}})
        header = self._encoder.encode(document | {"outputs": described})
        length = (b"inference-header-content-length", b"%d" % len(header))
        return Response(200, b"".join((header, *parts)), _BINARY, headers=(length, *stamp_headers(scored)))


def describe(name: str, snapshot: Snapshot, catalogue: Catalogue) -> dict[str, object]:
    """The protocol's model metadata."""
    schema = snapshot.schema
    versions = sorted({other.stamp.version for other in catalogue.named(name)})
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": f"sklearn_{snapshot.predictor.engine}",
        "inputs": [{"name": field.name, "datatype": OF_FIELD[field.dtype], "shape": [-1]} for field in schema.fields],
        "outputs": [
            {"name": output, "datatype": datatype, "shape": shape}
            for output, datatype, shape in describe_outputs(schema)
        ],
        "properties": {"version": str(snapshot.stamp.version), "variant": snapshot.stamp.variant},
    }


def _wanted(found: re.Match[str]) -> Wanted:
    """`versions/` takes an alias too: clients that can only name a version can still follow one."""
    return Wanted.of(found[1], found[3] if found[3] is not None else found[2])


def _form(infer: _Infer) -> _Form:
    if infer.parameters is None and infer.outputs is None and infer.id is None:
        return _PLAIN_FORM
    parameters = infer.parameters or {}
    outputs = infer.outputs or []
    all_binary = parameters.get("binary_data_output") is True
    return _Form(
        id=infer.id,
        names=tuple(output.name for output in outputs),
        binary=frozenset(
            output.name for output in outputs if (output.parameters or {}).get("binary_data", all_binary) is True
        ),
        all_binary=all_binary and not outputs,
        frame=parameters.get("content_type") == _FRAME,
    )


def _is_nested(data: msgspec.Raw) -> bool:
    """An array whose first value is an array."""
    return bytes(memoryview(data)[:64]).lstrip()[1:].lstrip()[:1] == b"["


def _described(output: Output) -> dict[str, object]:
    return {"name": output.name, "datatype": output.datatype, "shape": output.shape}


def _to_json(output: Output) -> dict[str, object]:
    values = output.values.tolist()
    document = _described(output)
    if output.datatype == BYTES:
        document["parameters"] = {"content_type": "str"}
        values = [str(value) for value in values]
    document["data"] = values
    return document
