"""The messages and the service of the Open Inference Protocol's gRPC form, declared here and built at import.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto

They live in a pool of their own: clients of the protocol, which may share a process with this module, register the
same names in the default one.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE: Final = "inference"
SERVICE: Final = "GRPCInferenceService"
METHODS: Final = ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")

_PARAMETERS = "map<InferParameter>"
# Message, then its fields as (name, number, type); a leading `*` repeats, a leading `|` is one of a choice.
_MESSAGES: dict[str, tuple[tuple[str, int, str], ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": (("live", 1, "bool"),),
    "ServerReadyRequest": (),
    "ServerReadyResponse": (("ready", 1, "bool"),),
    "ModelReadyRequest": (("name", 1, "string"), ("version", 2, "string")),
    "ModelReadyResponse": (("ready", 1, "bool"),),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (("name", 1, "string"), ("version", 2, "string"), ("extensions", 3, "*string")),
    "ModelMetadataRequest": (("name", 1, "string"), ("version", 2, "string")),
    "ModelMetadataResponse": (
        ("name", 1, "string"), ("versions", 2, "*string"), ("platform", 3, "string"),
        ("inputs", 4, "*TensorMetadata"), ("outputs", 5, "*TensorMetadata"), ("properties", 6, "map<string>"),
    ),
    "TensorMetadata": (("name", 1, "string"), ("datatype", 2, "string"), ("shape", 3, "*int64")),
    "InferParameter": (
        ("bool_param", 1, "|bool"), ("int64_param", 2, "|int64"), ("string_param", 3, "|string"),
        ("double_param", 4, "|double"), ("uint64_param", 5, "|uint64"),
    ),
    "InferTensorContents": (
        ("bool_contents", 1, "*bool"), ("int_contents", 2, "*int32"), ("int64_contents", 3, "*int64"),
        ("uint_contents", 4, "*uint32"), ("uint64_contents", 5, "*uint64"), ("fp32_contents", 6, "*float"),
        ("fp64_contents", 7, "*double"), ("bytes_contents", 8, "*bytes"),
    ),
    "InferInputTensor": (
        ("name", 1, "string"), ("datatype", 2, "string"), ("shape", 3, "*int64"), ("parameters", 4, _PARAMETERS),
        ("contents", 5, "InferTensorContents"),
    ),
    "InferRequestedOutputTensor": (("name", 1, "string"), ("parameters", 2, _PARAMETERS)),
    "ModelInferRequest": (
        ("model_name", 1, "string"), ("model_version", 2, "string"), ("id", 3, "string"),
        ("parameters", 4, _PARAMETERS), ("inputs", 5, "*InferInputTensor"),
        ("outputs", 6, "*InferRequestedOutputTensor"), ("raw_input_contents", 7, "*bytes"),
    ),
    "InferOutputTensor": (
        ("name", 1, "string"), ("datatype", 2, "string"), ("shape", 3, "*int64"), ("parameters", 4, _PARAMETERS),
        ("contents", 5, "InferTensorContents"),
    ),
    "ModelInferResponse": (
        ("model_name", 1, "string"), ("model_version", 2, "string"), ("id", 3, "string"),
        ("parameters", 4, _PARAMETERS), ("outputs", 5, "*InferOutputTensor"), ("raw_output_contents", 6, "*bytes"),
    ),
}  # fmt: skip


def message(name: str) -> Any:  # a class made at run time
    """The class of a message."""
    return _CLASSES[name]


def add_to_server(servicer: object, server: grpc.Server) -> None:
    """What `grpc_options.grpc_servicer_functions` in configs/serve.yaml names."""
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, method),
            request_deserializer=message(f"{method}Request").FromString,
            response_serializer=message(f"{method}Response").SerializeToString,
        )
        for method in METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(f"{PACKAGE}.{SERVICE}", handlers),))


def _declare(file: descriptor_pb2.FileDescriptorProto, name: str, fields: tuple[tuple[str, int, str], ...]) -> None:
    declared = file.message_type.add(name=name)
    if any(kind.startswith("|") for _, _, kind in fields):
        declared.oneof_decl.add(name="choice")
    for field_name, number, kind in fields:
        field = declared.field.add(name=field_name, number=number)
        field.label = field.LABEL_REPEATED if kind[0] in "*m" else field.LABEL_OPTIONAL
        if kind.startswith("map<"):
            entry = declared.nested_type.add(name=f"{field_name.title()}Entry")
            entry.options.map_entry = True
            _set_type(entry.field.add(name="key", number=1, label=field.LABEL_OPTIONAL), "string")
            _set_type(entry.field.add(name="value", number=2, label=field.LABEL_OPTIONAL), kind[4:-1])
            _set_type(field, f"{name}.{entry.name}")
            continue
        if kind.startswith("|"):
            field.oneof_index = 0
        _set_type(field, kind.lstrip("*|"))


def _set_type(field: descriptor_pb2.FieldDescriptorProto, kind: str) -> None:
    if kind.islower() or kind in ("int32", "int64", "uint32", "uint64"):
        field.type = field.Type.Value(f"TYPE_{kind.upper()}")
    else:
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{PACKAGE}.{kind}"


def _build() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="open_inference.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        _declare(file, name, fields)
    service = file.service.add(name=SERVICE)
    for method in METHODS:
        service.method.add(
            name=method,
            input_type=f".{PACKAGE}.{method}Request",
            output_type=f".{PACKAGE}.{method}Response",
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _build()
# Ray's Python proxy pickles requests on their way to a replica: by name, so the classes stand under their names here.
for _name, _class in _CLASSES.items():
    _class.__module__, _class.__qualname__ = __name__, _name
globals().update(_CLASSES)
