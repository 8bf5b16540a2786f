"""The driver: checks, plans, runs what is not done yet, and publishes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import msgspec
from rich.console import Console

from batch import progress
from batch.carry import carry_over
from batch.commit import Receipt, Staging, now
from batch.deliver import Destination, Load, destinations, load_of
from batch.manifest import Manifest, Timing, make_manifest, task_seconds
from batch.plan import Unit
from batch.preflight import Preflight, preflight
from batch.progress import Counts
from batch.score import Work, reject_whole
from batch.settings import BatchSettings
from zaphod.errors import BatchError
from zaphod.location import Location

Execute: TypeAlias = Callable[[Sequence[Unit], Work], Iterator[Receipt]]
"""Units to receipts as they finish, in any order; closing the iterator stops the work."""


class RejectLimitError(Exception):
    """More rows were rejected than the settings allow: exit code 2. Never leaves this arm."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Outcome:
    """A published run. unchanged: it was published before, nothing was scored. instead_of: the run that current.json
    named until then. delivered: where it was brought now. reports: files that describe it.
    """

    manifest: Manifest
    predictions: str
    rejects: str
    unchanged: bool
    instead_of: str | None = None
    delivered: tuple[str, ...] = ()
    reports: tuple[Path, ...] = ()


@dataclass
class Clock:
    """Wall seconds by phase of the driver."""

    started: str = field(default_factory=now)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - began, 3)


