"""What a person sees: the start page, the docs and the OpenAPI document, filled from each model's schema.

The pages load nothing from elsewhere: they work on a machine without a way out.
"""

from __future__ import annotations

import functools
import html
import importlib.resources
import json
from collections.abc import Mapping

import msgspec

from zaphod import __version__
from zaphod.schema import DType, Field, OutOfDomain, Schema, Task
from zaphod.served import Snapshot

DOCS_PATH = "/docs"


def home(snapshots: Mapping[str, Snapshot], *, slow_start: list[str]) -> bytes:
    """Which models are served, by which version and engine."""
    rows = "".join(_home_row(reference, snapshot) for reference, snapshot in snapshots.items())
    return _page(
        "Zaphod",
        f"""<h1>Zaphod</h1>
<p class=sub>version {__version__} · <a href={DOCS_PATH}>docs</a> · <a href=/openapi.json>OpenAPI</a></p>
{_slow_start_warning(slow_start)}<h2>Served models</h2>
<table><tr><th>model<th>version<th>task<th>engine<th>fields<th>description</tr>{rows}</table>""",
    )


def docs(snapshots: Mapping[str, Snapshot]) -> bytes:
    """How to call each model, with an example that works when pasted and a form to try it."""
    models = "".join(_model_docs(reference, snapshot) for reference, snapshot in snapshots.items())
    return _page(
        "Zaphod docs",
        f"""<h1>Docs</h1>
<p class=sub><a href=/>served models</a> · <a href=/openapi.json>OpenAPI</a></p>
{models}<script>{_static("docs.js")}</script>""",
    )


def describe(reference: str, snapshot: Snapshot) -> dict[str, object]:
    """One model as JSON: who answers, what it takes and gives."""
    return {
        "model": reference,
        "version": snapshot.stamp.version,
        "variant": snapshot.stamp.variant,
        "engine": snapshot.predictor.engine,
        "sha256": snapshot.stamp.bundle_sha256,
        "description": snapshot.bundle.manifest.description,
        "schema": msgspec.to_builtins(snapshot.schema),
        "example": {"rows": [snapshot.example]},
    }


def openapi(snapshots: Mapping[str, Snapshot]) -> dict[str, object]:
    """An OpenAPI 3.1 document of the prediction routes."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Zaphod", "version": __version__},
        "paths": {
            _predict_path(reference): {"post": _operation(reference, snapshot)}
            for reference, snapshot in snapshots.items()
        },
    }


def _slow_start_warning(missing: list[str]) -> str:
    if not missing:
        return ""
    return (
        f"<p class=warn>Ray was started without {html.escape(', '.join(missing))}: this server is many times slower "
        "than it can be. Start Ray with the environment in <code>configs/ray.env</code>.</p>"
    )


def _home_row(reference: str, snapshot: Snapshot) -> str:
    name = html.escape(reference)
    return (
        f"<tr><td><a href='{DOCS_PATH}#{name}'>{name}</a><td>{snapshot.stamp.version}<td>{snapshot.schema.output.task}"
        f"<td><span class=tag>{snapshot.predictor.engine}</span><td>{len(snapshot.schema.fields)}"
        f"<td class=sub>{html.escape(snapshot.bundle.manifest.description)}</tr>"
    )


def _model_docs(reference: str, snapshot: Snapshot) -> str:
    name, path = html.escape(reference), html.escape(_predict_path(reference))
    example = html.escape(json.dumps({"rows": [snapshot.example]}))
    fields = "".join(_field_row(field) for field in snapshot.schema.fields)
    return f"""<h2 id='{name}'>{name} <span class=tag>version {snapshot.stamp.version}</span></h2>
