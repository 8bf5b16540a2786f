"""configs/kuberay/rayjob.yaml runs a command that exists, on the Ray that is pinned."""

from __future__ import annotations

import importlib.metadata
import shlex
from typing import Any

import yaml

from batch.settings import BatchSettings
from tests.conftest import ROOT
from zaphod.settings import load_ray_env

JOB: dict[str, Any] = yaml.safe_load((ROOT / "configs/kuberay/rayjob.yaml").read_text())["spec"]


def test_the_entrypoint_is_our_command() -> None:
    """Each flag is a setting, and the file that it names is there."""
    words = shlex.split(JOB["entrypoint"])
    flags = {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}

    assert words[:3] == ["python", "-m", "batch"]
    assert flags - {"config"} <= set(BatchSettings.model_fields)
    assert (ROOT / words[words.index("--config") + 1]).exists()


def test_every_pod_has_rays_environment() -> None:
    """What is said of Ray's environment is what configs/ray.env says, on the head and on the workers."""
    cluster = JOB["rayClusterSpec"]
    assert cluster["rayVersion"] == importlib.metadata.version("ray")

    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        (container,) = group["template"]["spec"]["containers"]
        environ = {entry["name"]: entry["value"] for entry in container["env"]}
        assert environ.pop("ZAPHOD_HOME") == container["workingDir"]
        assert environ
        assert environ.items() <= load_ray_env(ROOT / "configs/ray.env").items()
