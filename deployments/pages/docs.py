"""How to call each model: in every protocol an example that works when pasted, and a form to try it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Final

from deployments.pages.examples import Example, curl, examples
from deployments.pages.frame import page
from deployments.pages.openapi import server_paths
from deployments.pages.shown import Shown
from zaphod.schema import Field, OutOfDomain, Schema
from zaphod.served import Snapshot

DOCS_PATH: Final = "/docs"


def docs(shown: Shown) -> bytes:
    """The page."""
    contents = "".join(f"<a href='#{html.escape(name)}'>{html.escape(name)}</a>" for name in shown.snapshots)
    models = "".join(
        _model(number, reference, snapshot, needs_key=shown.needs_key)
        for number, (reference, snapshot) in enumerate(shown.snapshots.items())
    )
    routes = _routes(server_paths(shown))
    key = (
        "<p class=note>This server wants an API key: <code>Authorization: Bearer &lt;key&gt;</code> or "
        "<code>x-api-key</code>. The examples read it from <code>$ZAPHOD_KEY</code>.</p>"
        if shown.needs_key
        else ""
    )
    return page(
        "Zaphod docs",
        "<h1>Docs</h1><p class=lead>One decode behind all protocols: the same rows get the same answer in each. A "
        "path takes <code>name</code>, <code>name@alias</code> or <code>name@version</code>; every answer says which "
        "model, version and variant gave it, in its body and in <code>x-zaphod-*</code> headers.</p>"
        f"{key}<nav class=contents>{contents}<a href='#server'>the server</a></nav>{models}{routes}",
        here=DOCS_PATH,
        root=shown.root,
        script="docs.js",
    )


def _model(number: int, reference: str, snapshot: Snapshot, *, needs_key: bool) -> str:
    name, stamp = html.escape(reference), snapshot.stamp
    ways = examples(reference, snapshot)
    tabs = "".join(
        f"<button role=tab type=button aria-selected={'true' if i == 0 else 'false'} aria-controls='m{number}-{i}'>"
        f"{html.escape(way.title)}</button>"
        for i, way in enumerate(ways)
    )
    panels = "".join(
        f"<div role=tabpanel id='m{number}-{i}'{'' if i == 0 else ' hidden'}>{_way(way, needs_key=needs_key)}</div>"
        for i, way in enumerate(ways)
    )
    return (
        f"<section class=model id='{name}'><h2>{name}<span class=tag>version {stamp.version}</span>"
        f"<span class=tag>{html.escape(stamp.variant)}</span></h2>"
        f"<p class=sub>{html.escape(snapshot.bundle.manifest.description)}</p>"
        f"<div class=tabs role=tablist aria-label='protocols of {name}'>{tabs}</div>"
        f"{panels}{_fields(snapshot.schema)}</section>"
    )


def _routes(paths: Mapping[str, Mapping[str, object]]) -> str:
    rows = "".join(
        f"<tr><td><b>{method.upper()}</b> <code>{html.escape(path)}</code><td class=sub>"
        f"{html.escape(operation['summary'])}</tr>"
        for path, operations in paths.items()
        for method, operation in operations.items()
        if isinstance(operation, dict)
    )
    return (
        "<section class=model id='server'><h2>The server</h2><div class=wide><table><thead><tr><th>route<th></thead>"
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _way(way: Example, *, needs_key: bool) -> str:
    path, body = html.escape(way.path), html.escape(way.body)
    line = f"<p class=line><b>POST</b> <code>{path}</code></p>"
    if way.code:
        return f"{line}<div class=code><pre class=paste data-kind=python>{html.escape(way.code)}</pre></div>"
    command = html.escape(curl(way, needs_key=needs_key))
    return (
        f"{line}<div class=code><pre class=paste data-kind=curl>{command}</pre></div>"
        f"<form data-path='{path}'><label>Try it<textarea rows=3 spellcheck=false>{body}</textarea></label>"
        "<p><button class=go>Send</button> <span class=status></span></p><pre class=answer hidden></pre></form>"
    )


def _fields(schema: Schema) -> str:
    rows = "".join(_field(field) for field in schema.fields)
    return (
        f"<details open><summary>{len(schema.fields)} fields</summary><div class=wide><table><thead><tr><th>field"
        f"<th>type<th>required<th>seen in training<th>description</thead><tbody>{rows}</tbody></table></div></details>"
    )


def _field(field: Field) -> str:
    needed = "yes" if field.required else "or null" if field.nullable else f"or {html.escape(str(field.default))}"
    only = " <span class=tag>only these</span>" if field.out_of_domain is OutOfDomain.REJECT else ""
    return (
        f"<tr><td><code>{html.escape(field.name)}</code><td>{field.dtype}<td>{needed}"
        f"<td class=sub>{html.escape(_domain(field))}{only}<td class=sub>{html.escape(field.description)}</tr>"
    )


def _domain(field: Field) -> str:
    if field.categories:
        shown = ", ".join(field.categories[:8])
        return shown + (" …" if len(field.categories) > 8 else "")
    if field.minimum is None or field.maximum is None:
        return ""
    return f"{field.minimum:g} to {field.maximum:g}"