<p class=sub>{html.escape(snapshot.bundle.manifest.description)}</p>
<p><code>POST {path}</code></p>
<pre class=curl>curl -s http://$HOST{path} -H 'content-type: application/json' -d '{example}'</pre>
<form data-path='{path}'><textarea rows=6>{example}</textarea><p><button>Predict</button></p><pre hidden></pre></form>
<details><summary>{len(snapshot.schema.fields)} fields</summary>
<table><tr><th>field<th>type<th>required<th>seen in training<th>description</tr>{fields}</table></details>"""


def _field_row(field: Field) -> str:
    return (
        f"<tr><td><code>{html.escape(field.name)}</code><td>{field.dtype}<td>{'yes' if field.required else 'no'}"
        f"<td class=sub>{html.escape(_domain(field))}<td class=sub>{html.escape(field.description)}</tr>"
    )


def _domain(field: Field) -> str:
    if field.categories:
        shown = ", ".join(field.categories[:8])
        return shown + (" …" if len(field.categories) > 8 else "")
    if field.minimum is None and field.maximum is None:
        return ""
    return f"{field.minimum:g} to {field.maximum:g}" if field.minimum is not None and field.maximum is not None else ""


def _operation(reference: str, snapshot: Snapshot) -> dict[str, object]:
    row = _row_schema(snapshot.schema)
    many = {
        "type": "object",
        "required": ["rows"],
        "additionalProperties": False,
        "properties": {"rows": {"type": "array", "minItems": 1, "items": row}},
    }
    error = {"description": "refused, with the reason", "content": {"application/json": {"schema": _ERROR_SCHEMA}}}
    return {
        "operationId": f"predict_{reference}",
        "summary": f"Predict with {reference}",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"anyOf": [many, row]},
                    "example": {"rows": [snapshot.example]},
                }
            },
        },
        "responses": {
            "200": {
                "description": "predictions in the order of the rows",
                "content": {"application/json": {"schema": _answer_schema(snapshot.schema)}},
            },
            **dict.fromkeys(("400", "413", "422", "429"), error),
        },
    }


_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error", "message"],
    "properties": {"error": {"type": "string"}, "message": {"type": "string"}, "field": {"type": "string"}},
}


def _row_schema(schema: Schema) -> dict[str, object]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [field.name for field in schema.fields if field.required],
        "properties": {field.name: _field_schema(field) for field in schema.fields},
    }


def _field_schema(field: Field) -> dict[str, object]:
    names = {DType.FLOAT64: "number", DType.INT64: "integer", DType.BOOL: "boolean", DType.STRING: "string"}
    document: dict[str, object] = {"type": [names[field.dtype], "null"] if field.nullable else names[field.dtype]}
    if field.description:
        document["description"] = field.description
    if field.out_of_domain is OutOfDomain.REJECT:
        if field.categories:
            document["enum"] = [*field.categories, *([None] if field.nullable else [])]
        if field.minimum is not None:
            document["minimum"] = field.minimum
        if field.maximum is not None:
            document["maximum"] = field.maximum
    return document


def _answer_schema(schema: Schema) -> dict[str, object]:
    number = {"type": "number"}
    properties: dict[str, object] = {}
    match schema.output.task:
        case Task.CLASSIFICATION:
            properties["label"] = {"enum": list(schema.output.classes)}
            if schema.output.has_probabilities:
                properties["probabilities"] = {"type": "object", "additionalProperties": number}
        case Task.REGRESSION if len(schema.output.targets) > 1:
            properties["values"] = {"type": "object", "additionalProperties": number}
        case Task.REGRESSION:
            properties["value"] = number
        case Task.OUTLIER:
            properties = {"label": {"enum": [1, -1]}, "score": number}
        case Task.CLUSTERING:
            properties["label"] = {"type": "integer"}
    row = {"type": "object", "required": list(properties), "properties": properties}
    return {
        "type": "object",
        "required": ["model", "version", "variant", "predictions"],
        "properties": {
            "model": {"type": "string"},
            "version": {"type": "integer"},
            "variant": {"type": "string"},
            "predictions": {"type": "array", "items": row},
        },
    }


def _predict_path(reference: str) -> str:
    return f"/v1/models/{reference}:predict"


def _page(title: str, body: str) -> bytes:
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{html.escape(title)}</title>"
    return f"<!doctype html><html lang=en>{head}<style>{_static('style.css')}</style><body>{body}".encode()


@functools.cache
def _static(name: str) -> str:
    return (importlib.resources.files("deployments") / "static" / name).read_text(encoding="utf-8")
