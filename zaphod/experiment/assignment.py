"""Who gets the challenger: a pure function of salt and entity, the same in every arm, process and release.

An entity's bucket is BLAKE2b keyed with the experiment's salt, 64 bits, big-endian, modulo `NUM_BUCKETS`. The
challenger has the buckets below its share, so an entity that got it at 5 % keeps it at 10 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zaphod.errors import ConfigError

NUM_BUCKETS = 10_000
RAMP = (0.01, 0.05, 0.10, 0.25, 0.50)
"""The challenger's share, phase by phase."""

_DIGEST_BYTES = 8
_MAX_KEPT = 50_000
# In buckets: a share has been through text and binary fractions.
_ROUNDING = 1e-9


class Splitter:
    """Buckets of one salt. Cheap to keep, safe to share between threads."""

    def __init__(self, salt: str) -> None:
        """salt: 1 to 64 bytes of UTF-8, another one for each experiment. Raises: ConfigError."""
        key = salt.encode()
        if not 1 <= len(key) <= hashlib.blake2b.MAX_KEY_SIZE:
            raise ConfigError(f"Expected a salt of 1 to {hashlib.blake2b.MAX_KEY_SIZE} bytes, got {len(key)}")
        self._keyed = hashlib.blake2b(digest_size=_DIGEST_BYTES, key=key)
        self._kept: dict[str, int] = {}

    def bucket(self, entity: str) -> int:
        """From 0 to NUM_BUCKETS - 1."""
        keyed = self._keyed.copy()
        keyed.update(entity.encode())
        return int.from_bytes(keyed.digest(), "big") % NUM_BUCKETS

    def kept_bucket(self, entity: str) -> int:
        """As `bucket`, for one that comes again and again: the newest are kept, and found in a tenth of the time."""
        found = self._kept.get(entity)
        if found is None:
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            found = self._kept[entity] = self.bucket(entity)
        return found

    def buckets(self, entities: Sequence[str] | pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Shape (len(entities),). An Arrow array of strings without nulls is hashed once for each distinct entity."""
        if isinstance(entities, pa.ChunkedArray):
            entities = entities.combine_chunks()
        if isinstance(entities, pa.Array):
            encoded = entities.dictionary_encode()
            places: NDArray[np.int32] = encoded.indices.to_numpy(zero_copy_only=False)
            return self.buckets(encoded.dictionary.to_pylist())[places]
        digests = bytearray()
        for entity in entities:
            keyed = self._keyed.copy()
            keyed.update(entity.encode())
            digests += keyed.digest()
        return (np.frombuffer(digests, dtype=">u8") % NUM_BUCKETS).astype(np.int64)


def check_share(share: float) -> None:
    """Raises: ConfigError for a share that is none, or no whole number of buckets: it would not be kept to."""
    nearest = threshold_of(share) / NUM_BUCKETS
    if abs(share - nearest) * NUM_BUCKETS > _ROUNDING:
        raise ConfigError(
            f"Cannot give the challenger a share of {share:g}: entities are in {NUM_BUCKETS:,} buckets. Take a "
            f"multiple of {1 / NUM_BUCKETS:g}, such as {nearest or 1 / NUM_BUCKETS:g}."
        )


def threshold_of(share: float) -> int:
    """Buckets below it are the challenger's, rounded. Raises: ConfigError for a share outside 0 to 1."""
    threshold = round(share * NUM_BUCKETS)
    if not 0 <= threshold <= NUM_BUCKETS:
        raise ConfigError(f"Expected a share from 0 to 1, got {share}")
    return threshold


def next_share(share: float) -> float | None:
    """The ramp's next step above a share; None at its end."""
    return next((step for step in RAMP if step > share), None)
