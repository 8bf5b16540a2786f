"""What the docs and the OpenAPI document tell of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from zaphod.served import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a caller may know.

    snapshots: by reference, of the models that its key covers. first: of the one that answers where MLflow names none,
    if it is among them. needs_key: requests have to carry an API key. looks_up: published predictions may be asked for.
    root: the application's prefix.
    """

    snapshots: Mapping[str, Snapshot]
    first: str | None
    needs_key: bool
    looks_up: bool
    root: str
