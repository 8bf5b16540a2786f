"""What the gate says, for those who act on it."""

from __future__ import annotations

import enum

import msgspec


class Status(enum.StrEnum):
    """What became of a check. A skipped one neither passes nor fails a version."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One rule applied. value and limit are what was compared, where that is a number."""

    name: str
    status: Status
    detail: str
    value: float | None = None
    limit: float | None = None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """passed: no check failed. reasons: one sentence for each that did."""

    passed: bool
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
