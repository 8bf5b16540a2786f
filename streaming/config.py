"""Reads configs/streaming.yaml for every command."""

from __future__ import annotations

import os
from pathlib import Path

from streaming.settings import StreamingSettings
from zaphod import machine
from zaphod.settings import load_settings

DEFAULT = Path("configs/streaming.yaml")


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
