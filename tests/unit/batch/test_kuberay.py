"""What a cluster of several machines needs: configs/kuberay/rayjob.yaml, and folders that all of them see."""

from __future__ import annotations

import importlib.metadata
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from batch import __main__ as command
from batch.cluster import own_disks
from batch.settings import BatchSettings
from tests.conftest import ROOT
from zaphod.location import on_own_disk
from zaphod.monitoring.settings import LogSettings
from zaphod.settings import load_ray_env, load_settings

JOB: dict[str, Any] = yaml.safe_load((ROOT / "configs/kuberay/rayjob.yaml").read_text())["spec"]


def test_the_entrypoint_is_our_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each flag is one that the command takes, and with them nothing is left on a disk of the node's own."""
    words = shlex.split(JOB["entrypoint"])
    assert words[:3] == ["python", "-m", "batch"]
    monkeypatch.chdir(ROOT)

    settings = settings_of(monkeypatch, words[3:])

    assert own_disks(settings, num_machines=3) is None


def settings_of(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> BatchSettings:
    """What the command makes of its flags and the file that they name."""
    asked: list[BatchSettings] = []

    def note(*, config: Path, dry_run: bool, flags: dict[str, object], leave: object) -> int:
        asked.append(load_settings(BatchSettings, path=config, flags=flags))
        return 0

    monkeypatch.setattr(command, "run", note)
    monkeypatch.setattr(command, "_leave", lambda code: None)
    app = typer.Typer()
    app.command()(command._command())
    app(words, standalone_mode=False)
    return asked[0]


def test_a_flag_changes_one_setting_of_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others stay as the file has them."""
    monkeypatch.chdir(ROOT)

    settings = settings_of(monkeypatch, ["--monitoring-uri", "s3://b/log", "--monitoring-flush-s", "5"])

    assert settings.monitoring == LogSettings(uri="s3://b/log", flush_s=5.0, features=False)


def test_a_disk_of_ones_own_is_warned_of() -> None:
    """On several machines; the setting and the folder are named."""
    settings = BatchSettings(model="m", input="/in", output="s3://b/out", registry="gs://b/r")
    settings = settings.model_copy(update={"monitoring": LogSettings(uri="/srv/var/monitoring")})

    warning = own_disks(settings, num_machines=2)

    assert warning is not None
    assert "input (/in), monitoring.uri (/srv/var/monitoring)" in warning
    assert own_disks(settings, num_machines=1) is None


def test_a_shared_file_system_is_known_by_its_mount(tmp_path: Path) -> None:
    """The innermost mount counts."""
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda1 / ext4 rw 0 0\nhost:/x /mnt nfs4 rw 0 0\n/dev/sdb /mnt/local xfs rw 0 0\n")

    own = {path: on_own_disk(path, mounts=mounts) for path in ("/srv", "/mnt/a/b", "/mnt/local/a", "s3://b/c")}

    assert own == {"/srv": True, "/mnt/a/b": False, "/mnt/local/a": True, "s3://b/c": False}


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
