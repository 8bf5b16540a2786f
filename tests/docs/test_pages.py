"""What the pages promise about themselves."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)(?:#[^)]*)?\)")
_MAKE = re.compile(r"^\$? ?make ([a-z]+)", re.MULTILINE)


def test_the_readme_is_short_and_runs_early() -> None:
    """At most 120 lines, and the first block to run begins by line 25."""
    lines = (ROOT / "README.md").read_text().splitlines()

    assert len(lines) <= 120
    assert next(number for number, line in enumerate(lines, start=1) if line.startswith("```console")) <= 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Each relative link names a file that exists."""
    missing = [target for target in _LINK.findall(page.read_text()) if not (page.parent / target).exists()]

    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    """Each `make` command that a page shows is a target."""
    listed = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"make ([a-z]+)", listed))

    assert targets >= {"serve", "batch", "stream", "stop", "test", "check", "fix", "bench"}
    assert set(_MAKE.findall(page.read_text())) <= targets
