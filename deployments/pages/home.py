"""The start page: which models are served, by which version and engine."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from deployments.pages.docs import DOCS_PATH
from deployments.pages.frame import page
from zaphod.schema import Schema
from zaphod.served import Snapshot


def home(snapshots: Mapping[str, Snapshot], *, slow_start: Sequence[str], root: str) -> bytes:
    """slow_start: environment settings whose lack makes the server slow. root: the application's prefix."""
    docs = html.escape(root) + DOCS_PATH
    cards = "".join(_card(reference, snapshot, docs=docs) for reference, snapshot in snapshots.items())
    count = f"{len(snapshots)} model{'' if len(snapshots) == 1 else 's'}"
    return page(
        "Zaphod",
        f"<h1>Served models</h1><p class=lead>{count}, ready. Every model answers in plain JSON, Arrow, the Open "
        f"Inference Protocol and MLflow's: the <a href='{docs}'>docs</a> have examples to paste.</p>"
        f"{_slow_start_warning(slow_start)}<div class=cards>{cards}</div>",
        here="/",
        root=root,
    )


def _slow_start_warning(missing: Sequence[str]) -> str:
    if not missing:
        return ""
    return (
        f"<p class=warn>Ray was started without {html.escape(', '.join(missing))}: this server is many times slower "
        "than it can be. Start Ray with the environment in <code>configs/ray.env</code>.</p>"
    )


def _card(reference: str, snapshot: Snapshot, *, docs: str) -> str:
    stamp, name = snapshot.stamp, html.escape(reference)
    description = html.escape(snapshot.bundle.manifest.description)
    facts = (
        ("predicts", html.escape(_predicts(snapshot.schema))),
        ("fields", str(len(snapshot.schema.fields))),
        ("engine", html.escape(snapshot.predictor.engine)),
        ("bundle", f"<code>{stamp.bundle_sha256[:12]}</code>"),
    )
    rows = "".join(f"<div><dt>{term}</dt><dd>{value}</dd></div>" for term, value in facts)
    return (
        f"<a class=card href='{docs}#{name}'><h2>{name}<span class=dot title=ready></span></h2>"
        f"<p class=tags><span class=tag>version {stamp.version}</span>"
        f"<span class=tag>{html.escape(stamp.variant)}</span></p>"
        f"<p class=sub>{description}</p><dl>{rows}</dl></a>"
    )


def _predicts(schema: Schema) -> str:
    output = schema.output
    if output.classes:
        shown = ", ".join(str(label) for label in output.classes[:4])
        return f"{output.task}: {shown}{' …' if len(output.classes) > 4 else ''}"
    if output.target_classes:
        return f"{output.task} of {', '.join(output.targets)}"
    return str(output.task)
