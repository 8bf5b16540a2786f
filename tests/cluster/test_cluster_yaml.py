"""cluster.yaml is one that Ray's cluster launcher accepts, with our environment in its start commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml

from tests.conftest import ROOT

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


def test_node_types_hang_together() -> None:
    """The head's type exists, and workers fit under the cluster's limit."""
    types = CONFIG["available_node_types"]

    assert CONFIG["head_node_type"] in types
    assert types["worker"]["max_workers"] <= CONFIG["max_workers"]
