"""What an arm holds: a model that follows the registry, swapped between two calls by one reference."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from zaphod.bundle import Bundle
from zaphod.columns import Columns, RowDecoder
from zaphod.errors import ZaphodError
from zaphod.outputs import JsonScalar
from zaphod.predictor import Predictions, Predictor
from zaphod.registry import CHAMPION, Reference, Registry
from zaphod.schema import Schema

_log = logging.getLogger(__name__)

# A promotion must show in every arm within two seconds; a look at a local registry costs about 50 us.
_WATCH_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class Stamp:
    """Who gave an answer."""

    model: str
    version: int
    variant: str
    bundle_sha256: str


@dataclass(frozen=True, slots=True)
class Scored:
    """Predictions with the stamps of the variants that made them.

    stamp_index: position in `stamps` of each row's variant; None when one variant answered all rows.
    """

    predictions: Predictions
    stamps: tuple[Stamp, ...]
    stamp_index: Sequence[int] | None = None

    def stamp_of(self, row: int) -> Stamp:
        return self.stamps[0 if self.stamp_index is None else self.stamp_index[row]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The model at one moment. Decode and score with the same snapshot: the next one may have another schema."""

    bundle: Bundle
    predictor: Predictor
    decoder: RowDecoder
    stamp: Stamp
    example: Mapping[str, JsonScalar]

    @property
    def schema(self) -> Schema:
        return self.bundle.schema

    @property
    def inline(self) -> bool:
        """One row takes microseconds: it may be scored on an event loop."""
        return self.predictor.engine == "onnx"

    def check(self) -> None:
        """Predicts the example row. Raises: PredictionError, InvalidInputError."""
        self.predictor.predict(self.decoder.columns([self.decoder.convert_row(self.example)]))

    def score(self, columns: Columns, *, entities: Sequence[str] | None = None) -> Scored:
        """`entities` name whom each row is about, where the caller knows; an experiment assigns by them.

        Raises: PredictionError when the model fails on valid rows.
        """
        return Scored(predictions=self.predictor.predict(columns), stamps=(self.stamp,))


@dataclass(slots=True)
class ServedModel:
    """Follows a reference. A pin (`churn@7`) never moves; an alias is watched.

    A new version is loaded and has predicted before it replaces the old one; one that cannot be loaded is logged
    and left out, and the version that serves goes on.
    """

    registry: Registry
    reference: Reference
    _snapshot: Snapshot
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _refused: int | None = None

    @classmethod
    def open(
        cls, registry: Registry, reference: str, *, on_swap: Callable[[Snapshot], None] | None = None
    ) -> ServedModel:
        """Loads and warms up now, then watches in a daemon thread.

        Raises: ModelNotFoundError, ModelLoadError, ConfigError.
        """
        parsed = Reference.parse(reference)
        served = cls(registry, parsed, take_snapshot(registry, parsed, registry.resolve(parsed)))
        if parsed.version is None:
            served._thread = threading.Thread(
                target=served._watch, args=(on_swap,), name=f"watch-{reference}", daemon=True
            )
            served._thread.start()
        return served

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def check(self) -> None:
        """Raises: PredictionError when the model no longer predicts its example."""
        self._snapshot.check()

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def refresh(self) -> bool:
        """Looks at the registry now; True when another version serves from here on. Raises: ZaphodError."""
        version = self.registry.resolve(self.reference)
        if version == self._snapshot.bundle.version or version == self._refused:
            return False
        try:
            self._snapshot = take_snapshot(self.registry, self.reference, version)
        except ZaphodError:
            self._refused = version
            raise
        self._refused = None
        return True

    def _watch(self, on_swap: Callable[[Snapshot], None] | None) -> None:
        while not self._stop.wait(_WATCH_INTERVAL_S):
            try:
                if self.refresh():
                    _log.info(
                        "model swapped", extra={"model": self.reference.name, "version": self._snapshot.stamp.version}
                    )
                    if on_swap is not None:
                        on_swap(self._snapshot)
            except (ZaphodError, OSError):
                _log.exception("cannot follow the registry; the version that serves goes on")


def take_snapshot(registry: Registry, reference: Reference, version: int) -> Snapshot:
    """Loads, verifies and warms up one version. Raises: ModelNotFoundError, ModelLoadError, PredictionError."""
    bundle = registry.load(reference.name, version)
    snapshot = Snapshot(
        bundle=bundle,
        predictor=bundle.load_predictor(),
        decoder=RowDecoder(bundle.schema),
        stamp=Stamp(
            model=bundle.name, version=version, variant=reference.alias or CHAMPION, bundle_sha256=bundle.sha256
        ),
        example=bundle.example,
    )
    # So that the first caller pays for nothing, and a model that cannot predict is found before it serves.
    snapshot.check()
    return snapshot
