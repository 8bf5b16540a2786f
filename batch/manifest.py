"""manifest.json: what a published run is made of."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Collection

import msgspec

from batch.commit import OutputFile, Problem, Receipt
from batch.model import Model, Version
from batch.preflight import Preflight
from batch.quality import Quality, quality_of
from batch.settings import BatchSettings
from batch.summary import add_up

_LIBRARIES = ("zaphod", "ray", "pyarrow", "numpy", "scikit-learn", "onnxruntime")


class Input(msgspec.Struct, frozen=True, kw_only=True):
    """An input file as it was planned. num_rows: 0 where it could not be read, null where it does not say."""

    path: str
    size_bytes: int
    mtime_ns: int
    num_rows: int | None


class ModelUsed(msgspec.Struct, frozen=True, kw_only=True):
    """A version that scored every row."""

    name: str
    version: int
    bundle_sha256: str
    engine: str


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Of the job that published; a resumed run took longer in all.

    seconds: wall time by phase of the driver. task_seconds: summed over the tasks of every attempt that finished.
    rows_per_s: rows of this job over its wall time of scoring. resumed_units: finished by earlier, killed jobs.
    carried_units: taken over from the run before. rows_unlogged: that the prediction log dropped
    or could not write in time, over all units.
    """

    started: str
    finished: str
    seconds: dict[str, float]
    task_seconds: dict[str, float]
    rows_per_s: float
    resumed_units: int
    carried_units: int
    rows_unlogged: int = 0


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All but `timing` is the same whenever and however often the run is done."""

    run_id: str
    recipe: str
    model: ModelUsed
    challenger: ModelUsed | None
    settings: dict[str, object]
    rows_in: int
    rows_out: int
    rows_rejected: int
    rejected: tuple[Problem, ...]
    corrupt_files: tuple[str, ...]
    quality: Quality | None
    inputs: tuple[Input, ...]
    files: tuple[OutputFile, ...]
    libraries: dict[str, str]
    timing: Timing

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def make_manifest(
    ready: Preflight, settings: BatchSettings, receipts: Collection[Receipt], *, timing: Timing
) -> Manifest:
    """Sums the receipts up, in the order of their units."""
    ordered = sorted(receipts, key=lambda receipt: receipt.unit)
    problems: Counter[tuple[str, str]] = Counter()
    for receipt in ordered:
        for problem in receipt.problems:
            problems[problem.field, problem.reason] += problem.rows
    summary = add_up(receipt.summary for receipt in ordered if receipt.summary is not None)
    return Manifest(
        run_id=ready.plan.run_id,
        recipe=ready.plan.recipe,
        model=_used(ready.work.champion, ready.ask.champion),
        challenger=None
        if ready.work.challenger is None or ready.ask.challenger is None
        else _used(ready.work.challenger, ready.ask.challenger),
        settings=settings.model_dump(mode="json"),
        rows_in=sum(receipt.rows_in for receipt in ordered),
        rows_out=sum(receipt.rows_out for receipt in ordered),
        rows_rejected=sum(receipt.rows_rejected for receipt in ordered),
        rejected=tuple(Problem(field=name, reason=reason, rows=n) for (name, reason), n in sorted(problems.items())),
        corrupt_files=tuple(sorted({receipt.path for receipt in ordered if receipt.corrupt})),
        quality=quality_of(summary, ready.ask) if summary is not None else None,
        inputs=tuple(
            Input(path=file.path, size_bytes=file.size_bytes, mtime_ns=file.mtime_ns, num_rows=file.num_rows)
            for file in ready.plan.files
        ),
        files=tuple(file for receipt in ordered for file in receipt.files),
        libraries={"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in _LIBRARIES},
        timing=timing,
    )


def _used(version: Version, model: Model) -> ModelUsed:
    return ModelUsed(
        name=version.name,
        version=version.version,
        bundle_sha256=version.bundle_sha256,
        engine=model.predictor.engine,
    )


def task_seconds(receipts: Collection[Receipt]) -> dict[str, float]:
    """By phase, over all units."""
    total: Counter[str] = Counter()
    for receipt in receipts:
        total.update(receipt.seconds)
    return {phase: round(seconds, 3) for phase, seconds in sorted(total.items())}
