"""The log's files for a reader: which there are, and where on this machine."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from zaphod.monitoring.encode import hour_folder
from zaphod.storage import LocalStorage, Storage


class LogFiles:
    """Finds files of a folder tree `date=…/hour=…` that were not taken in yet. Files never change once they are there.

    Those of a bucket are copied to a folder that goes with the object.
    """

    def __init__(self, storage: Storage, folder: str, *, since_s: float) -> None:
        """since_s: seconds since the epoch; hours before it are not looked at."""
        self._storage = storage
        self._folder = folder
        self._first = hour_folder(int(since_s // 3600))
        self._taken: set[Path] = set()
        self._closed: set[str] = set()
        self._copies = None if isinstance(storage, LocalStorage) else tempfile.TemporaryDirectory(prefix="zaphod-log-")

    def fresh(self) -> list[Path]:
        """What was not taken in yet, oldest folder first. Raises: StorageUnavailableError."""
        found: list[Path] = []
        for day in self._storage.names(self._folder):
            if day < self._first.split("/")[0]:
                continue
            for hour in self._storage.names(f"{self._folder}/{day}"):
                if f"{day}/{hour}" >= self._first:
                    found += self._of(f"{self._folder}/{day}/{hour}")
        return found

    def _of(self, folder: str) -> list[Path]:
        if folder in self._closed:
            return []
        names = [name for name in self._storage.names(folder) if name.endswith(".parquet")]
        fresh = [f"{folder}/{name}" for name in names if self._place(f"{folder}/{name}") not in self._taken]
        if not fresh and folder.split(f"{self._folder}/", 1)[1] < hour_folder(_hours_ago(24)):
            # A writer that cannot reach the storage files late, but not by a day.
            self._closed.add(folder)
        return [self._local(path) for path in fresh]

    def _place(self, path: str) -> Path:
        return Path(self._storage.uri if self._copies is None else self._copies.name) / path

    def _local(self, path: str) -> Path:
        place = self._place(path)
        if self._copies is not None and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f"{place.name}.part")
            part.write_bytes(self._storage.read(path))
            part.replace(place)
        return place

    def take(self, paths: Iterable[Path]) -> None:
        """The reader has them."""
        for path in paths:
            self._taken.add(path)
            if self._copies is not None:
                os.unlink(path)  # noqa: PTH108  # as quick as can be, there are many


def _hours_ago(hours: float) -> int:
    return int(datetime.datetime.now(datetime.UTC).timestamp() // 3600 - hours)
