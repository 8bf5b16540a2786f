"""validation.json: everything a validation found, and the verdict on it."""

from __future__ import annotations

import msgspec

from zaphod.validation.compatibility import SchemaChange
from zaphod.validation.data import DataIdentity
from zaphod.validation.drift import FieldDrift
from zaphod.validation.latency import Latency
from zaphod.validation.measured import Comparison, ModelMetrics, Role
from zaphod.validation.pictures import Pictures
from zaphod.validation.rows import Kind
from zaphod.validation.slices import SliceReport
from zaphod.validation.verdict import Verdict


class RejectCount(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that break the schema, by field and reason."""

    field: str
    reason: str
    num_rows: int


class Holdout(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on. num_rows were scored; the others broke a schema or had no label."""

    data: DataIdentity
    targets: tuple[str, ...]
    num_rows: int
    num_rejected: int
    num_champion_rejected: int
    num_unlabelled: int
    rejects: tuple[RejectCount, ...]


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """A version that took part."""

    name: str
    version: int
    bundle_sha256: str
    engine: str


class Validation(msgspec.Struct, frozen=True, kw_only=True):
    """One validation of one version. champion_note: why there is no champion to compare with."""

    zaphod_version: str
    created: str
    candidate: Subject
    champion: Subject | None
    champion_note: str
    kind: Kind
    holdout: Holdout
    train: DataIdentity | None
    baseline_note: str
    models: tuple[ModelMetrics, ...]
    comparisons: tuple[Comparison, ...]
    slices: SliceReport
    drift: tuple[FieldDrift, ...] | None
    latency: Latency
    bundle_bytes: int
    schema_changes: tuple[SchemaChange, ...]
    pictures: Pictures
    num_shards: int
    seconds: float
    settings: msgspec.Raw
    verdict: Verdict

    def model(self, role: Role) -> ModelMetrics | None:
        return next((one for one in self.models if one.role is role), None)

    def comparison(self, role: Role) -> Comparison | None:
        return next((one for one in self.comparisons if one.role is role), None)

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"
