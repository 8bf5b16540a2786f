"""How an arm logs its predictions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, Self

import pydantic

from zaphod.schema import LogPolicy
from zaphod.settings import Settings

KEY_VARIABLE = "ZAPHOD_LOG_KEY"


class LogSettings(Settings):
    """The prediction log and the outcomes that come back."""

    uri: str | None = None
    """The folder or bucket of the log; every arm and every node may share one. Nothing is logged when not set."""

    features: bool = True
    """Log what the model was asked, each field by its policy in the schema; else only what it answered."""

    entity: LogPolicy = LogPolicy.HASH
    """What is kept of the entity. Experiments count entities: with `drop` every prediction counts as one of its own."""

    hash_key: pydantic.SecretStr | None = None
    """The key of every hash in the log, or `ZAPHOD_LOG_KEY`. When neither is set, one is made and kept in the log's
    folder: whoever reads the log can then test guesses. Every writer of a log needs the same. Never shown."""

    flush_s: pydantic.PositiveFloat = 2.0
    """What is logged is in its file this soon. A crash loses no more than this, a close nothing unless the
    storage is away."""

    segment_rows: pydantic.PositiveInt = 100_000
    """A file is written earlier when this many rows wait for it."""

    compression: Literal["none", "lz4", "zstd"] = "none"
    """Of the files. `zstd` makes them two to three times smaller and takes several times as long as all else."""

    max_rows: pydantic.PositiveInt = 400_000
    """Rows that wait in memory at most, while the storage is slow or away."""

    when_full: Literal["drop", "block"] = "drop"
    """`drop`: predictions go on and what is not logged is counted. `block`: no prediction without its record; they
    wait, but for those over HTTP and gRPC, which are refused with 503."""

    def below(self, home: Path) -> Self:
        """For other processes: a relative uri starts at this folder, and the key of this environment goes along."""
        changed: dict[str, object] = {}
        if self.uri is not None and "://" not in self.uri:
            changed["uri"] = str(home / self.uri)
        if self.hash_key is None and KEY_VARIABLE in os.environ:
            changed["hash_key"] = pydantic.SecretStr(os.environ[KEY_VARIABLE])
        return self.model_copy(update=changed)
