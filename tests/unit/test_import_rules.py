"""Imports run one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARMS = ("deployments", "batch", "streaming")
# What the model core may never need: a server process imports Ray, the core must not.
FORBIDDEN_IN_CORE = {*ARMS, "ray", "fastapi", "starlette", "uvicorn", "redis", "confluent_kafka"}


def imported(path: Path) -> set[str]:
    """The top-level packages a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "zaphod").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_core_imports_no_arm_and_no_server(path: Path) -> None:
    """The model core knows neither the arms nor what they run on."""
    assert not imported(path) & FORBIDDEN_IN_CORE


@pytest.mark.parametrize("arm", ARMS)
def test_arms_do_not_import_each_other(arm: str) -> None:
    """No arm imports another arm."""
    others = set(ARMS) - {arm}

    for path in (ROOT / arm).rglob("*.py"):
        assert not imported(path) & others, path
