"""A folder as storage: what cannot be written leaves nothing behind, and a file that is there was written once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from zaphod.storage import LocalStorage

FULL = """
import resource, signal, sys
from pathlib import Path
from zaphod.storage import LocalStorage

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
storage = LocalStorage(Path(sys.argv[1]))
for write in (storage.create, storage.replace):
    try:
        write("a/b.parquet", b"x" * 3_000_000)
    except OSError:
        print("told")
"""


def left(folder: Path) -> list[str]:
    """Every file below it, hidden ones too."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_what_finds_no_room_leaves_none_taken(tmp_path: Path) -> None:
    """Whoever tries again and again does not fill the disk by that."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)

    assert done.stdout.split() == ["told", "told"]
    assert left(tmp_path) == []


def test_what_cannot_be_put_in_its_place_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that fails when it is to keep, and where a folder has the name."""

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    storage = LocalStorage(tmp_path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="irectory"):
        storage.replace("taken", b"x")
    monkeypatch.setattr(os, "fsync", fail)
    for write in (storage.create, storage.replace):
        with pytest.raises(OSError, match="input/output"):
            write("file", b"x")

    assert left(tmp_path) == []


def test_a_file_whose_link_was_made_counts_as_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system may make it, lose the answer and find it taken; another's file of the same bytes does not
    count.
    """
    link = os.link

    def link_twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    storage = LocalStorage(tmp_path)
    storage.create("theirs", b"x")
    monkeypatch.setattr(os, "link", link_twice)

    storage.create("ours", b"x")
    with pytest.raises(FileExistsError):
        storage.create("theirs", b"x")

    assert left(tmp_path) == ["ours", "theirs"]


def test_what_dead_writers_left_goes_when_it_is_old(tmp_path: Path) -> None:
    """A look at the folder removes it; what a living one stages, and what others hide there, stays."""
    for name, hours in ((".staged-dead", 30), (".staged-alive", 1), (".others", 30), ("file", 30)):
        (tmp_path / name).write_bytes(b"x")
        moment = time.time() - hours * 3600
        os.utime(tmp_path / name, (moment, moment))

    assert LocalStorage(tmp_path).names("") == ["file"]

    assert left(tmp_path) == [".others", ".staged-alive", "file"]
