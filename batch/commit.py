"""Where a run's files stand before and after it is published.

    <output>/.staging/<run id>/run/         what will be published: predictions/, rejects/, units.jsonl, manifest.json,
                                            _SUCCESS
    <output>/.staging/<run id>/receipts/    one for each finished unit: a killed run goes on from here
    <output>/runs/<run id>/                 a published run, complete from its first moment
    <output>/current.json                   names the newest published run

On this machine a run is published by one rename. A bucket has none: there the files are written to their final place
and `_SUCCESS`, put last, makes the run published. In both, `current.json` is replaced after that.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import pyarrow.fs as pafs

from batch.summary import Summary
from zaphod.errors import BatchError
from zaphod.location import Location, locate
from zaphod.storage import Storage, open_storage

SUCCESS = "_SUCCESS"
MANIFEST = "manifest.json"
UNITS = "units.jsonl"
POINTER = "current.json"


class OutputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A written file, its path below the run's folder."""

    path: str
    sha256: str
    bytes: int
    rows: int


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why rows were rejected, and how many. field: empty when a whole file was."""

    field: str
    reason: str
    rows: int


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A unit that is finished; or, with `error`, one that cannot be."""

    unit: str
    path: str
    rows_in: int
    rows_out: int
    rows_rejected: int
    files: tuple[OutputFile, ...]
    problems: tuple[Problem, ...]
    seconds: dict[str, float]
    summary: Summary | None = None
    rows_unlogged: int = 0
    corrupt: bool = False
    error: str | None = None

    @property
    def is_uncounted(self) -> bool:
        """Of a file that was rejected whole and whose rows nobody knows; such a file is one unit."""
        return self.corrupt and not self.rows_in

    @classmethod
    def failed(cls, unit: str, error: str) -> Receipt:
        return cls(
            unit=unit, path="", rows_in=0, rows_out=0, rows_rejected=0, files=(), problems=(), seconds={}, error=error
        )


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """current.json. Paths are below the output folder."""

    run_id: str
    predictions: str
    rejects: str
    manifest: str


