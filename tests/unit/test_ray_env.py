"""configs/ray.env is read as a shell reads it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zaphod.errors import ConfigError
from zaphod.settings import load_ray_env


def test_file_means_the_same_to_a_shell() -> None:
    """`set -a; . configs/ray.env` sets what the launcher sets."""
    script = f"set -a; . {ROOT / 'configs/ray.env'}; env -0"
    done = subprocess.run(["sh", "-c", script], env={"PATH": os.defpath}, capture_output=True, text=True, check=True)

    by_shell = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)

    loaded = load_ray_env(ROOT / "configs/ray.env")
    assert loaded
    assert loaded.items() <= by_shell.items()


@pytest.mark.parametrize("line", ["NAME", "1NAME=x", "NAME=two words"])
def test_other_lines_are_refused(tmp_path: Path, line: str) -> None:
    """A line that a shell would take for something else is an error that names it."""
    (tmp_path / "ray.env").write_text(f"# comment\n{line}\n")

    with pytest.raises(ConfigError, match=r"ray\.env:2"):
        load_ray_env(tmp_path / "ray.env")
