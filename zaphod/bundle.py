"""A packaged model: files that belong together, named by version, verified by hash, never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from zaphod.errors import ModelLoadError
from zaphod.outputs import JsonScalar
from zaphod.predictor import Predictor
from zaphod.schema import Schema

MANIFEST = "bundle.json"
SCHEMA = "schema.json"
SKOPS = "model.skops"
ONNX = "model.onnx"
PARITY = "parity.json"
EXAMPLE = "example.json"
PROFILE = "profile.json"


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """bundle.json. `files` maps each file's name to its sha256 in hexadecimal; created is ISO 8601 in UTC.

    origin: what was packaged. given: the ONNX model came ready-made, and is not one of ours compiled.
    """

    name: str
    created: str
    engine: Literal["onnx", "sklearn"]
    files: dict[str, str]
    libraries: dict[str, str]
    source_revision: str | None = None
    origin: str = ""
    given: bool = False
    description: str = ""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle in memory: every byte in `files` has the hash that the manifest says.

    sha256: of bundle.json itself, so it stands for the whole.
    """

    version: int
    manifest: Manifest
    schema: Schema
    files: Mapping[str, bytes]
    sha256: str

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def example(self) -> dict[str, JsonScalar]:
        """One row that the model takes, for docs and warm-up. Raises: ModelLoadError."""
        try:
            return msgspec.json.decode(self.files[EXAMPLE], type=dict[str, int | float | bool | str | None])
        except (KeyError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ModelLoadError(f"Cannot read {EXAMPLE} of {self.name}@{self.version}: {error}") from error

    def load_predictor(self) -> Predictor:
        """The engine that the bundle names, ready to predict.

        Raises: ModelLoadError when the model cannot be loaded or was made with another scikit-learn.
        """
        if self.manifest.given:
            from zaphod.given_onnx import GivenOnnxPredictor

            return GivenOnnxPredictor(self.files[ONNX], self.schema)
        if self.manifest.engine == "onnx":
            from zaphod.compiler.engine import OnnxPredictor

            return OnnxPredictor(self.files[ONNX], self.schema)
        return self.load_reference()

    def load_reference(self) -> Predictor:
        """The scikit-learn engine, whatever the bundle names. Raises: ModelLoadError."""
        import sklearn

        from zaphod.sklearn_predictor import SklearnPredictor
        from zaphod.trust import load_estimator

        made_with = self.manifest.libraries.get("scikit-learn")
        if made_with != sklearn.__version__:
            raise ModelLoadError(
                f"Cannot load {self.name}@{self.version}: it was packaged with scikit-learn {made_with}, this is "
                f"{sklearn.__version__}. Package it again with the version that serves it."
            )
        return SklearnPredictor(load_estimator(self.files[SKOPS]), self.schema)


def seal(manifest: Manifest, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files with the bundle.json that vouches for them. Deterministic."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}
    sealed = msgspec.structs.replace(manifest, files=hashes)
    return {**files, MANIFEST: msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n"}


def verify(files: Mapping[str, bytes], *, version: int, where: str) -> Bundle:
    """Raises: ModelLoadError when bundle.json is broken, a file is missing or changed."""
    manifest_bytes = files.get(MANIFEST)
    if manifest_bytes is None:
        raise ModelLoadError(f"Cannot load {where}: it has no {MANIFEST}. Package the model again.")
    try:
        manifest = msgspec.json.decode(manifest_bytes, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"Cannot load {where}: {MANIFEST} is broken ({error}).") from error
    for name, expected in manifest.files.items():
        if name not in files:
            raise ModelLoadError(f"Cannot load {where}: {name} is missing. Restore the bundle or use another version.")
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise ModelLoadError(f"Cannot load {where}: {name} was changed. Restore the bundle or use another version.")
    for name in (SCHEMA, EXAMPLE, SKOPS if manifest.engine == "sklearn" else ONNX):
        if name not in manifest.files:
            raise ModelLoadError(f"Cannot load {where}: {MANIFEST} does not vouch for {name}. Package the model again.")
    return Bundle(
        version=version,
        manifest=manifest,
        schema=Schema.from_json(files[SCHEMA], source=f"{where}/{SCHEMA}"),
        files=files,
        sha256=hashlib.sha256(manifest_bytes).hexdigest(),
    )
