"""The prediction log that an arm holds."""

from __future__ import annotations

import os
from collections.abc import Mapping

from zaphod.monitoring.encode import RecordEncoder
from zaphod.monitoring.policy import KEY_METADATA, open_hasher
from zaphod.monitoring.record import Call, Single, Singles
from zaphod.monitoring.segments import SegmentWriter
from zaphod.monitoring.settings import LogSettings
from zaphod.storage import open_storage

PredictionLog = SegmentWriter[Call | Single | Singles]
"""Takes calls and returns at once; writes `log/<model>/date=…/hour=…/….parquet` below the settings' `uri`."""


def open_log(
    settings: LogSettings, *, environ: Mapping[str, str] = os.environ, waits: bool = True
) -> PredictionLog | None:
    """None when the settings name no place. Starts the writer's thread. waits: as `SegmentWriter`.

    Raises: ConfigError.
    """
    if settings.uri is None:
        return None
    storage = open_storage(settings.uri)
    key = settings.hash_key
    hasher = open_hasher(storage, None if key is None else key.get_secret_value(), environ)
    encoder = RecordEncoder(hasher, entity=settings.entity, features=settings.features)
    metadata = {"zaphod.format": "1", KEY_METADATA: hasher.key_id}
    return SegmentWriter(storage, encoder, settings, metadata=metadata, waits=waits)
