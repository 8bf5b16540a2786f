"""The `zaphod` command in this process: what a shell would see, without the seconds of a new interpreter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from zaphod import cli


@dataclass(frozen=True)
class Done:
    """What a shell sees of a command."""

    returncode: int
    stdout: str
    stderr: str


class Zaphod(Protocol):
    """Runs `zaphod ARGUMENTS` in a folder; without one, where the test is."""

    def __call__(self, *arguments: str, cwd: Path | None = None) -> Done: ...


def make(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Zaphod:
    """On a terminal wide enough for every table."""
    monkeypatch.setenv("COLUMNS", "200")

    def zaphod(*arguments: str, cwd: Path | None = None) -> Done:
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        code = ended.value.code
        captured = capsys.readouterr()
        return Done(code if isinstance(code, int) else int(code is not None), captured.out, captured.err)

    return zaphod
