"""The OpenAPI document: every route but the pages, typed by each model's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from deployments.pages.examples import (
    infer_path,
    mlflow_body,
    mlflow_path,
    plain_body,
    plain_path,
    tensor_body,
)
from deployments.pages.shown import Shown
from deployments.protocols.tensors import OF_FIELD
from zaphod import __version__
from zaphod.lookup import MAX_ID_CHARS
from zaphod.schema import MAX_EXACT_INT, DType, Field, OutOfDomain, Schema, Task
from zaphod.served import Snapshot

Document: TypeAlias = dict[str, object]
# What stands at each path, by method.
_Paths: TypeAlias = dict[str, Document]

_ARROW = "application/vnd.apache.arrow.stream"
_STRING: Document = {"type": "string"}
_NUMBER: Document = {"type": "number"}
_INTEGER: Document = {"type": "integer"}
_BINARY: Document = {"type": "string", "contentMediaType": "application/octet-stream"}
# A prediction may be not a number, which JSON writes as null.
_RESULT: Document = {"type": ["number", "null"]}
_STAMP: Document = {
    "model": _STRING,
    "version": _INTEGER,
    "variant": _STRING,
    "prediction_id": {"anyOf": [_STRING, {"type": "array", "items": _STRING}]},
}
_STAMPED = ["model", "version", "variant"]


def openapi(shown: Shown) -> Document:
    """An OpenAPI 3.1 document."""
    paths = server_paths(shown)
    for reference, snapshot in shown.snapshots.items():
        for made in (_plain, _open_inference, _mlflow):
            paths |= made(reference, snapshot)
    document: Document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Zaphod",
            "version": __version__,
            "description": "The same rows get the same answer in every protocol. Where a path names a model, it takes "
            "`name@alias` and `name@version` too.",
        },
        "servers": [{"url": shown.root or "/"}],
        "paths": paths,
    }
    if shown.needs_key:
        document["components"] = {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            }
        }
        document["security"] = [{"bearer": []}, {"key": []}]
    return document


def server_paths(shown: Shown) -> _Paths:
    """What is asked of the server rather than of a model by its name."""
    paths = dict(_SERVER_PATHS)
    if shown.first is not None:
        summary = f"Score with the first model ({shown.first}), as MLflow does"
        paths["/invocations"] = {"post": _invoke("invoke", summary, shown.snapshots[shown.first])}
    return paths | _PREDICTION_PATH if shown.looks_up else paths


def _plain(reference: str, snapshot: Snapshot) -> _Paths:
    row = _row(snapshot.schema)
    many = _object({"rows": {"type": "array", "minItems": 1, "items": row}}, required=["rows"], closed=True)
    answer = _object(
        {**_STAMP, "predictions": {"type": "array", "items": _prediction(snapshot.schema)}},
        required=[*_STAMPED, "predictions"],
    )
    return {
        plain_path(reference): {
            "post": _operation(
                f"predict_{reference}",
                f"Predict with {reference}",
                tag="plain",
                request={
                    "application/json": {"schema": {"anyOf": [many, row]}, "example": plain_body(snapshot)},
                    _ARROW: {"schema": _BINARY},
                },
                answer={"application/json": {"schema": answer}, _ARROW: {"schema": _BINARY}},
                error=_PLAIN_ERROR,
            )
        },
        f"/v1/models/{reference}": {
            "get": _operation(
                f"describe_{reference}",
                f"What {reference} takes and gives",
                tag="plain",
                answer=_json(_object({"model": _STRING, "version": _INTEGER}, required=["model", "version", "schema"])),
                error=_PLAIN_ERROR,
            )
        },
    }


def _open_inference(reference: str, snapshot: Snapshot) -> _Paths:
    path = infer_path(reference)
    model = path.removesuffix("/infer")
    names = [field.name for field in snapshot.schema.fields]
    tensor = _object(
        {
            "name": {"enum": names},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 8},
            "datatype": {"enum": sorted({*OF_FIELD.values(), "FP32", "INT32"})},
            "parameters": _PARAMETERS,
            "data": {"type": "array"},
        },
        required=["name", "shape", "datatype", "data"],
    )
    request = _object(
        {
            "id": {"type": "string", "maxLength": 256},
            "parameters": _PARAMETERS,
            "inputs": {"type": "array", "items": tensor, "minItems": 1},
            "outputs": {
                "type": "array",
                "items": _object({"name": _STRING, "parameters": _PARAMETERS}, required=["name"]),
            },
        },
        required=["inputs"],
    )
    answer = _object(
        {
            "model_name": _STRING,
            "model_version": _STRING,
            "id": _STRING,
            "parameters": _PARAMETERS,
            "outputs": {"type": "array", "items": _OUTPUT},
        },
        required=["model_name", "outputs"],
    )
    return {
        path: {
            "post": _operation(
                f"infer_{reference}",
                f"Infer with {reference}",
                tag="open inference protocol",
                request={"application/json": {"schema": request, "example": tensor_body(snapshot)}},
                answer={"application/json": {"schema": answer}, "application/octet-stream": {"schema": _BINARY}},
                error=_TEXT_ERROR,
            )
        },
        model: {
            "get": _operation(
                f"metadata_{reference}",
                f"Tensors of {reference}",
                tag="open inference protocol",
                answer=_json(
                    _object(
                        {"name": _STRING, "platform": _STRING, "versions": {"type": "array", "items": _STRING}},
                        required=["name", "platform", "inputs", "outputs"],
                    )
                ),
                error=_TEXT_ERROR,
            )
        },
        f"{model}/ready": {
            "get": _operation(
                f"ready_{reference}",
                f"Whether {reference} is ready",
                tag="open inference protocol",
                answer=_json(_object({"name": _STRING, "ready": {"type": "boolean"}}, required=["name", "ready"])),
                error=_TEXT_ERROR,
            )
        },
    }


def _mlflow(reference: str, snapshot: Snapshot) -> _Paths:
    summary = f"Score with {reference}, as MLflow does"
    return {mlflow_path(reference): {"post": _invoke(f"invoke_{reference}", summary, snapshot)}}


def _invoke(operation: str, summary: str, snapshot: Snapshot) -> Document:
    schema = snapshot.schema
    row = _row(schema) | {"additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
    forms: list[Document] = [
        _object(
            {"dataframe_records": {"type": "array", "minItems": 1, "items": row}},
            required=["dataframe_records"],
            closed=True,
        ),
        _object({"instances": {"type": "array", "minItems": 1, "items": row}}, required=["instances"], closed=True),
        _object({"inputs": {"type": "object"}}, required=["inputs"], closed=True),
        _object(
            {
                "dataframe_split": _object(
                    {
                        "columns": {"type": "array", "items": _STRING},
                        "data": {"type": "array"},
                        "index": {"type": "array"},
                    },
                    required=["data"],
                    closed=True,
                )
            },
            required=["dataframe_split"],
            closed=True,
        ),
    ]
    answer = _object({**_STAMP, "predictions": {"type": "array"}}, required=[*_STAMPED, "predictions"])
    return _operation(
        operation,
        summary,
        tag="mlflow",
        request={
            "application/json": {"schema": {"anyOf": forms}, "example": mlflow_body(snapshot)},
            "text/csv": {"schema": _STRING},
            "application/vnd.apache.parquet": {"schema": _BINARY},
        },
        answer=_json(answer),
        error=_MLFLOW_ERROR,
    )


def _operation(
    operation: str,
    summary: str,
    *,
    tag: str,
    answer: Document,
    error: Document,
    request: Document | None = None,
    codes: Sequence[str] = ("401", "403", "404"),
    status: str = "200",
) -> Document:
    if request is not None:
        codes = ("400", "401", "403", "404", "408", "413", "415", "422", "429", "503", "504")
    refused = {"description": "refused, with the reason", "content": _json(error)}
    document: Document = {
        "operationId": operation,
        "summary": summary,
        "tags": [tag],
        "responses": {
            status: {
                "description": "the answer",
                "content": answer,
                "headers": _STAMP_HEADERS if request and status == "200" else {},
            },
            **dict.fromkeys(codes, refused),
        },
    }
    if request is not None:
        document["requestBody"] = {"required": True, "content": request}
    return document


def _row(schema: Schema) -> Document:
    return _object(
        {field.name: _field(field) for field in schema.fields},
        required=[field.name for field in schema.fields if field.required],
        closed=True,
    )


def _field(field: Field) -> Document:
    names = {DType.FLOAT64: "number", DType.INT64: "integer", DType.BOOL: "boolean", DType.STRING: "string"}
    document: Document = {"type": [names[field.dtype], "null"] if field.nullable else names[field.dtype]}
    if field.description:
        document["description"] = field.description
    if field.dtype is DType.INT64:
        document |= {"minimum": -MAX_EXACT_INT, "maximum": MAX_EXACT_INT}
    if field.out_of_domain is OutOfDomain.REJECT:
        if field.categories:
            document["enum"] = [*field.categories, *([None] if field.nullable else [])]
        if field.minimum is not None:
            document["minimum"] = field.minimum
        if field.maximum is not None:
            document["maximum"] = field.maximum
    return document


def _prediction(schema: Schema) -> Document:
    properties: Document = {}
    match schema.output.task:
        case Task.CLASSIFICATION if schema.output.target_classes:
            pairs = list(zip(schema.output.targets, schema.output.target_classes, strict=True))
            labels: Document = {target: {"enum": list(classes)} for target, classes in pairs}
            properties["labels"] = _object(labels, required=list(labels))
            if schema.output.has_probabilities:
                shares: Document = {"type": "object", "additionalProperties": _RESULT}
                properties["probabilities"] = {"type": "object", "additionalProperties": shares}
        case Task.CLASSIFICATION:
            properties["label"] = {"enum": list(schema.output.classes)}
            if schema.output.has_probabilities:
                properties["probabilities"] = {"type": "object", "additionalProperties": _RESULT}
        case Task.REGRESSION if len(schema.output.targets) > 1:
            properties["values"] = {"type": "object", "additionalProperties": _RESULT}
        case Task.REGRESSION:
            properties["value"] = _RESULT
        case Task.OUTLIER:
            properties = {"label": {"enum": [1, -1]}, "score": _RESULT}
        case Task.CLUSTERING:
            properties["label"] = _INTEGER
    return _object(properties, required=list(properties))


def _object(properties: Document, *, required: list[str], closed: bool = False) -> Document:
    document: Document = {"type": "object", "required": required, "properties": properties}
    return document | {"additionalProperties": False} if closed else document


def _json(schema: Document) -> Document:
    return {"application/json": {"schema": schema}}


_PARAMETERS: Document = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
}
_OUTPUT = _object(
    {"name": _STRING, "datatype": _STRING, "shape": {"type": "array", "items": _INTEGER}, "parameters": _PARAMETERS},
    required=["name", "datatype", "shape"],
)
_PLAIN_ERROR = _object({"error": _STRING, "message": _STRING, "field": _STRING}, required=["error", "message"])
_TEXT_ERROR = _object({"error": _STRING}, required=["error"])
_MLFLOW_ERROR = _object({"error_code": _STRING, "message": _STRING}, required=["error_code", "message"])
_STAMP_HEADERS: Document = {
    f"x-zaphod-{name}": {"schema": _STRING, "description": f"the {name} that answered"} for name in _STAMPED
}
_TEXT: Document = {"text/plain": {"schema": _STRING}}
_OUTCOMES = _object(
    {
        "outcomes": {
            "type": "array",
            "minItems": 1,
            "items": _object(
                {
                    "prediction_id": {"type": "string", "minLength": 1},
                    "value": {"type": ["number", "boolean", "string"]},
                    "field": _STRING,
                    "time": {"type": ["string", "null"], "format": "date-time"},
                },
                required=["prediction_id", "value"],
                closed=True,
            ),
        }
    },
    required=["outcomes"],
    closed=True,
)
_MODEL_PARAMETER: Document = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "a served model, as `name` or `name@alias`",
    "schema": {"type": "string", "pattern": "^[^/@]{1,100}(@[^/@]{1,100})?$"},
}
_INDEX: Document = {
    "type": "array",
    "items": _object({"name": _STRING, "version": _STRING, "state": _STRING}, required=["name", "version", "state"]),
}
# A line break.
_NOTHING: Document = {"application/json": {}}
_QUESTIONS: _Paths = {
    path: {"get": _operation(operation, summary, tag="server", answer=answer, error=_PLAIN_ERROR)}
    for path, operation, summary, answer in (
        ("/health", "health", "Whether the server works", _json({"type": "object"})),
        ("/ready", "server_ready", "The same", _json({"type": "object"})),
        ("/ping", "ping", "The same, as MLflow asks", _NOTHING),
        ("/version", "version", "Zaphod's version, as MLflow asks", _TEXT),
        ("/metrics", "metrics", "This replica's counts and durations, for Prometheus", _TEXT),
        ("/v1/models", "models", "What is served", _json({"type": "object"})),
        ("/v2", "server_metadata", "Name, version and extensions", _json({"type": "object"})),
        ("/v2/health/live", "live", "Whether the server lives", _json({"type": "object"})),
        ("/v2/health/ready", "ready", "Whether all models are ready", _json({"type": "object"})),
    )
}
_SERVER_PATHS: _Paths = {
    **_QUESTIONS,
    "/v1/outcomes": {
        "post": _operation(
            "outcomes",
            "What came of predictions",
            tag="server",
            request={
                "application/json": {
                    "schema": _OUTCOMES,
                    "example": {"outcomes": [{"prediction_id": "01a20f29b9e76b5b4fbc306e00000001", "value": 1}]},
                }
            },
            answer=_json(_object({"accepted": _INTEGER}, required=["accepted"])),
            error=_PLAIN_ERROR,
            status="202",
        )
    },
    "/v2/repository/index": {
        "post": _operation(
            "repository_index",
            "What is served, for keys that manage",
            tag="management",
            answer=_json(_INDEX),
            error=_PLAIN_ERROR,
        )
    },
    "/v2/repository/models/{name}/load": {
        "parameters": [_MODEL_PARAMETER],
        "post": _operation(
            "repository_load",
            "Looks at the registry now, for keys that manage",
            tag="management",
            answer=_json({"type": "object"}),
            error=_PLAIN_ERROR,
            codes=("401", "403", "404", "500", "503"),
        ),
    },
}
_PREDICTION_PATH: _Paths = {
    "/v1/predictions/{id}": {
        "parameters": [
            {
                "name": "id",
                "in": "path",
                "required": True,
                "description": "the entity, as the batch job's first kept column has it",
                "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS},
            }
        ],
        "get": _operation(
            "published_prediction",
            "The newest published prediction of an entity",
            tag="batch",
            answer=_json(
                _object(
                    {
                        "run_id": _STRING,
                        "model": _STRING,
                        "version": _INTEGER,
                        "published": _STRING,
                        "row": {
                            "type": "object",
                            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
                        },
                    },
                    required=["run_id", "model", "version", "published", "row"],
                )
            ),
            error=_PLAIN_ERROR,
            codes=("400", "401", "403", "404", "422", "429", "503", "504"),
        ),
    }
}