@dataclass(frozen=True, slots=True)
class Staging:
    """One run's folder under the output, before and after it is published."""

    run_id: str
    output: Location
    storage: Storage
    data: Location
    temporary: str

    @classmethod
    def open(cls, output: str, run_id: str) -> Staging:
        """Touches nothing. Raises: ConfigError."""
        location = locate(output)
        staged = f".staging/{run_id}"
        run = f"{staged}/run" if location.is_local else f"runs/{run_id}"
        data = Location(uri=f"{location.uri}/{run}", filesystem=location.filesystem, path=location.child(run))
        return cls(
            run_id=run_id,
            output=location,
            storage=open_storage(location.uri),
            data=data,
            temporary=location.child(f"{staged}/growing"),
        )

    @property
    def published(self) -> str:
        """The run's path below the output."""
        return f"runs/{self.run_id}"

    @property
    def _run(self) -> str:
        """Where the run's files are written, below the output."""
        return f".staging/{self.run_id}/run" if self.output.is_local else self.published

    def is_published(self) -> bool:
        return self.storage.exists(f"{self.published}/{SUCCESS}")

    def leave_receipt(self, receipt: Receipt) -> None:
        """The unit's files are in place and whole before this is called.

        Not waited for: a receipt that is lost with the machine's power costs its unit's time again and no more.
        """
        path = f".staging/{self.run_id}/receipts/{receipt.unit}.json"
        self.storage.replace(path, msgspec.json.encode(receipt), durable=False)

    def receipts(self) -> dict[str, Receipt]:
        """Of the finished units whose files are still there with the size they had."""
        folder = f".staging/{self.run_id}/receipts"
        found = {}
        for name in self.storage.names(folder):
            # One that the machine's end left empty is none.
            with contextlib.suppress(msgspec.MsgspecError):
                receipt = msgspec.json.decode(self.storage.read(f"{folder}/{name}"), type=Receipt)
                if self.is_whole(receipt):
                    found[receipt.unit] = receipt
        return found

    def note_attempt(self, unit: str) -> int:
        """How often this job has begun the unit, this time included: a process that dies leaves no other trace."""
        path = f".staging/{self.run_id}/attempts/{unit}"
        attempt = int(self.storage.read(path) or 0) + 1 if self.storage.exists(path) else 1
        self.storage.replace(path, str(attempt).encode(), durable=False)
        return attempt

    def note_progress(self, unit: str, rows: int) -> None:
        """How far an unfinished unit is."""
        self.storage.replace(f".staging/{self.run_id}/progress/{unit}", str(rows).encode(), durable=False)

    def progress(self) -> dict[str, bytes]:
        """What units that take long have said last."""
        folder = f".staging/{self.run_id}/progress"
        return {unit: self.storage.read(f"{folder}/{unit}") for unit in self.storage.names(folder)}

    def forget_attempts(self) -> None:
        folder = f".staging/{self.run_id}/attempts"
        if self.storage.names(folder):
            self.output.filesystem.delete_dir(self.output.child(folder))

    def data_files(self) -> list[str]:
        """The staged predictions and rejects, below the run's folder."""
        selector = pafs.FileSelector(self.data.path, recursive=True, allow_not_found=True)
        infos = [info for info in self.data.filesystem.get_file_info(selector) if info.type == pafs.FileType.File]
        paths = [info.path.removeprefix(f"{self.data.path}/") for info in infos]
        return sorted(path for path in paths if path.startswith(("predictions/", "rejects/")))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """One driver at a time works on a run; the kernel gives the lock back when its process dies. Buckets have none.

        Raises: BatchError when another holds it.
        """
        if not self.output.is_local:
            yield
            return
        folder = Path(self.output.child(".staging"))
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{self.run_id}.lock").open("w") as file:
            if not _try_lock(file):
                raise BatchError(
                    f"Cannot run {self.run_id}: another process works on the same run. Wait for it, or end it."
                )
            yield
            Path(file.name).unlink()

    def is_locked(self) -> bool:
        """Another process works on the run. Of a bucket nobody knows."""
        path = Path(self.output.child(f".staging/{self.run_id}.lock"))
        if not self.output.is_local or not path.exists():
            return False
        with path.open("a") as file:
            return not _try_lock(file)

    def carry_over(self, run_id: str, files: Iterable[OutputFile]) -> bool:
        """Brings files of a published run into this one; False when one is not there as it was.

        On this machine both runs share them (hard links); a bucket copies them by itself.
        """
        filesystem, source = self.output.filesystem, self.output.child(f"runs/{run_id}")
        for file in files:
            if filesystem.get_file_info(f"{source}/{file.path}").size != file.bytes:
                return False
            target = self.data.child(file.path)
            if not self.output.is_local:
                filesystem.copy_file(f"{source}/{file.path}", target)
                continue
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            Path(target).unlink(missing_ok=True)
            try:
                Path(target).hardlink_to(f"{source}/{file.path}")
            except FileNotFoundError:
                # Somebody removes the run.
                return False
        return True

    def read_published(self, run_id: str, name: str) -> bytes:
        """Raises: FileNotFoundError."""
        return self.storage.read(f"runs/{run_id}/{name}")

    def drop(self, paths: Iterable[str]) -> None:
        """Removes staged files that are not to be published."""
        for path in paths:
            target = self.data.child(path)
            if self.data.filesystem.get_file_info(target).type == pafs.FileType.File:
                self.data.filesystem.delete_file(target)

    def publish(self, manifest: bytes, receipts: Iterable[Receipt], *, on_step: Callable[[str], None]) -> None:
        """on_step: told `listed`, `described` and `sealed` as the last files are in their place.

        Raises: BatchError when a run of the same id appeared meanwhile.
        """
        # Without the seconds a run is the same however often it is done.
        lines = [msgspec.json.encode(msgspec.structs.replace(receipt, seconds={})) for receipt in receipts]
        self.storage.replace(f"{self._run}/{UNITS}", b"".join(line + b"\n" for line in lines))
        on_step("listed")
        self.storage.replace(f"{self._run}/{MANIFEST}", manifest)
        on_step("described")
        self.storage.replace(f"{self._run}/{SUCCESS}", b"")
        on_step("sealed")
        if not self.output.is_local:
            return
        # A process that died amid one of these three left it under a passing name.
        for stray in Path(self.data.path).glob(".staged-*"):
            stray.unlink()
        target = Path(self.output.child(self.published))
        target.parent.mkdir(parents=True, exist_ok=True)
        # A run without a row to predict is an empty table, not a missing one.
        Path(self.data.child("predictions")).mkdir(exist_ok=True)
        try:
            Path(self.data.path).rename(target)
        except OSError as error:
            raise BatchError(
                f"Cannot publish {self.run_id}: {error.strerror}. Another job may have published it; look at {target}."
            ) from error
        _sync_folder(target.parent)

    def manifest(self) -> bytes:
        return self.read_published(self.run_id, MANIFEST)

    def current(self) -> str | None:
        """The id of the run that current.json names."""
        try:
            return msgspec.json.decode(self.storage.read(POINTER), type=Pointer).run_id
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def make_current(self) -> None:
        """Readers that follow current.json see this run from here on."""
        pointer = Pointer(
            run_id=self.run_id,
            predictions=f"{self.published}/predictions",
            rejects=f"{self.published}/rejects",
            manifest=f"{self.published}/{MANIFEST}",
        )
        self.storage.replace(POINTER, msgspec.json.format(msgspec.json.encode(pointer), indent=2) + b"\n")

    def clean(self) -> None:
        """Removes what is left in staging of this run, and in a bucket the run's files if they are not published."""
        staged = [f".staging/{self.run_id}"]
        if self.output.is_local:
            shutil.rmtree(self.output.child(staged[0]), ignore_errors=True)
            return
        staged += [] if self.is_published() else [self.published]
        for folder in staged:
            if self.storage.names(folder):
                self.output.filesystem.delete_dir(self.output.child(folder))

    def withdraw(self) -> bool:
        """Takes a published run from its readers, for `clean` to remove; False when current.json names it.

        On this machine by one rename, in a bucket by the removal of `_SUCCESS`: no reader finds half a run.
        """
        if self.current() == self.run_id or not self.is_published():
            return False
        if not self.output.is_local:
            self.storage.delete(f"{self.published}/{SUCCESS}")
            return True
        published, gone = (
            Path(self.output.child(self.published)),
            Path(self.output.child(f".staging/{self.run_id}/gone")),
        )
        shutil.rmtree(gone, ignore_errors=True)
        gone.parent.mkdir(parents=True, exist_ok=True)
        published.rename(gone)
        if self.current() == self.run_id:
            # Made current by a job that found it finished, in this very moment.
            gone.rename(published)
            return False
        return True

    def last_written(self) -> datetime.datetime:
        """When something of the unpublished run was written last; long ago where nothing tells."""
        folders = [f".staging/{self.run_id}"] if self.output.is_local else [f".staging/{self.run_id}", self.published]
        infos = self.output.filesystem.get_file_info([self.output.child(f".staging/{self.run_id}.lock")])
        for folder in folders:
            selector = pafs.FileSelector(self.output.child(folder), recursive=True, allow_not_found=True)
            infos += self.output.filesystem.get_file_info(selector)
        times = [info.mtime for info in infos if info.mtime is not None]
        return max(times, default=datetime.datetime.fromtimestamp(0, datetime.UTC))

    def is_whole(self, receipt: Receipt) -> bool:
        """Its files are there, with the size they had when they were written."""
        infos = self.data.filesystem.get_file_info([self.data.child(file.path) for file in receipt.files])
        return [info.size for info in infos] == [file.bytes for file in receipt.files]


def _try_lock(file: IO[str]) -> bool:
    """False when another process has it, or has just given the file's name up with it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return Path(file.name).stat().st_ino == os.fstat(file.fileno()).st_ino
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def now() -> str:
    """ISO 8601 in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
