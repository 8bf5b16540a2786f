"""cluster.yaml is one that Ray's cluster launcher accepts, and what the README submits to it runs on every node."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from streaming.settings import StreamingSettings
from tests.conftest import ROOT
from zaphod.settings import load_settings

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def test_ray_accepts_it() -> None:
    """The file passes Ray's own schema."""
    jsonschema.validate(CONFIG, SCHEMA)


def test_the_schema_would_refuse_a_mistake() -> None:
    """The check is one that can fail."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**CONFIG, "max_wokers": 4}, SCHEMA)


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_start_command_reads_the_environment(key: str) -> None:
    """No node starts Ray without configs/ray.env."""
    starts = [command for command in CONFIG[key] if "ray start" in command]

    assert len(starts) == 1
    assert ". configs/ray.env" in starts[0]
    # The entrypoint of a submitted job is `python -m …`.
    assert "PATH=/home/ubuntu/zaphod/.venv/bin:$PATH" in starts[0]


def submitted() -> list[list[str]]:
    """What the README has Ray run, as words."""
    block = (ROOT / "README.md").read_text().split("## On a cluster")[1].split("```")[1]
    lines = block.replace("\\\n", "").replace("$shared", "s3://my-bucket").splitlines()
    return [shlex.split(line.split(" -- ", 1)[1]) for line in lines if line.startswith("ray job submit")]


def test_nothing_that_the_readme_submits_stays_on_one_node() -> None:
    """Registry, input, output and prediction log are in the bucket, and the queue is one for all nodes."""
    score, stream = submitted()
    assert score[:5] == ["python", "-m", "batch", "--config", "configs/batch.yaml"]
    assert score[5::2] == ["--registry", "--input", "--output", "--monitoring-uri"]
    assert all(value.startswith("s3://my-bucket/") for value in score[6::2])
    assert (stream[0], stream[-3:]) == ("env", ["python", "-m", "streaming"])
    environ = dict(word.split("=", 1) for word in stream[1:-3])

    settings = load_settings(StreamingSettings, path=ROOT / "configs/streaming.yaml", environ=environ)

    assert (settings.registry, settings.monitoring.uri) == ("s3://my-bucket/registry", "s3://my-bucket/monitoring")
    assert settings.queue.kind == "redis"


def test_node_types_hang_together() -> None:
    """The head's type exists, and workers fit under the cluster's limit."""
    types = CONFIG["available_node_types"]

    assert CONFIG["head_node_type"] in types
    assert types["worker"]["max_workers"] <= CONFIG["max_workers"]
