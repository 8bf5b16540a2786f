"""The Open Inference Protocol over gRPC: what the methods of `GRPCInferenceService` do, whoever carries them."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import grpc

from deployments.access import Access
from deployments.catalogue import Catalogue, Wanted, find_for
from deployments.errors import UNRECORDED, status_of
from deployments.identity import NOBODY, identify, named
from deployments.metrics import Meter
from deployments.protocols.base import Question
from deployments.protocols.messages import message
from deployments.protocols.openinference import describe
from deployments.protocols.tensors import (
    BYTES,
    Output,
    Tensor,
    check_datatype,
    check_names,
    clip_name,
    decode_text,
    from_raw,
    to_columns,
    to_outputs,
    with_nulls,
)
from deployments.scoring import Scoring, within
from deployments.settings import Limits
from zaphod import __version__
from zaphod.errors import InvalidInputError, LimitExceededError, ZaphodError
from zaphod.served import Scored, ServedModel, Snapshot

_log = logging.getLogger("ray.serve")

_CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


class Context(Protocol):
    """What a call may say beside its answer: Ray's context and grpc's own both can."""

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]: ...

    def set_code(self, code: grpc.StatusCode) -> None: ...

    def set_details(self, details: str) -> None: ...

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None: ...


class InferenceService:
    """One method a call. An error is a status with the reason; the message then is empty."""

    def __init__(self, catalogue: Catalogue, *, scoring: Scoring, limits: Limits, access: Access, meter: Meter) -> None:
        self._catalogue = catalogue
        self._scoring = scoring
        self._limits = limits
        self._access = access
        self._meter = meter

    async def call(self, method: str, request: Any, context: Context) -> Any:  # messages are made at run time
        """Never raises for what a caller sent."""
        answers: dict[str, Callable[[Any, Context], Awaitable[Any]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        try:
            return await answers[method](request, context)
        except ZaphodError as error:
            context.set_code(_CODES.get(status_of(error), _default(status_of(error))))
            context.set_details(error.message)
        except Exception:  # noqa: BLE001  # what a mistake of ours says may hold the caller's data
            _log.exception("a call failed unexpectedly")
            context.set_code(grpc.StatusCode.INTERNAL)
            context.set_details("Cannot answer: the server made a mistake. Its log says which.")
        return message(f"{method}Response")()

    async def _live(self, request: Any, context: Context) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def _ready(self, request: Any, context: Context) -> Any:
        return message("ServerReadyResponse")(ready=True)

    async def _metadata(self, request: Any, context: Context) -> Any:
        self._covered(context)
        return message("ServerMetadataResponse")(name="zaphod", version=__version__, extensions=[])

    async def _model_ready(self, request: Any, context: Context) -> Any:
        self._covered(context).find(_wanted(request.name, request.version))
        return message("ModelReadyResponse")(ready=True)

    async def _model_metadata(self, request: Any, context: Context) -> Any:
        wanted = _wanted(request.name, request.version)
        catalogue = self._covered(context)
        document = describe(wanted.name, catalogue.find(wanted).snapshot(), catalogue)
        return message("ModelMetadataResponse")(**document)

    def _covered(self, context: Context) -> Catalogue:
        key = self._access.covered(_headers(context))
        return self._catalogue if key is None else self._catalogue.only(key.covers)

    async def _infer(self, request: Any, context: Context) -> Any:
        wanted, headers = _wanted(request.model_name, request.model_version), _headers(context)
        served = find_for(headers, wanted, catalogue=self._catalogue, access=self._access)
        snapshot = served.snapshot()
        began = time.perf_counter()
        scored, status, num_rows = None, 500, 0
        try:
            question, names = self._decode(served, snapshot, request, headers)
            num_rows = question.columns.num_rows
            scored = await within(self._scoring.score(snapshot, question), timeout_s=self._limits.predict_timeout_s)
            frame = request.parameters["content_type"].string_param == "pd" if request.parameters else False
            answer = _answer(request, snapshot, scored, names=names, frame=frame, context=context)
            status = 200
            return answer
        except ZaphodError as error:
            status = status_of(error)
            raise
        finally:
            self._meter.answered(
                scored, stamp=snapshot.stamp, protocol="grpc", status=status, began=began, num_rows=num_rows
            )

    def _decode(
        self, served: ServedModel, snapshot: Snapshot, request: Any, headers: list[tuple[bytes, bytes]]
    ) -> tuple[Question, list[str]]:
        """Raises: ZaphodError, which has been recorded where it may be."""
        names = [output.name for output in request.outputs]
        identity = NOBODY
        try:
            self._access.predict(headers, served.reference.name)
            snapshot.check_room()
            identity = identify(headers)
            if request.ByteSize() > self._limits.max_body_bytes:
                raise LimitExceededError(
                    f"Expected a message of at most {self._limits.max_body_bytes} bytes (max_body_bytes), got more"
                )
            check_names(snapshot.schema, names)
            columns = to_columns(snapshot, _tensors(request), max_rows=self._limits.max_rows)
        except UNRECORDED:
            raise
        except ZaphodError as error:
            snapshot.refuse(error, entities=[identity.entity], ids=identity.id)
            raise
        return named(Question(columns), identity), names


def _headers(context: Context) -> list[tuple[bytes, bytes]]:
    """The call's metadata in the form of HTTP."""
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in context.invocation_metadata()
    ]