class Job:
    """One run of the driver.

    open_executor: what brings units to receipts; entered only when a unit is left to do, and told how many seconds the
    rest of the job takes on one core, if that is known. on_step: told the name of each step as it begins (`staging`,
    `scored`, `publishing` and what that consists of, `renamed`, `published`, `delivering`), `unit` after each receipt
    and `delivered` after each destination.
    """

    def __init__(
        self,
        settings: BatchSettings,
        *,
        open_executor: Callable[[float | None], contextlib.AbstractContextManager[Execute]],
        console: Console,
        on_step: Callable[[str], None] = lambda step: None,
    ) -> None:
        self._settings = settings
        self._open_executor = open_executor
        self._console = console
        self._on_step = on_step
        self._clock = Clock()

    def check(self) -> Preflight:
        """Everything before Ray. Raises: ZaphodError; RejectLimitError for files that are known to be broken."""
        with self._clock.phase("preflight"):
            ready = preflight(self._settings)
        if not Staging.open(self._settings.output, ready.plan.run_id).is_published():
            broken = sum(unit.problem is not None for unit in ready.plan.units)
            check_limits(Counts(total=ready.num_rows, uncounted_files=broken), self._settings)
        return ready

    def run(self, ready: Preflight) -> Outcome:
        """Raises: ZaphodError; RejectLimitError. Nothing is published then, and finished units stay finished."""
        staging = Staging.open(self._settings.output, ready.plan.run_id)
        # Before the work: a package that is missing is found now, not after an hour.
        targets = destinations(self._settings) if self._settings.sample is None else []
        outcome = self._run(ready, staging)
        load = load_of(
            self._published(staging),
            run_id=staging.run_id,
            files=outcome.manifest.files,
            kept=ready.work.kept_schema,
            keys=self._settings.upsert_by,
        )
        delivered = [] if load is None else self._deliver(targets, load)
        reports: list[Path] = []
        if self._settings.report is not None:
            from batch.describe import describe  # scipy and the statistics, a second that others need not wait

            self._say("measuring for the report")
            reports = describe(staging, outcome.manifest, ready, load, settings=self._settings, environ=os.environ)
        return dataclasses.replace(outcome, delivered=tuple(delivered), reports=tuple(reports))

    def _deliver(self, targets: Sequence[Destination], load: Load) -> list[str]:
        """Where it was brought now."""
        self._on_step("delivering")
        delivered = []
        for target in targets:
            if target.deliver(load):
                delivered.append(target.name)
                self._on_step("delivered")
        return delivered

    def _published(self, staging: Staging) -> Location:
        output, run = staging.output, staging.published
        return Location(uri=f"{output.uri}/{run}", filesystem=output.filesystem, path=output.child(run))

    def _run(self, ready: Preflight, staging: Staging) -> Outcome:
        if staging.is_published():
            return self._finish_published(staging)
        with staging.lock():
            if staging.is_published():
                return self._finish_published(staging)
            self._on_step("staging")
            staging.forget_attempts()
            receipts = staging.receipts()
            resumed = len(receipts)
            if receipts:
                self._say(f"going on: {resumed} of {len(ready.plan.units)} units are finished already")
            carried = carry_over(ready.plan, staging, receipts) if self._settings.incremental else 0
            if carried:
                self._say(
                    f"incremental: {carried} of {len(ready.plan.units)} units have not changed since the last run"
                )
            before = set(receipts)
            self._score(ready, receipts)
            self._on_step("scored")
            self._settle(ready, receipts, staging)
            mine = sum(receipt.rows_in for unit, receipt in receipts.items() if unit not in before)
            manifest = self._sum_up(ready, receipts, rows=mine, resumed=resumed, carried=carried)
            self._publish(manifest, receipts, staging)
        staging.clean()
        return self._outcome(manifest, staging, unchanged=False)

    def _score(self, ready: Preflight, receipts: dict[str, Receipt]) -> None:
        """Adds the receipts of the units that have none."""
        missing = [unit for unit in ready.plan.units if unit.id not in receipts]
        if not missing:
            return
        counts = Counts(total=ready.num_rows, exact=ready.plan.num_rows is not None)
        for receipt in receipts.values():
            counts = _plus(counts, receipt)
        seconds = None
        if ready.estimate is not None:
            seconds = ready.estimate.seconds(num_rows=counts.total - counts.done, num_tasks=1)
        with contextlib.ExitStack() as stack:
            with self._clock.phase("start"):
                execute = stack.enter_context(self._open_executor(seconds))
            stack.enter_context(self._clock.phase("score"))
            display = stack.enter_context(
                progress.display(self._console, counts, interval_s=self._settings.progress_interval_s)
            )
            for receipt in execute(missing, ready.work):
                if receipt.error is not None:
                    raise BatchError(receipt.error)
                receipts[receipt.unit] = receipt
                counts = _plus(counts, receipt)
                display.update(counts)
                self._on_step("unit")
                if counts.exact:
                    check_limits(counts, self._settings)
        if len(receipts) != len(ready.plan.units):
            raise BatchError(
                f"Cannot publish: {len(ready.plan.units) - len(receipts)} units left no receipt. Run the job again."
            )

    def _settle(self, ready: Preflight, receipts: dict[str, Receipt], staging: Staging) -> None:
        """A file is rejected whole: with one unit of it unreadable, its other units are taken back."""
        corrupt = {receipt.path: receipt for receipt in receipts.values() if receipt.corrupt}
        for unit in ready.plan.units:
            receipt = receipts[unit.id]
            if unit.path in corrupt and not receipt.corrupt:
                whole = reject_whole(unit, ready.work, corrupt[unit.path].problems[0].reason)
                staging.leave_receipt(whole)
                receipts[unit.id] = whole
        kept = {file.path for receipt in receipts.values() for file in receipt.files}
        staging.drop(path for path in staging.data_files() if path not in kept)
        self._see_all(receipts, staging)
        if receipts and all(receipt.corrupt for receipt in receipts.values()):
            first = min(receipts.values(), key=lambda receipt: receipt.unit)
            raise RejectLimitError(f"Cannot publish: no file could be read. {first.problems[0].reason}")
        counts = Counts(total=sum(receipt.rows_in for receipt in receipts.values()))
        for receipt in receipts.values():
            counts = _plus(counts, receipt)
        check_limits(counts, self._settings)

    def _see_all(self, receipts: dict[str, Receipt], staging: Staging) -> None:
        """What a task has written is there for this process too. Raises: BatchError.

        On a cluster whose output is a folder of each machine's own it is not. A bucket is one for all.
        """
        lost = (
            [receipt for receipt in receipts.values() if not staging.is_whole(receipt)]
            if staging.output.is_local
            else []
        )
        if lost:
            raise BatchError(
                f"Cannot publish: results of {len(lost)} units, {lost[0].path} among their files, are not in "
                f"{staging.output.uri}. On a cluster the output must be a folder that every machine sees, or a bucket. "
                "Run the job again."
            )

    def _sum_up(
        self, ready: Preflight, receipts: dict[str, Receipt], *, rows: int, resumed: int, carried: int
    ) -> Manifest:
        """rows: of the units that this job has scored itself."""
        seconds = self._clock.seconds.get("score", 0.0)
        timing = Timing(
            started=self._clock.started,
            finished=now(),
            seconds=self._clock.seconds,
            task_seconds=task_seconds(receipts.values()),
            rows_per_s=round(rows / seconds) if seconds else 0.0,
            resumed_units=resumed,
            carried_units=carried,
            rows_unlogged=sum(receipt.rows_unlogged for receipt in receipts.values()),
        )
        manifest = make_manifest(ready, self._settings, receipts.values(), timing=timing)
        planned = manifest.rows_in if ready.plan.num_rows is None else ready.plan.num_rows
        if manifest.rows_in != manifest.rows_out + manifest.rows_rejected or manifest.rows_in != planned:
            raise BatchError(
                f"Cannot publish: {planned} rows were planned, {manifest.rows_in} read, "
                f"{manifest.rows_out} scored and {manifest.rows_rejected} rejected. Run the job again."
            )
        return manifest

    def _publish(self, manifest: Manifest, receipts: dict[str, Receipt], staging: Staging) -> None:
        self._on_step("publishing")
        staging.publish(manifest.to_json(), [receipts[unit] for unit in sorted(receipts)], on_step=self._on_step)
        self._on_step("renamed")
        if self._settings.sample is None:
            staging.make_current()
        self._on_step("published")

    def _finish_published(self, staging: Staging) -> Outcome:
        """A job that was killed between publishing and pointing is finished here, and a run is made current again."""
        before = staging.current()
        moves = self._settings.sample is None and before != staging.run_id
        if moves:
            staging.make_current()
        staging.clean()
        manifest = msgspec.json.decode(staging.manifest(), type=Manifest)
        outcome = self._outcome(manifest, staging, unchanged=True)
        return dataclasses.replace(outcome, instead_of=before if moves else None)

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _outcome(self, manifest: Manifest, staging: Staging, *, unchanged: bool) -> Outcome:
        run = f"{staging.output.uri}/{staging.published}"
        return Outcome(
            manifest=manifest,
            predictions=f"{run}/predictions",
            rejects=f"{run}/rejects",
            unchanged=unchanged,
        )


