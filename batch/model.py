"""The versions that a run scores with, loaded once in a process."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import msgspec

from batch.lean import spare_pandas
from zaphod.errors import ConfigError, ModelLoadError
from zaphod.predictor import Predictor
from zaphod.registry import Reference, Registry
from zaphod.schema import Schema
from zaphod.validation.profile import Profile, read_profile

_PROFILE = "profile.json"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model, held to its bundle's hash."""

    registry: str
    name: str
    version: int
    bundle_sha256: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Model:
    """profile: of the training data, where the bundle has one."""

    schema: Schema
    predictor: Predictor
    version: int
    profile: Profile | None


def resolve(registry: str, reference: str) -> Version:
    """What the reference means now. Raises: ModelNotFoundError, ModelLoadError, ConfigError."""
    parsed = Reference.parse(reference)
    opened = Registry.open(registry)
    version = opened.resolve(parsed)
    sha256 = opened.load(parsed.name, version).sha256
    return Version(registry=registry, name=parsed.name, version=version, bundle_sha256=sha256)


@functools.lru_cache(maxsize=4)
def load_model(version: Version) -> Model:
    """Raises: ModelError."""
    bundle = Registry.open(version.registry).load(version.name, version.version)
    if bundle.sha256 != version.bundle_sha256:
        raise ModelLoadError(f"Cannot score with {version}: its bundle was changed since the job started.")
    if bundle.manifest.engine == "onnx":
        spare_pandas()
    profile = bundle.files.get(_PROFILE)
    return Model(
        schema=bundle.schema,
        predictor=bundle.load_predictor(),
        version=version.version,
        profile=read_profile(profile) if profile is not None else None,
    )


def joint_schema(champion: Schema, challenger: Schema | None) -> Schema:
    """Every field that either takes; what only the challenger takes may be null, for it decides no reject.

    Raises: ConfigError when the two do not answer the same question.
    """
    if challenger is None:
        return champion
    if challenger.output != champion.output:
        raise ConfigError(
            f"Cannot compare with the challenger: it gives {challenger.output.task} of {_given(challenger)}, the "
            f"champion {champion.output.task} of {_given(champion)}. Name another."
        )
    more = tuple(
        msgspec.structs.replace(field, nullable=True) for field in challenger.fields if field.name not in champion.names
    )
    return Schema(fields=(*champion.fields, *more), output=champion.output)


def _given(schema: Schema) -> str:
    output = schema.output
    if output.target_classes:
        return str({target: list(one) for target, one in zip(output.targets, output.target_classes, strict=True)})
    return str(list(output.classes or output.targets))
