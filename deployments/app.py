"""The Ray Serve application: `import_path: deployments.app:build`."""

# No `from __future__ import annotations` here: Ray reads the type of the builder's argument at run time.

import functools
import logging
import os
from pathlib import Path

from ray import serve
from ray.serve import Application

from deployments import inline
from deployments.access import open_access
from deployments.asgi import OnlineApp
from deployments.batching import Batcher
from deployments.catalogue import Catalogue
from deployments.export import RayExport
from deployments.grpc_methods import GrpcMethods
from deployments.grpc_service import InferenceService
from deployments.lean import arrow_without_pandas
from deployments.lookups import Lookups
from deployments.metrics import Meter
from deployments.outcomes import OutcomeInbox
from deployments.protocols.every import every_protocol
from deployments.scaling import BUSY, Busyness
from deployments.scoring import Scoring
from deployments.settings import ServeArgs
from zaphod.lookup import PublishedPredictions
from zaphod.monitoring.log import open_log
from zaphod.monitoring.outcomes import open_outcomes
from zaphod.monitoring.record import Arm
from zaphod.monitoring.segments import LogCounts
from zaphod.registry import Registry
from zaphod.served import Recording, ServedModel
from zaphod.shadow import ShadowCounts

_log = logging.getLogger("ray.serve")

# Without these a replica answers a few hundred requests a second instead of thousands.
_FAST_ENV = ("RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_THROUGHPUT_OPTIMIZED")

# A heavy model's call that takes so many times longer than a caller waits is taken to never end.
_PATIENCE = 3


@serve.deployment(name="Ingress", max_ongoing_requests=64)
@serve.ingress()
class Ingress(GrpcMethods):
    """One replica: every model of the application, in process."""

    def __init__(self, args: ServeArgs) -> None:
        missing = [name for name in _FAST_ENV if os.environ.get(name) != "1"]
        if missing:
            _log.warning(
                "Ray was started without %s: this server is many times slower than it can be. "
                "Start Ray with the environment in configs/ray.env.",
                " and ".join(missing),
            )
        arrow_without_pandas()
        registry = Registry.open(args.registry)
        # On the event loop nobody may wait for room: health could not be told any more, and Ray would end the replica.
        self._log = open_log(args.monitoring, waits=False)
        self._outcomes = open_outcomes(args.monitoring, waits=False)
        recording = None
        if self._log is not None:
            recording = Recording(self._log, Arm.ONLINE, args.monitoring, args.shadow)
        self._models = {
            reference: ServedModel.open(registry, reference, recording=recording) for reference in args.models
        }
        self._busyness = Busyness()
        meter = Meter(
            replica=serve.get_replica_context().replica_tag, busyness=self._busyness, logged=self._log_counts,
            shadows=self._shadow_counts,
        )  # fmt: skip
        RayExport(meter).start()
        self._batcher = Batcher(max_rows=args.max_batch_rows)
        self._max_call_s = _PATIENCE * args.limits.predict_timeout_s
        catalogue, scoring = Catalogue(self._models), Scoring(self._batcher)
        access = open_access(args.keys_file)
        self.service = InferenceService(catalogue, scoring=scoring, limits=args.limits, access=access, meter=meter)
        self._app = OnlineApp(
            catalogue,
            protocols=every_protocol(catalogue, limits=args.limits),
            scoring=scoring,
            limits=args.limits,
            access=access,
            inbox=OutcomeInbox(self._outcomes, max_rows=args.limits.max_rows),
            lookups=Lookups(
                PublishedPredictions.open(args.predictions) if args.predictions is not None else None,
                timeout_s=args.limits.predict_timeout_s,
            ),
            meter=meter,
            slow_start=missing,
        )
        if args.inline:
            inline.install(self._app, shedding=_shedding)

    def __del__(self) -> None:
        """What Ray calls when a replica has drained: writes what the logs still hold."""
        for model in getattr(self, "_models", {}).values():
            model.close()
        for log in (getattr(self, "_log", None), getattr(self, "_outcomes", None)):
            if log is not None:
                log.close()

    def __serve_build_asgi_app__(self) -> OnlineApp:  # the name Ray looks for
        return self._app

    def record_autoscaling_stats(self) -> dict[str, float]:  # the name Ray looks for
        return {BUSY: self._busyness.measure()}

    def _log_counts(self) -> LogCounts | None:
        return None if self._log is None else self._log.counts

    def _shadow_counts(self) -> dict[str, ShadowCounts]:
        """By model, of the experiments that run in the shadow."""
        trials = {reference: served.snapshot().trial for reference, served in self._models.items()}
        return {
            reference: trial.shadow.counts
            for reference, trial in trials.items()
            if trial is not None and trial.shadow is not None
        }

    def check_health(self) -> None:
        """A replica is healthy when each of its models predicts, and what heavy ones are asked is not stuck.

        Ray calls it on a thread of its own, so that a heavy model's probe holds up nobody. Raises: PredictionError,
        PredictionTimeoutError.
        """
        self._batcher.check(max_call_s=self._max_call_s)
        for model in self._models.values():
            model.check()


def _shedding() -> inline.Shedding:
    """What the Serve configuration says now; it may change while a replica runs."""
    config = serve.get_replica_context()._deployment_config  # there is no public way to it
    return _shedding_of(
        config.max_ongoing_requests,
        config.max_queued_requests,
        config.backpressure_config.status_code,
        config.backpressure_config.retry_after_s,
    )


@functools.lru_cache(maxsize=8)
def _shedding_of(ongoing: int, queued: int, status: int, retry_after_s: float | None) -> inline.Shedding:
    return inline.Shedding(None if queued < 0 else ongoing + queued, status, retry_after_s)


def build(args: ServeArgs) -> Application:
    """The typed application builder that `serve run` and `serve deploy` call."""
    home = Path(os.environ.get("ZAPHOD_HOME", Path.cwd()))
    if "://" not in args.registry:
        args = args.model_copy(update={"registry": str(home / args.registry)})
    args = args.model_copy(update={"monitoring": args.monitoring.below(home)})
    if args.predictions is not None and "://" not in args.predictions:
        args = args.model_copy(update={"predictions": str(home / args.predictions)})
    if args.keys_file is not None:
        args = args.model_copy(update={"keys_file": str(home / args.keys_file)})
    return Ingress.bind(args)  # type: ignore[attr-defined,no-any-return]  # Ray's decorator hides the type
