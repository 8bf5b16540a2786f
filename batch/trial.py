"""A batch run's part in an experiment and in the prediction log."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batch.model import Model, Version, resolve
from batch.rows import Batch
from zaphod.columns import Decoded, Reject
from zaphod.contender import Contender, project
from zaphod.errors import SchemaMismatchError
from zaphod.experiment.assignment import Splitter, threshold_of
from zaphod.experiment.spec import Experiment, Mode
from zaphod.monitoring.log import PredictionLog, open_log
from zaphod.monitoring.record import Arm, Call, Origin, Status
from zaphod.monitoring.settings import LogSettings
from zaphod.recorder import Recorder
from zaphod.registry import CHALLENGER, CHAMPION, Reference, Registry
from zaphod.trial import Part, Split, Trial


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The experiment that ran when the job began, and its challenger; a job stays with what it began with."""

    experiment: Experiment
    challenger: Version

    @property
    def is_shadow(self) -> bool:
        return self.experiment.mode is Mode.SHADOW


def running(registry: str, reference: str, champion: Version) -> Experiment | None:
    """The experiment of this champion, where the model is asked for by that name."""
    parsed = Reference.parse(reference)
    if parsed.alias != CHAMPION:
        return None
    experiment = Registry.open(registry).state(parsed.name).experiment
    return experiment if experiment is not None and experiment.champion == champion.version else None


def enter(registry: str, experiment: Experiment) -> Entry:
    """Raises: ModelNotFoundError, ModelLoadError."""
    return Entry(experiment=experiment, challenger=resolve(registry, f"{experiment.model}@{experiment.challenger}"))


def origin_of(version: Version, model: Model, entry: Entry | None, *, variant: str, answered: bool) -> Origin:
    """model: the champion, whose schema the rows have."""
    experiment = None if entry is None else entry.experiment
    return Origin(
        arm=Arm.BATCH, model=version.name, version=version.version, bundle_sha256=version.bundle_sha256,
        schema=model.schema, variant=variant, answered=answered,
        experiment=None if experiment is None else experiment.id,
        phase=None if experiment is None else experiment.phase.number,
        mode=None if experiment is None else experiment.mode,
    )  # fmt: skip


def trial_of(entry: Entry, champion: Contender, *, model: Model, rival: Model) -> Trial:
    """Modes `ab` and `shadow`. model, rival: champion and challenger.

    Raises: ConfigError when they cannot be compared.
    """
    experiment = entry.experiment
    theirs = origin_of(entry.challenger, model, entry, variant=CHALLENGER, answered=not entry.is_shadow)
    return Trial(
        experiment=experiment,
        champion=champion,
        challenger=Contender(rival.predictor, theirs, project(model.schema, rival.schema)),
        fallback=dataclasses.replace(champion.origin, fallback=True),
        splitter=Splitter(experiment.salt),
        threshold=threshold_of(experiment.phase.share),
    )


def recipe_of(entry: Entry | None, entity: str | None) -> list[str]:
    """What decides a row's variant and who is asked beside: another phase gives another run."""
    if entry is None:
        return []
    experiment, phase = entry.experiment, entry.experiment.phase
    return [
        experiment.id, experiment.mode, experiment.salt, entry.challenger.bundle_sha256,
        f"{phase.number} {phase.share}", entity or "",
    ]  # fmt: skip


def dump_settings(settings: LogSettings) -> bytes:
    """With the key in clear, for the job's own processes."""
    plain = settings.model_dump(mode="json")
    if settings.hash_key is not None:
        plain["hash_key"] = settings.hash_key.get_secret_value()
    return msgspec.json.encode(plain)


def entities_of(batch: Batch, decoded: Decoded, column: str | None) -> pa.Array | None:
    """Of the rows that are scored, as text: the same as the header's or the key's. Raises: SchemaMismatchError."""
    if column is None:
        return None
    values = batch.table.column(column)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if not (
        pa.types.is_integer(values.type) or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    ):
        raise SchemaMismatchError(f"Expected an entity of text or whole numbers, got `{values.type}` - at `{column}`")
    array = values.cast(pa.string()).combine_chunks()
    return array.take(pa.array(decoded.kept)) if decoded.rejects else array


def split_rows(trial: Trial, entities: pa.Array | None, positions: NDArray[np.int64], *, call: str) -> Split:
    """positions: of the rows in their file; a row without an entity goes by its prediction's id."""
    if entities is not None and not entities.null_count:
        return trial.split((), entities)
    return trial.split([f"{call}-{position}" for position in positions.tolist()], entities)


@functools.lru_cache(maxsize=2)
def _open(settings: bytes) -> PredictionLog | None:
    """One for all units of a worker's process. Raises: ConfigError."""
    return open_log(LogSettings.model_validate_json(settings))


class UnitLog:
    """Records one unit. call: of the unit, so that one that is done again has the same prediction ids."""

    def __init__(self, settings: bytes | None, origin: Origin, *, call: str) -> None:
        """Raises: ConfigError."""
        self._log = None if settings is None else _open(settings)
        self._recorder = None if self._log is None else Recorder(self._log, origin)
        self._origin = origin
        self._call = call
        self._before = self._missing()

    def record(
        self, parts: Sequence[Part], batch: Batch, decoded: Decoded, *, entities: pa.Array | None, split: Split | None
    ) -> None:
        """What each variant said."""
        if self._recorder is None:
            return
        for part in parts:
            self._recorder.record(
                part,
                decoded.columns,
                entities=entities,
                ids=self._call,
                buckets=None if split is None else split.buckets,
                positions=batch.rows[decoded.kept],
            )

    def refuse(self, rejects: Sequence[Reject], rows: Sequence[int], *, served_s: float) -> None:
        """rows: positions in the file, one for each reject."""
        if self._log is None:
            return
        by_field: dict[str, list[int]] = {}
        for reject, row in zip(rejects, rows, strict=True):
            by_field.setdefault(reject.field, []).append(row)
        for field, places in by_field.items():
            self._log.put(
                Call(
                    origin=self._origin, id=self._call, served_s=served_s, num_rows=len(places),
                    rows=np.array(places, dtype=np.int64), status=Status.REFUSED, error="invalid_input",
                    error_field=field or None,
                )
            )  # fmt: skip

    @property
    def num_unlogged(self) -> int:
        """Rows of the unit for which the log had no room, that it lost, or that it could not write yet.

        A process does one unit at a time.
        """
        return max(0, self._missing() - self._before)

    def _missing(self) -> int:
        counts = None if self._log is None else self._log.counts
        return 0 if counts is None else counts.dropped + counts.waiting

    def hurry(self) -> None:
        """The log writes while the unit does."""
        if self._log is not None:
            self._log.hurry()

    def flush(self) -> None:
        """Before the unit's receipt: a unit that counts as done has its records, if the storage can be reached."""
        if self._log is not None:
            self._log.flush()
