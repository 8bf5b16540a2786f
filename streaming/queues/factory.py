"""Opens the queue that the settings name."""

from __future__ import annotations

from pathlib import Path

from streaming.queues.base import Queue
from streaming.queues.sqlite import SqliteQueue
from streaming.settings import QueueSettings
from zaphod.errors import ConfigError


def open_queue(settings: QueueSettings) -> Queue:
    """Raises: ConfigError, QueueUnavailableError."""
    if settings.kind == "redis":
        # Its client is not needed for the embedded queue.
        from streaming.queues.redis import RedisQueue

        return RedisQueue(
            settings.url.get_secret_value(),
            name=settings.name,
            num_partitions=settings.partitions,
            dedupe_window_s=settings.dedupe_window_s,
        )
    if settings.kind == "kafka":
        try:
            from streaming.queues.kafka import KafkaQueue
        except ModuleNotFoundError as error:
            raise ConfigError(
                "Cannot use Kafka: its client is not installed. Run `pip install -e '.[kafka]'` in Zaphod's folder."
            ) from error
        return KafkaQueue(
            settings.url.get_secret_value().removeprefix("kafka://"),
            name=settings.name,
            num_partitions=settings.partitions,
            dedupe_window_s=settings.dedupe_window_s,
            options={name: value.get_secret_value() for name, value in settings.options.items()},
        )
    return SqliteQueue(
        Path(settings.path),
        num_partitions=settings.partitions,
        durability=settings.durability,
        dedupe_window_s=settings.dedupe_window_s,
    )