def _default(status: int) -> grpc.StatusCode:
    return grpc.StatusCode.INVALID_ARGUMENT if status < 500 else grpc.StatusCode.INTERNAL


def _wanted(name: str, version: str) -> Wanted:
    base, _, selector = name.partition("@")
    return Wanted.of(base, version or selector or None)


def _tensors(request: Any) -> list[Tensor]:
    raws = request.raw_input_contents
    if raws and len(raws) != len(request.inputs):
        raise InvalidInputError("Expected raw contents for each input, got another number - at `raw_input_contents`")
    tensors: list[Tensor] = []
    for i, wire in enumerate(request.inputs):
        shape = tuple(wire.shape)
        if min(shape, default=0) < 0:
            raise InvalidInputError(f"Expected a shape without negative sizes, got one - at `{clip_name(wire.name)}`")
        if raws:
            if wire.HasField("contents"):
                raise InvalidInputError("Expected raw contents or contents, got both - at `raw_input_contents`")
            tensor = from_raw(wire.name, wire.datatype, shape, raws[i])
        else:
            tensor = Tensor(wire.name, wire.datatype, shape, _contents(wire))
        if "null_value" in wire.parameters:
            tensor = with_nulls(tensor, wire.parameters["null_value"].string_param)
        tensors.append(tensor)
    return tensors


def _contents(wire: Any) -> list[Any]:
    check_datatype(wire.name, wire.datatype)
    place = _CONTENTS.get(wire.datatype)
    if place is None:
        raise InvalidInputError(f"Expected raw contents for {wire.datatype}, got others - at `{clip_name(wire.name)}`")
    values = list(getattr(wire.contents, place))
    return [decode_text(wire.name, value) for value in values] if wire.datatype == BYTES else values


def _answer(
    request: Any, snapshot: Snapshot, scored: Scored, *, names: Sequence[str], frame: bool, context: Context
) -> Any:
    stamp = scored.stamps[0]
    answer = message("ModelInferResponse")(model_name=stamp.model, model_version=str(stamp.version), id=request.id)
    answer.parameters["variant"].string_param = stamp.variant if scored.stamp_index is None else "mixed"
    if isinstance(scored.ids, str):
        answer.parameters["prediction_id"].string_param = scored.ids
    if frame:
        answer.parameters["content_type"].string_param = "pd"
    for output in to_outputs(snapshot.schema, scored, names=names, frame=frame):
        wire = answer.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        # As the caller asked: raw for raw.
        if request.raw_input_contents:
            answer.raw_output_contents.append(output.raw())
        else:
            _fill(wire.contents, output)
    context.set_trailing_metadata(
        [
            ("x-zaphod-model", stamp.model),
            ("x-zaphod-version", str(stamp.version)),
            ("x-zaphod-variant", stamp.variant),
        ]
    )
    return answer


def _fill(contents: Any, output: Output) -> None:
    values = output.values.tolist()
    if output.datatype == BYTES:
        values = [str(value).encode() for value in values]
    getattr(contents, _CONTENTS[output.datatype]).extend(values)
