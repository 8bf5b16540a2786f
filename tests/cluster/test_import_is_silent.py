"""Importing does nothing."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

PACKAGES = ("zaphod", "deployments", "batch", "streaming")


def test_import_is_silent() -> None:
    """Importing every module starts no Ray, prints nothing and writes no file."""
    modules = [
        str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__main__.py"
    ]
    code = f"import {', '.join(modules)}\nimport ray; assert not ray.is_initialized()"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=100)

    assert (done.returncode, done.stdout) == (0, ""), done.stderr