def _plus(counts: Counts, receipt: Receipt) -> Counts:
    return counts.plus(done=receipt.rows_in, rejected=receipt.rows_rejected, uncounted_files=int(receipt.is_uncounted))


def check_limits(counts: Counts, settings: BatchSettings) -> None:
    """The share is of all rows of the job, so that a bad first file does not end a job that is good in all.

    A file whose rows nobody knows may have more than any limit of rows allows: it has one of its own, and where there
    is none it is past every other.

    Raises: RejectLimitError.
    """
    limited = settings.max_rejected is not None or settings.max_rejected_share < 1
    max_files = 0 if settings.max_corrupt_files is None and limited else settings.max_corrupt_files
    if max_files is not None and counts.uncounted_files > max_files:
        raise RejectLimitError(
            f"Cannot publish: {counts.uncounted_files:,} files that cannot be read were rejected, who knows with how "
            f"many rows, more than the {max_files:,} that max_corrupt_files allows. Restore them, or raise the limit; "
            "finished units are not done again."
        )
    limits = {"max_rejected": settings.max_rejected, "max_rejected_share": settings.max_rejected_share * counts.total}
    for name, limit in limits.items():
        if limit is not None and counts.rejected > limit:
            raise RejectLimitError(
                f"Cannot publish: {counts.rejected:,} of {counts.done:,} rows were rejected, more than the "
                f"{int(limit):,} that {name} allows. Correct the input, or raise the limit; "
                "finished units are not done again."
            )
