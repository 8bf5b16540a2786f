"""What a person sees: the start page, the docs and the OpenAPI document, filled from each model's schema.

The pages load nothing from elsewhere: they work on a machine without a way out.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping

import msgspec

from zaphod import __version__
from zaphod.schema import DType, Field, OutOfDomain, Schema, Task
from zaphod.served import Snapshot

DOCS_PATH = "/docs"

_STYLE = """
:root{--ink:#16202c;--soft:#5a6b7d;--line:#dde3ea;--accent:#0b6bcb;--paper:#fff;--panel:#f6f8fa}
@media (prefers-color-scheme:dark){:root{--ink:#e6edf3;--soft:#9aa8b6;--line:#2c3642;--accent:#6cb6ff;--paper:#0f151c;--panel:#161e27}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{margin:0 0 .25rem}h2{margin:2.5rem 0 .5rem}p.sub,td.sub{color:var(--soft)}a{color:var(--accent)}
table{border-collapse:collapse;width:100%;font-size:.93rem}th,td{text-align:left;padding:.4rem .6rem;border-bottom:1px solid var(--line)}
th{font-weight:600;color:var(--soft)}pre,textarea{background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:.8rem;overflow:auto;
font:13px/1.45 ui-monospace,monospace;color:inherit;white-space:pre-wrap;width:100%;box-sizing:border-box}code{font-family:ui-monospace,monospace}
button{background:var(--accent);color:#fff;border:0;border-radius:6px;padding:.5rem 1.1rem;font:inherit;cursor:pointer}
.warn{border-left:4px solid #d97706;padding:.5rem 1rem;background:var(--panel)}
.tag{background:var(--panel);border:1px solid var(--line);border-radius:99px;padding:.1rem .6rem;font-size:.85rem}
"""

_TRY = """
document.querySelectorAll("form").forEach(form=>form.addEventListener("submit",async event=>{event.preventDefault();
const out=form.querySelector("pre");out.hidden=false;out.textContent="…";
try{const answer=await fetch(form.dataset.path,{method:"POST",headers:{"content-type":"application/json"},body:form.querySelector("textarea").value});
out.textContent=answer.status+" "+answer.statusText+"\\n"+JSON.stringify(await answer.json(),null,2)}catch(error){out.textContent=error}}))
"""


def home(snapshots: Mapping[str, Snapshot], *, slow_start: list[str]) -> bytes:
    """Which models are served, by which version and engine."""
    warning = (
        f'<p class="warn">Ray was started without {html.escape(", ".join(slow_start))}: this server is many times slower '
        "than it can be. Start Ray with the environment in <code>configs/ray.env</code>.</p>"
        if slow_start
        else ""
    )
    rows = "".join(
        f"<tr><td><a href='{DOCS_PATH}#{html.escape(reference)}'>{html.escape(reference)}</a></td>"
        f"<td>{snapshot.stamp.version}</td><td>{html.escape(snapshot.schema.output.task)}</td>"
        f"<td><span class=tag>{snapshot.predictor.engine}</span></td><td>{len(snapshot.schema.fields)}</td>"
        f"<td class=sub>{html.escape(snapshot.bundle.manifest.description)}</td></tr>"
        for reference, snapshot in snapshots.items()
    )
    body = (
        f"<h1>Zaphod</h1><p class=sub>version {__version__} · <a href={DOCS_PATH}>docs</a> · "
        f"<a href=/openapi.json>OpenAPI</a></p>{warning}<h2>Served models</h2><table><tr><th>model<th>version<th>task"
        f"<th>engine<th>fields<th>description</tr>{rows}</table>"
    )
    return _page("Zaphod", body)


def docs(snapshots: Mapping[str, Snapshot]) -> bytes:
    """How to call each model, with an example that works when pasted and a form to try it."""
    return _page(
        "Zaphod docs",
        "<h1>Docs</h1><p class=sub><a href=/>served models</a> · <a href=/openapi.json>OpenAPI</a></p>"
        + "".join(_model_docs(reference, snapshot) for reference, snapshot in snapshots.items())
        + f"<script>{_TRY}</script>",
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


def _model_docs(reference: str, snapshot: Snapshot) -> str:
    path, example = _predict_path(reference), json.dumps({"rows": [snapshot.example]})
    fields = "".join(
        f"<tr><td><code>{html.escape(field.name)}</code><td>{field.dtype}<td>{'yes' if field.required else 'no'}"
        f"<td class=sub>{html.escape(_domain(field))}<td class=sub>{html.escape(field.description)}</tr>"
        for field in snapshot.schema.fields
    )
    curl = f"curl -s http://$HOST{path} -H 'content-type: application/json' -d '{example}'"
    return (
        f"<h2 id='{html.escape(reference)}'>{html.escape(reference)} <span class=tag>version {snapshot.stamp.version}</span></h2>"
        f"<p class=sub>{html.escape(snapshot.bundle.manifest.description)}</p><p><code>POST {html.escape(path)}</code></p>"
        f"<pre class=curl>{html.escape(curl)}</pre><form data-path='{html.escape(path)}'><textarea rows=6>{html.escape(example)}"
        f"</textarea><p><button>Predict</button></p><pre hidden></pre></form><details><summary>{len(snapshot.schema.fields)} fields"
        f"</summary><table><tr><th>field<th>type<th>required<th>seen in training<th>description</tr>{fields}</table></details>"
        "<script>document.querySelectorAll('.curl').forEach(p=>p.textContent=p.textContent.replace('$HOST',location.host))</script>"
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
            **{status: error for status in ("400", "413", "422", "429")},
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
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><body>{body}"
    ).encode()
