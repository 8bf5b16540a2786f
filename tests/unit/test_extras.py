"""What is said of packages that may be missing works from the project's folder, the only place it is to be had from."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

from streaming.queues.factory import open_queue
from streaming.settings import QueueSettings
from tests.conftest import ROOT
from zaphod.errors import ConfigError, PackagingError
from zaphod.sources import load_source

EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def said() -> list[str]:
    """Every `pip install` of code and pages that names an extra, with what stands before it."""
    sources = [path for name in ("zaphod", "batch", "streaming", "deployments") for path in (ROOT / name).rglob("*.py")]
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(path.read_text() for path in (*sources, *pages))
    return re.findall(r"pip install [^`]*\[[^`]*\]", text)


def test_nobody_is_sent_to_a_registry() -> None:
    """The name there is anybody's: only this folder has the extras."""
    assert said()
    for command in said():
        found = re.fullmatch(r"pip install -e '\.\[([^]]*)\]", command)
        assert found is not None, command
        assert "{" in found[1] or set(found[1].split(",")) <= EXTRAS


def test_the_refusals_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of MLflow and of Kafka."""
    monkeypatch.setitem(sys.modules, "mlflow.sklearn", None)
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "streaming.queues.kafka", raising=False)

    with pytest.raises(PackagingError, match=re.escape("pip install -e '.[mlflow]'")):
        load_source("models:/m/1", trust_pickle=True)
    with pytest.raises(ConfigError, match=re.escape("pip install -e '.[kafka]'")):
        open_queue(QueueSettings(kind="kafka", url="localhost:9092"))
