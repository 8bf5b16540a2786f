"""From a fitted estimator to a bundle in the registry: compile, prove parity, seal."""

from __future__ import annotations

import datetime
import importlib.metadata
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from zaphod import trust
from zaphod.bundle import EXAMPLE, ONNX, PARITY, PROFILE, SCHEMA, SKOPS, Manifest, seal
from zaphod.columns import Columns, from_table, to_arrow
from zaphod.errors import ModelLoadError, PackagingError, PredictionError
from zaphod.given_onnx import GivenOnnxPredictor, infer_onnx_output
from zaphod.inference import infer_fields, infer_schema
from zaphod.registry import Registry
from zaphod.schema import Schema
from zaphod.sklearn_predictor import SklearnPredictor
from zaphod.validation.profile import make_profile

_LIBRARIES = ("scikit-learn", "numpy", "pandas", "onnxruntime", "skops", "zaphod")
_MAX_PARITY_ROWS = 5000


@dataclass(frozen=True, slots=True)
class Packaged:
    """What `package` made: the version, the engine that serves it and why that one."""

    name: str
    version: int
    engine: Literal["onnx", "sklearn"]
    reason: str


def package(
    estimator: BaseEstimator,
    *,
    name: str,
    sample: pd.DataFrame,
    registry: Registry,
    schema: Schema | None = None,
    nullable: Collection[str] = (),
    description: str = "",
    origin: str = "an estimator in memory",
) -> Packaged:
    """Stores a fitted estimator as the next version of a model. No alias moves.

    sample: rows as the estimator takes them, the more the better: the schema is inferred and parity is proved on them.
    schema: used as it is when given. nullable: fields that may be null though the sample has no null in them.

    Raises: PackagingError when the estimator cannot be stored safely or cannot predict the sample.
    """
    schema = schema or infer_schema(estimator, sample, nullable=nullable)
    columns = sample_columns(schema, sample)
    skops_bytes = trust.dump_estimator(estimator)
    # What will be served is what was stored: every check below runs on the estimator that came back from the file.
    reference = SklearnPredictor(trust.load_estimator(skops_bytes), schema)
    files = {
        SCHEMA: schema.to_json(),
        SKOPS: skops_bytes,
        EXAMPLE: _example(schema, columns),
        PROFILE: make_profile(schema, columns, reference.predict(columns)),
    }
    onnx_bytes, parity = _compile(estimator, schema, reference=reference, columns=columns, sample=sample)
    files[PARITY] = parity
    if onnx_bytes is not None:
        files[ONNX] = onnx_bytes
    engine: Literal["onnx", "sklearn"] = "sklearn" if onnx_bytes is None else "onnx"
    manifest = _manifest(name, engine=engine, description=description, origin=origin)
    version = registry.publish(name, seal(manifest, files))
    reason = "parity holds" if engine == "onnx" else msgspec.json.decode(parity)["reason"]
    return Packaged(name=name, version=version, engine=engine, reason=reason)


def package_onnx(
    model: bytes,
    *,
    name: str,
    sample: pd.DataFrame,
    registry: Registry,
    schema: Schema | None = None,
    nullable: Collection[str] = (),
    description: str = "",
    origin: str = "an ONNX model in memory",
) -> Packaged:
    """Stores a ready ONNX model as the next version. It is served as it is: there is no estimator to compare it with.

    Raises: PackagingError when it does not take the sample's fields or cannot predict them.
    """
    if schema is None:
        fields = infer_fields(sample, nullable=nullable)
        schema = Schema(fields=fields, output=infer_onnx_output(model, fields))
    columns = sample_columns(schema, sample)
    try:
        predictions = GivenOnnxPredictor(model, schema).predict(columns)
    except (ModelLoadError, PredictionError) as error:
        raise PackagingError(f"Cannot package the ONNX model: {error.message}") from error
    reason = "given as ONNX: there is no estimator to compare it with"
    files = {
        SCHEMA: schema.to_json(),
        ONNX: model,
        EXAMPLE: _example(schema, columns),
        PROFILE: make_profile(schema, columns, predictions),
        PARITY: msgspec.json.encode({"passed": False, "reason": reason}),
    }
    manifest = _manifest(name, engine="onnx", description=description, origin=origin, given=True)
    version = registry.publish(name, seal(manifest, files))
    return Packaged(name=name, version=version, engine="onnx", reason=reason)


def _manifest(
    name: str, *, engine: Literal["onnx", "sklearn"], description: str, origin: str, given: bool = False
) -> Manifest:
    return Manifest(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        engine=engine,
        given=given,
        origin=origin,
        files={},
        libraries={library: importlib.metadata.version(library) for library in _LIBRARIES},
        source_revision=_source_revision(),
        description=description,
    )


def sample_columns(schema: Schema, sample: pd.DataFrame) -> Columns:
    """The sample through the same checks as served rows. Raises: PackagingError when a row fails them."""
    import pyarrow as pa

    decoded = from_table(schema, pa.Table.from_pandas(sample, preserve_index=False))
    if decoded.rejects:
        first = decoded.rejects[0]
        raise PackagingError(
            f"Cannot package: {len(decoded.rejects)} sample rows break the schema; row {first.row}: {first.reason} - "
            f"at `{first.field}`. Correct the schema or the sample."
        )
    return decoded.columns


def _example(schema: Schema, columns: Columns) -> bytes:
    """The first sample row without nulls as JSON, or else the first."""
    complete = ~np.isnan(columns.numbers).any(axis=1)
    row = columns.take(np.array([int(np.argmax(complete))], dtype=np.int64))
    return msgspec.json.encode(to_arrow(schema, row).to_pylist()[0])


def _compile(
    estimator: BaseEstimator, schema: Schema, *, reference: SklearnPredictor, columns: Columns, sample: pd.DataFrame
) -> tuple[bytes | None, bytes]:
    """The ONNX model if it is proved to agree, and parity.json, which holds the reason if not."""
    from zaphod.compiler import NotCompilable, compile_model

    try:
        compiled = compile_model(estimator, schema, sample=sample)
    except NotCompilable as error:
        return None, msgspec.json.encode({"passed": False, "reason": str(error)})
    from zaphod.compiler.engine import OnnxPredictor
    from zaphod.compiler.parity import check_parity

    rows = np.unique(np.linspace(0, columns.num_rows - 1, _MAX_PARITY_ROWS, dtype=np.int64))
    parity = check_parity(reference, OnnxPredictor(compiled.model, schema), schema, sample=columns.take(rows))
    return (compiled.model if parity.passed else None), msgspec.json.format(msgspec.json.encode(parity), indent=2)


def _source_revision() -> str | None:
    """The git revision of the folder that packages, `-dirty` when it has changes; None outside git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],  # noqa: S607  # the git on the caller's path
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
