"""The pieces of a self-contained page. Text is escaped here; what is called `body`, `rows` or `svg` is HTML already."""

from __future__ import annotations

import html
import importlib.resources


def page(title: str, body: str) -> str:
    """The whole document, with its style."""
    style = importlib.resources.files("zaphod.reporting").joinpath("static/report.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def tile(title: str, value: str, *lines: str) -> str:
    """One large figure with small lines below it; empty ones are left out."""
    soft = "".join(f'<div class="soft">{text(line)}</div>' for line in lines if line)
    return f'<div class="tile"><div class="soft">{text(title)}</div><div class="figure">{text(value)}</div>{soft}</div>'


def badge(state: str, label: str) -> str:
    """state: passed, failed or skipped, which gives the colour."""
    return f'<span class="badge {state}">{text(label)}</span>'


def figure(title: str, caption: str, svg: str) -> str:
    """A picture on a card."""
    head = f"<h3>{text(title)}</h3>" if title else ""
    return f'<div class="card">{head}<p class="soft">{text(caption)}</p>{svg}</div>'


def table(head: tuple[str, ...], rows: str, *, below: str = "") -> str:
    """A table on a card."""
    cells = "".join(f"<th>{text(name)}</th>" for name in head)
    return f'<div class="card wide"><table><thead><tr>{cells}</tr></thead><tbody>{rows}</tbody></table>{below}</div>'


def p_text(value: float) -> str:
    """A p-value with the digits it deserves."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def text(plain: str) -> str:
    """Escaped."""
    return html.escape(plain)


def code(plain: str) -> str:
    """Escaped, with `names` in backticks set as code."""
    parts = html.escape(plain).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
