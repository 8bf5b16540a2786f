"""Reads configs/streaming.yaml for every command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from streaming.settings import QueueSettings, StreamingSettings
from zaphod import machine
from zaphod.errors import ConfigError
from zaphod.settings import load_settings

DEFAULT = Path("configs/streaming.yaml")

Topic: TypeAlias = Annotated[
    Literal["events", "outcomes"], typer.Option("--topic", help="the stream of events, or the topic of outcomes")
]


def read_settings(config: Path, *, model: str | None = None) -> StreamingSettings:
    """The settings with absolute paths: scorers run in other processes, elsewhere. Raises: ConfigError."""
    settings = load_settings(StreamingSettings, path=config, flags={"model": model}, environ=os.environ)
    home = machine.home()
    queue = settings.queue.model_copy(update={"path": str(home / settings.queue.path)})
    outcomes = settings.outcomes
    if outcomes is not None:
        outcomes = outcomes.model_copy(update={"path": str(home / outcomes.path)})
    registry = settings.registry if "://" in settings.registry else str(home / settings.registry)
    return settings.model_copy(
        update={
            "queue": queue,
            "registry": registry,
            "outcomes": outcomes,
            "monitoring": settings.monitoring.below(home),
        }
    )


def queue_of(settings: StreamingSettings, topic: Literal["events", "outcomes"]) -> QueueSettings:
    """Raises: ConfigError when no topic of outcomes is set."""
    if topic == "events":
        return settings.queue
    if settings.outcomes is None:
        raise ConfigError(
            "Cannot use the topic of outcomes: none is set. Set outcomes.kind, and outcomes.path or outcomes.name."
        )
    return settings.outcomes
