"""From a fitted estimator to a bundle in the registry: infer the schema, compile, prove parity, seal."""

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
from sklearn.base import BaseEstimator, is_classifier, is_clusterer, is_outlier_detector, is_regressor

from zaphod import trust
from zaphod.bundle import EXAMPLE, ONNX, PARITY, SCHEMA, SKOPS, Manifest, seal
from zaphod.columns import Columns, from_table, to_arrow
from zaphod.errors import PackagingError
from zaphod.registry import Registry
from zaphod.schema import DType, Field, Output, Schema, Task
from zaphod.sklearn_predictor import SklearnPredictor

_LIBRARIES = ("scikit-learn", "numpy", "pandas", "onnxruntime", "skops", "zaphod")
_MAX_CATEGORIES = 1000
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
    files = {SCHEMA: schema.to_json(), SKOPS: skops_bytes, EXAMPLE: _example(schema, columns)}
    onnx_bytes, parity = _compile(estimator, schema, reference=reference, columns=columns, sample=sample)
    files[PARITY] = parity
    if onnx_bytes is not None:
        files[ONNX] = onnx_bytes
    engine: Literal["onnx", "sklearn"] = "sklearn" if onnx_bytes is None else "onnx"
    manifest = Manifest(
        name=name,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        engine=engine,
        files={},
        libraries={library: importlib.metadata.version(library) for library in _LIBRARIES},
        source_revision=_source_revision(),
        description=description,
    )
    version = registry.publish(name, seal(manifest, files))
    reason = "parity holds" if engine == "onnx" else msgspec.json.decode(parity)["reason"]
    return Packaged(name=name, version=version, engine=engine, reason=reason)


def infer_schema(estimator: BaseEstimator, sample: pd.DataFrame, *, nullable: Collection[str] = ()) -> Schema:
    """Fields from the sample's columns and dtypes, the output from the estimator.

    Raises: PackagingError when a column's dtype or the estimator's kind has no counterpart.
    """
    unknown = set(nullable) - set(sample.columns)
    if unknown:
        raise PackagingError(
            f"Cannot make {sorted(unknown)} nullable: the sample has no such columns. Check the names."
        )
    fields = tuple(_infer_field(sample[column], nullable=column in nullable) for column in sample.columns)
    return Schema(fields=fields, output=_infer_output(estimator, sample))


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


def _infer_field(column: pd.Series, *, nullable: bool) -> Field:
    name, kind = str(column.name), column.dtype
    nullable = nullable or bool(column.isna().any())
    if isinstance(kind, pd.CategoricalDtype):
        kind = column.cat.categories.dtype
    if pd.api.types.is_bool_dtype(kind):
        return Field(name=name, dtype=DType.BOOL, nullable=nullable)
    if pd.api.types.is_numeric_dtype(kind):
        dtype = DType.INT64 if pd.api.types.is_integer_dtype(kind) else DType.FLOAT64
        values = column.dropna()
        low, high = (float(values.min()), float(values.max())) if len(values) else (None, None)
        return Field(name=name, dtype=dtype, nullable=nullable, minimum=low, maximum=high)
    if pd.api.types.is_string_dtype(kind) or kind == np.dtype(object):
        values = column.dropna()
        if not all(isinstance(value, str) for value in values):
            raise PackagingError(f"Expected strings, got a mixture of types - at column `{name}`")
        categories = tuple(sorted(set(values)))
        return Field(
            name=name,
            dtype=DType.STRING,
            nullable=nullable,
            categories=categories if len(categories) <= _MAX_CATEGORIES else None,
        )
    raise PackagingError(f"Expected numbers, booleans or strings, got {kind} - at column `{name}`. Convert it first.")


def _infer_output(estimator: BaseEstimator, sample: pd.DataFrame) -> Output:
    head = sample.head(5)
    if is_classifier(estimator):
        classes = np.asarray(estimator.classes_).tolist()
        if classes and isinstance(classes[0], list):
            raise PackagingError(
                "Cannot package a multi-output classifier: one label a row is served. Package one each."
            )
        return Output(
            task=Task.CLASSIFICATION, classes=tuple(classes), has_probabilities=hasattr(estimator, "predict_proba")
        )
    if is_regressor(estimator):
        values = np.asarray(estimator.predict(head))
        num_targets = 1 if values.ndim == 1 else values.shape[1]
        names = ("target",) if num_targets == 1 else tuple(f"target_{i}" for i in range(num_targets))
        return Output(task=Task.REGRESSION, targets=names)
    if is_outlier_detector(estimator):
        return Output(task=Task.OUTLIER)
    if is_clusterer(estimator):
        return Output(task=Task.CLUSTERING)
    raise PackagingError(
        f"Cannot package {type(estimator).__name__}: it is no classifier, regressor, outlier detector or clusterer."
    )


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
