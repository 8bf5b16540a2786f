"""Settings: frozen pydantic models, unknown keys refused.

A flag beats `ZAPHOD_*` in the environment, which beats YAML, which beats the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import pydantic
import yaml

from zaphod.errors import ConfigError

SettingsT = TypeVar("SettingsT", bound="Settings")

_ENV_PREFIX = "ZAPHOD_"


class Settings(pydantic.BaseModel):
    """Base of every arm's settings."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def load_settings(
    model: type[SettingsT],
    *,
    path: Path | None = None,
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> SettingsT:
    """Merges the sources once and validates the result. Flags that are None were not given; one that is a mapping
    changes what it names of its group and no more.

    Raises: ConfigError naming the key, what was expected and where it came from.
    """
    values: dict[str, object] = dict(_read_yaml(path)) if path is not None else {}
    for name in model.model_fields:
        text = (environ or {}).get(_ENV_PREFIX + name.upper())
        if text is not None:
            values[name] = yaml.safe_load(text)
    for name, value in (flags or {}).items():
        before = values.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            values[name] = {**before, **value}
        elif value is not None:
            values[name] = value
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(_explain(error, source=str(path or "the flags"))) from error


def load_ray_env(path: Path) -> dict[str, str]:
    """The lines `NAME=value` or `NAME="several words"` of configs/ray.env, as a shell reads them; `#` starts a comment.

    What the caller's environment sets already wins.

    Raises: ConfigError for any other line, or when there is no such file.
    """
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigError(f"Cannot read Ray's environment {path}: {error.strerror}. Give an existing file.") from error
    loaded: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        stripped = line.split("#", 1)[0].strip()
        if not stripped:
            continue
        name, separator, value = stripped.partition("=")
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        elif " " in value:
            separator = ""  # a shell would take the second word for a command
        if not separator or not name.isidentifier():
            raise ConfigError(f"Expected NAME=value, got something else - at {path}:{number}")
        loaded[name] = os.environ.get(name, value)
    return loaded


def _read_yaml(path: Path) -> Mapping[str, object]:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"Cannot read the settings {path}: {error.strerror}. Give an existing file.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"Expected YAML, got something else - in {path}: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"Expected a mapping of settings, got {type(values).__name__} - in {path}")
    return values


def _explain(error: pydantic.ValidationError, *, source: str) -> str:
    lines = [f"{item['msg']} - at `{'.'.join(str(part) for part in item['loc'])}`" for item in error.errors()]
    return "; ".join(lines) + f" (in {source})"
