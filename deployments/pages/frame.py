"""The frame of every page."""

from __future__ import annotations

import functools
import html
import importlib.resources
from typing import Final

from zaphod import __version__

# Style and script stand in the page; a page can talk to its own server only, and nobody can put it in a frame.
HTML_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        b"img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
)
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32' "
    "rx='8' fill='%230b6bcb'/%3E%3Cpath d='M9 9h14L11 23h12' fill='none' stroke='white' stroke-width='3.4' "
    "stroke-linecap='round' stroke-linejoin='round'/%3E%3C/svg%3E"
)


def page(title: str, body: str, *, here: str, root: str, script: str = "") -> bytes:
    """here: the path of this page, marked in the navigation. root: the application's prefix. body: HTML."""
    root = html.escape(root)
    links = "".join(
        f'<a href="{root}{path}"{" aria-current=page" if path == here else ""}>{name}</a>'
        for path, name in (("/", "Models"), ("/docs", "Docs"), ("/openapi.json", "OpenAPI"), ("/metrics", "Metrics"))
    )
    code = f"<script>{static(script)}</script>" if script else ""
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f'<title>{html.escape(title)}</title><link rel=icon href="{_ICON}"><style>{static("style.css")}</style></head>'
        f'<body><header class=top><a class=brand href="{root}/"><img src="{_ICON}" alt="" width=26 height=26>Zaphod'
        f"<small>{__version__}</small></a><nav>{links}</nav></header><main>{body}</main>{code}</body></html>"
    ).encode()


@functools.cache
def static(name: str) -> str:
    """A file that is put into the pages."""
    return (importlib.resources.files("deployments") / "static" / name).read_text(encoding="utf-8")
