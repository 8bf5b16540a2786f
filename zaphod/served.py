"""What an arm holds: a model that follows the registry, swapped between two calls by one reference.

While an experiment of the registry runs between the version that serves and a challenger, calls are answered as its
phase says. Every answer, refusal and failure is handed to the prediction log, where there is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pyarrow as pa

from zaphod.bundle import Bundle
from zaphod.columns import Columns, RowDecoder
from zaphod.contender import Contender, project
from zaphod.errors import LogFullError, PredictionError, ZaphodError
from zaphod.experiment.assignment import Splitter, threshold_of
from zaphod.experiment.spec import Experiment, Mode
from zaphod.monitoring.log import PredictionLog
from zaphod.monitoring.record import Arm, Origin, Single, new_id
from zaphod.monitoring.segments import LOG_FULL
from zaphod.monitoring.settings import LogSettings
from zaphod.outputs import JsonScalar
from zaphod.predictor import Predictions, Predictor
from zaphod.recorder import Recorder, row_ids
from zaphod.registry import CHALLENGER, CHAMPION, Reference, Registry
from zaphod.schema import Schema
from zaphod.shadow import ShadowSettings, ShadowTask, ShadowWorker
from zaphod.trial import Part, Trial, merge

_log = logging.getLogger(__name__)

# A promotion must show in every arm within two seconds; a look at a local registry costs about 50 us.
WATCH_INTERVAL_S = 0.5
# A version that cannot be loaded is tried again: its bundle may be restored.
_REFUSED_S = 10.0


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who gave an answer."""

    model: str
    version: int
    variant: str
    bundle_sha256: str


def stamp_of(origin: Origin) -> Stamp:
    """Of the variant."""
    return Stamp(origin.model, origin.version, origin.variant, origin.bundle_sha256)


