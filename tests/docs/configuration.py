"""Writes docs/configuration.md from the settings' own docstrings: `python -m tests.docs.configuration`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pydantic
import pydantic_core
import yaml

from zaphod.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"

# Section title, module and class of each file of settings.
SECTIONS = (
    ("Online: `args` in configs/serve.yaml", "deployments.settings", "ServeArgs"),
    ("Batch: configs/batch.yaml", "batch.settings", "BatchSettings"),
    ("Streaming: configs/streaming.yaml", "streaming.settings", "StreamingSettings"),
    ("Validation: configs/validation.yaml", "zaphod.validation.settings", "ValidationSettings"),
    ("Experiments: configs/experiment.yaml", "zaphod.experiment.plan", "Plan"),
)

_HEAD = """# Configuration

Every setting, its default and what it does. A flag beats `ZAPHOD_<NAME>` in the environment, which beats the YAML file,
which beats the default. An unknown key is refused. This page is generated from the settings' docstrings.
"""


def render() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, module, name in SECTIONS:
        parts.append(f"\n## {title}\n\n| setting | type | default | |\n|---|---|---|---|\n")
        parts.extend(_row(*entry) for entry in settings_of(getattr(importlib.import_module(module), name)))
    parts.append("\n## Ray: configs/ray.env\n\nThe environment of every Ray node; `make` and cluster.yaml read it.\n\n")
    parts.append("```sh\n" + (ROOT / "configs/ray.env").read_text() + "```\n")
    return "".join(parts)


def settings_of(model: type[Settings], *, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Path, type, default and description of each setting, nested ones by their dotted path."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from settings_of(inner, prefix=f"{prefix}{name}.")
            continue
        schema = pydantic.TypeAdapter(model).json_schema()["properties"][name]
        default = "required" if field.is_required() else _shown(field.get_default(call_default_factory=True))
        yield prefix + name, _kind(schema), default, field.description or ""


def _kind(schema: dict[str, object]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])  # type: ignore[attr-defined]  # JSON schema
    if "enum" in schema:
        return ", ".join(str(value) for value in schema["enum"])  # type: ignore[attr-defined]  # as above
    kind = str(schema.get("type", "mapping"))
    return f"list of {_kind(schema['items'])}" if kind == "array" and "items" in schema else kind  # type: ignore[arg-type]


def _shown(value: object) -> str:
    plain = pydantic_core.to_jsonable_python(value)
    return "`" + yaml.safe_dump(plain, default_flow_style=True).removesuffix("...\n").strip() + "`"


def _row(path: str, kind: str, default: str, description: str) -> str:
    text = " ".join(description.split()).replace("|", "\\|")
    return f"| `{path}` | {kind} | {default} | {text} |\n"


if __name__ == "__main__":
    PAGE.write_text(render())
