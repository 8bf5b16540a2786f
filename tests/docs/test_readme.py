"""Every command of the README, run as a new user would, in a fresh copy of the project."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT, wait_for
from zaphod import machine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(500)]

_BLOCK = re.compile(r"```(console|python)\n(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"\d[\d,.]*")
_WORD_OF_ITS_OWN = re.compile(r"[0-9a-f]{12,}|\S*(?=/var/)")


@dataclass(frozen=True)
class Command:
    """One line to type, or a Python program, and the lines that the README shows under it."""

    text: str
    shown: tuple[str, ...]
    is_python: bool = False


def commands() -> Iterator[Command]:
    """What the README runs, in its order."""
    for kind, body in _BLOCK.findall((ROOT / "README.md").read_text()):
        if kind == "python":
            yield Command(body, (), is_python=True)
            continue
        text, shown = "", []
        for line in body.splitlines():
            if line.startswith("$ "):
                if text and not text.startswith("set "):
                    yield Command(text, tuple(shown))
                    text, shown = "", []
                # What sets the shell up goes with the command after it.
                text = f"{text}; {line[2:]}" if text else line[2:]
            else:
                shown.append(line)
        yield Command(text, tuple(shown))


@dataclass
class Home:
    """A copy of the project on ports of its own."""

    folder: Path
    http_port: int
    dashboard_port: int

    def adapt(self, text: str) -> str:
        return text.replace(":8000", f":{self.http_port}").replace(":8265", f":{self.dashboard_port}")

    def run(self, command: Command) -> str:
        """Its output. Raises: AssertionError when it fails."""
        argv = (
            [".venv/bin/python", "-c", command.text] if command.is_python else ["bash", "-c", self.adapt(command.text)]
        )
        done = subprocess.run(argv, cwd=self.folder, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """What git would check out, with the environment that is there."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout
    for name in files.decode().split("\0"):
        if name and (ROOT / name).exists():
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
            os.utime(target, (0, 0))  # older than the environment: nothing is installed again
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    made = Home(tmp_path, machine.free_port(), machine.free_port())
    serve = tmp_path / "configs/serve.yaml"
    serve.write_text(serve.read_text().replace("port: 8000", f"port: {made.http_port}"))
    makefile = tmp_path / "Makefile"
    makefile.write_text(
        makefile.read_text().replace("deployments up", f"deployments up --dashboard-port {made.dashboard_port}")
    )
    return made


def masked(text: str) -> str:
    """A line without what differs between two runs."""
    return _NUMBER.sub("N", _WORD_OF_ITS_OWN.sub("", text)).strip()


def check_shown(command: Command, output: str) -> None:
    """Each line that the README shows is among what was printed, but for numbers; predictions are the very same."""
    printed = {masked(line) for line in output.splitlines()}
    for line in command.shown:
        if line.startswith('{"model"'):
            (shown,), (given,) = (json.loads(text)["predictions"] for text in (line, output))
            assert given["label"] == shown["label"]
            assert given["probabilities"] == pytest.approx(shown["probabilities"], rel=1e-9)
        elif not line.startswith("{"):
            assert masked(line.replace("…", "")) in printed, output


def test_the_readme_runs(home: Home) -> None:
    """`make serve`, then every other command beside it, then `make stop`: each prints what the README shows."""
    first, *others = commands()
    assert first.text == "make serve"
    log = home.folder / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(["make", "serve"], cwd=home.folder, stdout=output, stderr=output)
    try:
        wait_for(
            lambda: server.poll() is not None or "Ctrl-C stops" in log.read_text(errors="replace"),
            timeout_s=150, what="ready",
        )  # fmt: skip
        assert server.poll() is None, log.read_text()
        assert "ready after" in log.read_text()
        for command in others:
            check_shown(command, home.run(command))
    finally:
        stopped = subprocess.run(["make", "stop"], cwd=home.folder, capture_output=True, text=True, timeout=100)
        server.wait(timeout=30)
    assert stopped.returncode == 0, stopped.stderr
    assert machine.marked_processes(home.folder / "var/run") == []