class Scored(msgspec.Struct, frozen=True, gc=False):
    """Predictions with the stamps of the variants that made them.

    stamp_index: position in `stamps` of each row's variant; None when one variant answered all rows. ids: the
    prediction's id, of which row i of several has `<id>-<i>`, or one for each row; None when nothing is logged.
    """

    predictions: Predictions
    stamps: tuple[Stamp, ...]
    stamp_index: Sequence[int] | None = None
    ids: str | Sequence[str] | None = None

    def row_stamps(self) -> Iterable[Stamp]:
        """Of each row; without an end where one variant answered all rows."""
        if self.stamp_index is None:
            return itertools.repeat(self.stamps[0])
        return map(self.stamps.__getitem__, self.stamp_index)

    def stamp_of(self, row: int) -> Stamp:
        return self.stamps[0 if self.stamp_index is None else self.stamp_index[row]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The model at one moment. Decode and score with the same snapshot: the next one may have another schema.

    challenger: its stamp, when a trial runs; one object, by which those who count its answers know it.
    """

    bundle: Bundle
    predictor: Predictor
    decoder: RowDecoder
    stamp: Stamp
    example: Mapping[str, JsonScalar]
    recorder: Recorder | None = None
    trial: Trial | None = None
    challenger: Stamp | None = None

    @property
    def schema(self) -> Schema:
        return self.bundle.schema

    @property
    def inline(self) -> bool:
        """One row takes microseconds: it may be scored on an event loop."""
        return self.predictor.engine == "onnx" and (self.trial is None or self.trial.inline)

    def check(self) -> None:
        """Predicts the example row. Raises: PredictionError, InvalidInputError."""
        self.predictor.predict(self.decoder.columns([self.decoder.convert_row(self.example)]))

    def check_room(self) -> None:
        """Before a prediction that could not be logged is made. Raises: LogFullError."""
        if self.recorder is not None and self.recorder.log.full:
            raise LogFullError(LOG_FULL)

    def score(
        self,
        columns: Columns,
        *,
        entities: Sequence[str | None] | None = None,
        ids: str | Sequence[str] | None = None,
    ) -> Scored:
        """`entities` name whom each row is about, where the caller knows; an experiment assigns by them, and by the
        field that it names where they are None.

        ids: the caller's own, unique for good, for the whole call or for each row; else one is made.

        Raises: PredictionError when the model fails on valid rows; with a challenger, when the champion does.
            LogFullError where nobody waits for room in the log.
        """
        recorder = self.recorder
        if recorder is None and self.trial is None:
            return Scored(predictions=self.predictor.predict(columns), stamps=(self.stamp,), ids=ids)
        ids = new_id() if ids is None else ids
        if self.trial is not None:
            return self._try(self.trial, columns, entities, ids)
        assert recorder is not None
        began = time.perf_counter()
        try:
            predictions = self.predictor.predict(columns)
        except PredictionError as error:
            part = Part(recorder.origin, None, time.perf_counter() - began, error=error)
            recorder.record(part, columns, entities=entities, ids=ids)
            raise
        latency_s = time.perf_counter() - began
        if len(columns.numbers) == 1 and isinstance(ids, str):
            entity = None if entities is None else entities[0]
            recorder.log.put(Single(recorder.origin, ids, time.time(), latency_s, columns, predictions, entity))
        else:
            recorder.answered(columns, predictions, latency_s=latency_s, entities=entities, ids=ids)
        return Scored(predictions=predictions, stamps=(self.stamp,), ids=ids)

    def refuse(
        self,
        error: ZaphodError,
        *,
        entities: Sequence[str | None] | None = None,
        ids: str | Sequence[str] | None = None,
    ) -> None:
        """Records a call that was not scored, because of the caller's data or of the model; of several by their ids."""
        if self.recorder is not None:
            self.recorder.refuse(error, entities=entities, ids=new_id() if ids is None else ids)

    def _try(
        self,
        trial: Trial,
        columns: Columns,
        entities: Sequence[str | None] | None,
        ids: str | Sequence[str],
    ) -> Scored:
        num_rows = len(columns.numbers)
        entities = trial.complete(entities, self.schema, columns)
        if num_rows == 1 and isinstance(ids, str):
            scored = self._try_one(trial, columns, None if entities is None else entities[0], ids)
            if scored is not None:
                return scored
        split = trial.split(row_ids(ids, num_rows), entities)
        parts = trial.ask(columns, split)
        if self.recorder is not None:
            for part in parts:
                self.recorder.record(part, columns, entities=entities, ids=ids, buckets=split.buckets)
            if trial.shadow is not None:
                for call in self.recorder.copies(columns, entities=entities, ids=ids, split=split):
                    trial.shadow.offer(call)
        for part in parts:
            if part.error is not None and part.origin.variant == CHAMPION:
                raise part.error
        given = [part for part in parts if part.error is None]
        if len(given) == 1:
            return Scored(given[0].predictions or Predictions(), (self._stamp(given[0].origin),), ids=ids)
        index = np.zeros(num_rows, dtype=np.int64)
        for position, part in enumerate(given):
            index[part.rows] = position
        stamps = tuple(self._stamp(part.origin) for part in given)
        return Scored(merge(parts, num_rows), stamps, index.tolist(), ids=ids)

    def _try_one(self, trial: Trial, columns: Columns, entity: str | pa.Scalar | None, ids: str) -> Scored | None:
        """One row, which nearly all requests have; None when its variant fails and it has to go the long way."""
        if entity is None:
            bucket = trial.splitter.bucket(ids)
        else:
            entity = entity if isinstance(entity, str) else entity.as_py()
            bucket = trial.splitter.kept_bucket(entity)
        mine = bucket < trial.threshold
        contender = trial.challenger if mine and trial.experiment.mode is Mode.AB else trial.champion
        began = time.perf_counter()
        try:
            predictions = contender.predict(columns)
        except PredictionError:
            return None
        latency_s = time.perf_counter() - began
        if self.recorder is not None:
            single = Single(contender.origin, ids, time.time(), latency_s, columns, predictions, entity, bucket)
            self.recorder.log.put(single)
            if mine and trial.shadow is not None:
                trial.shadow.offer(single)
        return Scored(predictions, (self._stamp(contender.origin),), ids=ids)

    def _stamp(self, origin: Origin) -> Stamp:
        if origin.variant == CHAMPION:
            return self.stamp
        assert self.challenger is not None  # set with the trial
        return self.challenger


@dataclass(frozen=True, slots=True)
class Recording:
    """Where an arm's predictions are recorded, and how. shadow: of the process of a challenger in the shadow."""

    log: PredictionLog
    arm: Arm
    settings: LogSettings
    shadow: ShadowSettings = field(default_factory=ShadowSettings)


@dataclass(slots=True)
class ServedModel:
    """Follows a reference. A pin (`churn@7`) never moves; an alias is watched.

    A new version is loaded and has predicted before it replaces the old one; one that cannot be loaded is logged
    and left out, and the version that serves goes on. So it is with the challenger of an experiment.
    """

    registry: Registry
    reference: Reference
    _snapshot: Snapshot
    _recording: Recording | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _refused: tuple[int, float] | None = None
    _followed: tuple[str, int] | None = None

    @classmethod
    def open(
        cls,
        registry: Registry,
        reference: str,
        *,
        on_swap: Callable[[Snapshot], None] | None = None,
        recording: Recording | None = None,
        interval_s: float = WATCH_INTERVAL_S,
    ) -> ServedModel:
        """Loads and warms up now, then watches in a daemon thread. interval_s: between two looks at the registry.

        Raises: ModelNotFoundError, ModelLoadError, ConfigError.
        """
        parsed = Reference.parse(reference)
        snapshot = take_snapshot(registry, parsed, registry.resolve(parsed), recording=recording)
        served = cls(registry, parsed, snapshot, recording)
        if parsed.version is None:
            with contextlib.suppress(ZaphodError, OSError):
                served._follow(registry.state(parsed.name).experiment)
            served._thread = threading.Thread(
                target=served._watch, args=(on_swap, interval_s), name=f"watch-{reference}", daemon=True
            )
            served._thread.start()
        return served

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def check(self) -> None:
        """Raises: PredictionError when the model no longer predicts its example."""
        self._snapshot.check()

    def close(self) -> None:
        """Ends watching and the shadow; the log is its owner's to close."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._end_shadow(self._snapshot.trial)

    def refresh(self) -> bool:
        """Looks at the registry now; True when another version or another phase serves from here on.

        Raises: ZaphodError.
        """
        version = self.registry.resolve(self.reference)
        changed = False
        if version != self._snapshot.bundle.version and not self._refuses(version):
            try:
                snapshot = take_snapshot(self.registry, self.reference, version, recording=self._recording)
            except ZaphodError as error:
                if not error.retryable:
                    self._refused = (version, time.monotonic() + _REFUSED_S)
                raise
            before, self._snapshot = self._snapshot, snapshot
            self._end_shadow(before.trial)
            self._refused = self._followed = None
            changed = True
        if self.reference.version is not None:
            return changed
        return self._follow(self.registry.state(self.reference.name).experiment) or changed

    def _follow(self, experiment: Experiment | None) -> bool:
        """Begins, moves on or ends the experiment between the version that serves and another.

        Raises: ZaphodError when its challenger cannot be used: once, or at each look where that may pass. The champion
            answers all then.
        """
        snapshot = self._snapshot
        if self.reference.alias != CHAMPION or (experiment and experiment.champion != snapshot.bundle.version):
            experiment = None
        wanted = None if experiment is None else (experiment.id, experiment.phase.number)
        if wanted == self._followed:
            return False
        self._followed = wanted
        before = snapshot.trial
        trial = None
        try:
            if experiment is not None:
                trial = begin_trial(self.registry, snapshot, experiment, recording=self._recording)
        except (ZaphodError, OSError) as error:
            if not isinstance(error, ZaphodError) or error.retryable:
                self._followed = None
            raise
        finally:
            stamp = None if trial is None else stamp_of(trial.challenger.origin)
            self._snapshot = dataclasses.replace(snapshot, trial=trial, challenger=stamp)
            self._end_shadow(before)
        return True

    def _refuses(self, version: int) -> bool:
        return self._refused is not None and self._refused[0] == version and time.monotonic() < self._refused[1]

    def _end_shadow(self, trial: Trial | None) -> None:
        if trial is not None and trial.shadow is not None:
            trial.shadow.close()

    def _watch(self, on_swap: Callable[[Snapshot], None] | None, interval_s: float) -> None:
        while not self._stop.wait(interval_s):
            try:
                if self.refresh():
                    snapshot = self._snapshot
                    _log.info(
                        "model swapped",
                        extra={
                            "model": self.reference.name,
                            "version": snapshot.stamp.version,
                            "experiment": None if snapshot.trial is None else snapshot.trial.experiment.id,
                        },
                    )
                    if on_swap is not None:
                        on_swap(snapshot)
            except Exception:  # noqa: BLE001  # whatever is wrong with a version, the next one is to be followed
                _log.exception("cannot follow the registry; the version that serves goes on")


def take_snapshot(
    registry: Registry, reference: Reference, version: int, *, recording: Recording | None = None
) -> Snapshot:
    """Loads, verifies and warms up one version. Raises: ModelNotFoundError, ModelLoadError, PredictionError."""
    bundle = registry.load(reference.name, version)
    stamp = Stamp(model=bundle.name, version=version, variant=reference.alias or CHAMPION, bundle_sha256=bundle.sha256)
    origin = Origin(
        arm="" if recording is None else recording.arm, model=stamp.model, version=version,
        bundle_sha256=stamp.bundle_sha256, schema=bundle.schema, variant=stamp.variant,
    )  # fmt: skip
    snapshot = Snapshot(
        bundle=bundle,
        predictor=bundle.load_predictor(),
        decoder=RowDecoder(bundle.schema),
        stamp=stamp,
        example=bundle.example,
        recorder=None if recording is None else Recorder(recording.log, origin),
    )
    # So that the first caller pays for nothing, and a model that cannot predict is found before it serves.
    snapshot.check()
    return snapshot


def begin_trial(
    registry: Registry, snapshot: Snapshot, experiment: Experiment, *, recording: Recording | None
) -> Trial | None:
    """The challenger loaded and warmed up, here or, in the shadow, in its own process; None for batch's modes.

    Raises: ModelError, ConfigError when the challenger cannot be used.
    """
    phase, mode = experiment.phase, experiment.mode
    if mode is Mode.INTERLEAVE or (mode is Mode.SHADOW and recording is None):
        return None
    bundle = registry.load(snapshot.bundle.name, experiment.challenger)
    projection = project(snapshot.schema, bundle.schema)
    champion = Origin(
        arm="" if recording is None else recording.arm, model=bundle.name, version=experiment.champion,
        bundle_sha256=snapshot.bundle.sha256, schema=snapshot.schema, variant=CHAMPION, experiment=experiment.id,
        phase=phase.number, mode=mode,
    )  # fmt: skip
    challenger = dataclasses.replace(
        champion, version=experiment.challenger, bundle_sha256=bundle.sha256, variant=CHALLENGER,
        answered=mode is Mode.AB,
    )  # fmt: skip
    contender = Contender(bundle.load_predictor() if mode is Mode.AB else snapshot.predictor, challenger, projection)
    shadow = None
    if mode is Mode.AB:
        contender.predict(snapshot.decoder.columns([snapshot.decoder.convert_row(snapshot.example)]))
    elif recording is not None:
        task = ShadowTask(
            registry=registry.uri, model=bundle.name, champion=experiment.champion, challenger=experiment.challenger,
            experiment=experiment.id, phase=phase.number, mode=mode, arm=recording.arm,
            log=msgspec.Raw(recording.settings.model_dump_json(exclude={"hash_key"}).encode()),
        )  # fmt: skip
        shadow = ShadowWorker(
            task, origin=challenger, log=recording.log, log_settings=recording.settings, settings=recording.shadow
        )
    return Trial(
        experiment=experiment,
        champion=Contender(snapshot.predictor, champion),
        challenger=contender,
        fallback=dataclasses.replace(champion, fallback=True),
        splitter=Splitter(experiment.salt),
        threshold=threshold_of(phase.share),
        shadow=shadow,
    )
