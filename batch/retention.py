"""What an output folder need not keep: old runs, and what dead jobs have left in staging.

Never removed: the run that `current.json` names, the newest whole one, what a job works on. An incremental run has its
own files, whichever run they were carried over from.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from batch.commit import SUCCESS, Staging
from batch.manifest import Manifest
from zaphod.errors import BatchError
from zaphod.location import locate
from zaphod.storage import open_storage

# A bucket has no locks: what was written there since is taken for work in progress, whatever age is asked for.
_AT_WORK = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Run:
    """A published run. Samples do not count among the newest."""

    run_id: str
    published: datetime.datetime
    is_sample: bool = False


@dataclass(frozen=True, slots=True)
class Garbage:
    """What may go. since: a run's publication, or the last sign of life of a job that published nothing."""

    run_id: str
    since: datetime.datetime
    is_published: bool


def old_runs(runs: Sequence[Run], *, keep: int, current: str | None, before: datetime.datetime) -> list[Run]:
    """Older than the moment, without the `keep` newest, at least one, and the current one; the oldest first."""
    # Of the same second the current one is the newest.
    ordered = sorted(runs, key=lambda run: (run.published, run.run_id == current))
    whole = [run.run_id for run in ordered if not run.is_sample]
    kept = {current, *whole[-max(1, keep) :]}
    return [run for run in ordered if run.run_id not in kept and run.published < before]


def find_garbage(output: str, *, keep: int, before: datetime.datetime) -> list[Garbage]:
    """What `remove` may remove; changes nothing. Raises: ConfigError, StorageUnavailableError."""
    storage = open_storage(locate(output).uri)
    runs = [run for name in storage.names("runs") if (run := _published(output, name)) is not None]
    current = Staging.open(output, "").current()
    found = [
        Garbage(run.run_id, run.published, is_published=True)
        for run in old_runs(runs, keep=keep, current=current, before=before)
        if not Staging.open(output, run.run_id).is_locked()
    ]
    return found + list(_abandoned(output, before=before))


def remove(output: str, garbage: Garbage) -> bool:
    """False when a job has begun to work on it, or current.json to name it.

    Killed amid its work, it has removed the run for all readers or not at all; the rest is found as garbage again.
    """
    staging = Staging.open(output, garbage.run_id)
    try:
        with staging.lock():
            if garbage.is_published and not staging.withdraw():
                return False
            staging.clean()
    except BatchError:
        return False
    return True


def _published(output: str, name: str) -> Run | None:
    """None for what is none, and for one whose manifest cannot be read."""
    staging = Staging.open(output, name)
    try:
        if not staging.is_published():
            return None
        manifest = msgspec.json.decode(staging.manifest(), type=Manifest)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    finished = datetime.datetime.fromisoformat(manifest.timing.finished)
    return Run(name, finished, is_sample=manifest.settings.get("sample") is not None)


def _abandoned(output: str, *, before: datetime.datetime) -> Iterator[Garbage]:
    location = locate(output)
    storage = open_storage(location.uri)
    names = {name.removesuffix(".lock") for name in storage.names(".staging")}
    if not location.is_local:
        before = min(before, datetime.datetime.now(datetime.UTC) - _AT_WORK)
        names |= {name for name in storage.names("runs") if not storage.exists(f"runs/{name}/{SUCCESS}")}
    # A folder of a bucket may be an object too, which is listed by the folder's own name.
    for name in sorted(names - {".staging", "runs"}):
        staging = Staging.open(output, name)
        since = staging.last_written()
        if since < before and not staging.is_locked():
            yield Garbage(name, since, is_published=False)
