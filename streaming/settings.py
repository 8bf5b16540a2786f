"""What configs/streaming.yaml may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import pydantic

from zaphod.monitoring.settings import LogSettings
from zaphod.settings import Settings
from zaphod.shadow import ShadowSettings


class QueueSettings(Settings):
    """Where the events are."""

    kind: Literal["sqlite", "redis", "kafka"] = "sqlite"
    """The backend: `sqlite` is embedded and for one node, `redis` (a server of version 7.0 or later) and `kafka` are
    for many."""

    path: str = "var/stream"
    """sqlite: the stream's folder, on a local disk."""

    url: pydantic.SecretStr = pydantic.SecretStr("redis://127.0.0.1:6379/0")
    """The server's address: `redis://user:password@host:6379/0`, or `kafka://host:9092,host:9092`. Never shown."""

    options: Mapping[str, pydantic.SecretStr] = {}
    """kafka: further settings of librdkafka, such as `security.protocol`. Never shown."""

    name: str = pydantic.Field(default="zaphod", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """redis and kafka: the stream's name, before each of its keys or topics."""

    partitions: int = pydantic.Field(default=4, ge=1, le=1024)
    """Number of partitions; fixed when the stream is made. At most so many scorers have work."""

    durability: Literal["os", "disk"] = "os"
    """sqlite. `os`: a commit survives the death of every process. `disk`: also the loss of power, at an fsync a
    commit. Servers have a setting of their own for it."""

    dedupe_window_s: pydantic.PositiveFloat = 600.0
    """For so long a second event with the same id is dropped as a producer's retry."""

    lease_s: pydantic.PositiveFloat = 5.0
    """A scorer that has not renewed its lease for so long loses its partitions."""

    keep_s: pydantic.PositiveFloat | None = None
    """sqlite and redis: older outputs are removed, and older events that are scored; none when not set. Kafka's topics
    have a `retention.ms` of their own."""

    @pydantic.model_validator(mode="after")
    def _kept_by_the_broker(self) -> Self:
        if self.keep_s is not None and self.kind == "kafka":
            raise ValueError("Expected no keep_s with kind kafka, got one: set retention.ms of its topics instead")
        return self

    @property
    def place(self) -> tuple[str, ...]:
        """Equal for two that are the same stream; the last part may be shown."""
        return ("sqlite", self.path) if self.kind == "sqlite" else (self.kind, self.url.get_secret_value(), self.name)


class ScoringSettings(Settings):
    """How events are scored."""

    max_batch: int = pydantic.Field(default=256, ge=1, le=10_000)
    """Events in one micro-batch at most. What waits is taken at once; nobody waits for a batch to fill."""

    max_attempts: int = pydantic.Field(default=3, ge=1, le=100)
    """Tries of an event on which the model fails or the process dies, before it becomes a dead letter."""

    backoff_s: pydantic.PositiveFloat = 0.05
    """Pause before the second try; doubled for each further one."""

    max_backoff_s: pydantic.PositiveFloat = 5.0
    """Longest pause between two tries to reach the queue."""


class PoolSettings(Settings):
    """How many scorers there are."""

    min_scorers: pydantic.PositiveInt = 1
    """Scorer actors at least."""

    max_scorers: pydantic.PositiveInt = 4
    """Scorer actors at most."""

    scale_up_age_s: pydantic.PositiveFloat = 1.0
    """An event that waits longer than this is late."""

    scale_up_lag: pydantic.PositiveInt = 20_000
    """When more events than this wait, the pool is late too, however young they are."""

    scale_up_after_s: pydantic.NonNegativeFloat = 3.0
    """When the pool has been late for so long, a scorer is added."""

    scale_down_after_s: pydantic.NonNegativeFloat = 60.0
    """When it has not been late for so long, a scorer is taken away."""

    placement: Literal["auto", "one_node", "spread"] = "auto"
    """Where scorers run: on the node that supervises, or spread over all; `auto` spreads when the queue allows it."""

    num_cpus: pydantic.PositiveFloat = 0.5
    """CPUs that Ray reserves for a scorer."""

    drain_s: pydantic.PositiveFloat = 20.0
    """On SIGTERM: time for scorers to commit what is at hand and give back their leases."""

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_scorers > self.max_scorers:
            raise ValueError(f"Expected min_scorers <= max_scorers, got {self.min_scorers} > {self.max_scorers}")
        return self


class MetricsSettings(Settings):
    """Where Prometheus finds the pool's numbers."""

    host: str = "127.0.0.1"
    """The address to listen on; anybody who reaches it can read the numbers."""

    port: int | None = pydantic.Field(default=None, ge=1, le=65535)
    """The port of `/metrics`; none when not set."""


class StreamingSettings(Settings):
    """The streaming arm."""

    registry: str = "var/registry"
    """The registry's folder or bucket."""

    model: str
    """Reference of the model: `name`, `name@alias` or `name@7`."""

    queue: QueueSettings = QueueSettings()
    """Where the events are."""

    scoring: ScoringSettings = ScoringSettings()
    """How events are scored."""

    pool: PoolSettings = PoolSettings()
    """How many scorers there are."""

    metrics: MetricsSettings = MetricsSettings()
    """Where Prometheus finds the pool's numbers."""

    outcomes: QueueSettings | None = None
    """The topic of outcomes, with the same keys as `queue`, for `python -m streaming outcomes`."""

    monitoring: LogSettings = LogSettings()
    """The prediction log and the outcomes."""

    shadow: ShadowSettings = ShadowSettings()
    """The process in which a challenger in the shadow scores copies, one for each scorer."""

    @pydantic.model_validator(mode="after")
    def _on_one_node(self) -> Self:
        if self.pool.placement == "spread" and self.queue.kind == "sqlite":
            raise ValueError(
                "Expected queue.kind redis or kafka for pool.placement spread, got sqlite, which is for one node"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _of_their_own(self) -> Self:
        if self.outcomes is not None and self.outcomes.place == self.queue.place:
            raise ValueError(
                f"Expected a topic of their own for outcomes, got the events' {self.queue.place[-1]!r}: set "
                f"outcomes.{'path' if self.queue.kind == 'sqlite' else 'name'}"
            )
        return self
