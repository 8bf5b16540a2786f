"""How an arm logs its predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import pydantic

from zaphod.schema import LogPolicy
from zaphod.settings import Settings


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
    """What is logged is in its file this soon. A crash loses no more than this, a close loses nothing."""

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
        """A relative uri starts at this folder."""
        if self.uri is None or "://" in self.uri:
            return self
        return self.model_copy(update={"uri": str(home / self.uri)})
