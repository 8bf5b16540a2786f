"""One model as JSON."""

from __future__ import annotations

import msgspec

from zaphod.served import Snapshot


def describe(reference: str, snapshot: Snapshot) -> dict[str, object]:
    """Who answers, what it takes and gives."""
    return {
        "model": reference,
        "version": snapshot.stamp.version,
        "variant": snapshot.stamp.variant,
        "engine": snapshot.predictor.engine,
        "sha256": snapshot.stamp.bundle_sha256,
        "description": snapshot.bundle.manifest.description,
        "schema": msgspec.to_builtins(snapshot.schema),
        "example": {"rows": [snapshot.example]},
    }
