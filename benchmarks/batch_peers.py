"""What bench_batch.py runs beside us, each in a process of its own: `batch_peers.py NAME INPUT OUTPUT REGISTRY`.

All read the same files, predict with the same packaged model and write identifier, time, label and probabilities as
Parquet. None checks a row, keeps a receipt or publishes. But for the two named so, all use the compiled model.
"""

from __future__ import annotations

import copy
import functools
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zaphod.bundle import SKOPS
from zaphod.columns import Columns
from zaphod.predictor import Predictor
from zaphod.registry import Registry
from zaphod.schema import Schema

Predict: TypeAlias = Callable[[str, pa.Table], pa.Table]
"""The registry, and rows as they were read, to what is written."""

KEPT = ["transaction_id", "ts"]
NUM_PROCESSES = 2


@functools.cache
def compiled(registry: str) -> tuple[Schema, Predictor]:
    """The model and its fields, once in a process."""
    bundle = Registry.open(registry).load("fraud", 1)
    return bundle.schema, bundle.load_predictor()


@functools.cache
def estimator(registry: str) -> object:
    """The scikit-learn pipeline itself."""
    from zaphod.trust import load_estimator

    return load_estimator(Registry.open(registry).load("fraud", 1).files[SKOPS])


def predict(registry: str, table: pa.Table) -> pa.Table:
    """The compiled model on a table, with nothing checked."""
    schema, predictor = compiled(registry)
    numbers = np.empty((table.num_rows, len(schema.number_fields)))
    for i, field in enumerate(schema.number_fields):
        numbers[:, i] = table.column(field.name).cast(pa.float64()).to_numpy()
    strings = tuple(
        table.column(field.name).combine_chunks().cast(pa.string()) if table.num_rows else pa.array([], pa.string())
        for field in schema.string_fields
    )
    strings = tuple(each.combine_chunks() if isinstance(each, pa.ChunkedArray) else each for each in strings)
    got = predictor.predict(Columns(numbers=numbers, strings=strings))
    return add(table, got.labels, got.probabilities)


def predict_sklearn(registry: str, table: pa.Table) -> pa.Table:
    """The pipeline on a pandas frame."""
    schema, _ = compiled(registry)
    model = estimator(registry)
    probabilities = model.predict_proba(table.select(list(schema.names)).to_pandas())  # type: ignore[attr-defined]
    return add(table, model.classes_[probabilities.argmax(axis=1)], probabilities)  # type: ignore[attr-defined]


def add(table: pa.Table, labels: object, probabilities: np.ndarray) -> pa.Table:
    """Kept columns and predictions."""
    columns = {name: table.column(name) for name in KEPT}
    columns["label"] = pa.array(labels)
    for i in range(probabilities.shape[1]):
        columns[f"probability_{i}"] = pa.array(probabilities[:, i])
    return pa.table(columns)


def loop(predict_table: Predict, registry: str, path: Path, output: Path) -> None:
    """One file: read, predict in batches, write."""
    file = pq.ParquetFile(path)
    writer: pq.ParquetWriter | None = None
    for batch in file.iter_batches(32_768, use_threads=False):
        got = predict_table(registry, pa.Table.from_batches([batch]))
        writer = writer or pq.ParquetWriter(output / path.name, got.schema, use_dictionary=["label"])
        writer.write_table(got)
    if writer is not None:
        writer.close()


def bare(predict_table: Predict, source: Path, output: Path, registry: str) -> None:
    """Pyarrow in two processes, a file at a time."""
    output.mkdir(parents=True, exist_ok=True)
    work = functools.partial(loop, predict_table, registry, output=output)
    with multiprocessing.get_context("spawn").Pool(NUM_PROCESSES) as pool:
        pool.map(work, sorted(source.glob("*.parquet")), chunksize=1)


def bare_onnx(source: Path, output: Path, registry: str) -> None:
    """The ceiling."""
    bare(predict, source, output, registry)


def bare_sklearn(source: Path, output: Path, registry: str) -> None:
    """What most people write."""
    bare(predict_sklearn, source, output, registry)


def bare_onnx_float32(source: Path, output: Path, registry: str) -> None:
    """The pipeline as skl2onnx converts it, in float32: not the same answers."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    schema, _ = compiled(registry)
    kinds = [
        (field.name, StringTensorType([None, 1]) if field.is_string else FloatTensorType([None, 1]))
        for field in schema.fields
    ]
    model = copy.deepcopy(estimator(registry))
    # skl2onnx has no converter for an imputer of strings; `predict_float32` fills in what it would.
    features = model[0]  # type: ignore[index]  # a Pipeline
    features.transformers_ = [
        (name, step[-1] if name == "categories" else step, columns) for name, step, columns in features.transformers_
    ]
    model = to_onnx(model, initial_types=kinds, options={"zipmap": False}, target_opset=18)
    path = output.with_suffix(".onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    bare(functools.partial(predict_float32, str(path)), source, output, registry)


@functools.cache
def session(path: str) -> object:
    """One thread, as in ours."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def predict_float32(path: str, registry: str, table: pa.Table) -> pa.Table:
    """Columns one by one, as the converted pipeline takes them."""
    schema, _ = compiled(registry)
    feeds = {}
    for field in schema.fields:
        column = table.column(field.name)
        if field.is_string:
            feeds[field.name] = pc.fill_null(column, "missing").to_numpy().astype(object).reshape(-1, 1)
        else:
            feeds[field.name] = column.cast(pa.float32()).to_numpy().reshape(-1, 1)
    labels, probabilities = session(path).run(None, feeds)  # type: ignore[attr-defined]
    return add(table, labels, probabilities)


def polars(source: Path, output: Path, registry: str, predict_table: Predict = predict) -> None:
    """A lazy scan through a Python function into a sink."""
    import polars as pl

    def apply(frame: pl.DataFrame) -> pl.DataFrame:
        return pl.from_arrow(predict_table(registry, frame.to_arrow()))  # type: ignore[return-value]

    schema = pl.Schema(
        {
            "transaction_id": pl.String,
            "ts": pl.Datetime("ns", "UTC"),
            "label": pl.Int64,
            "probability_0": pl.Float64,
            "probability_1": pl.Float64,
        }
    )
    output.mkdir(parents=True, exist_ok=True)
    lazy = pl.scan_parquet(source / "*.parquet").map_batches(apply, schema=schema, streamable=True)
    lazy.sink_parquet(output / "out.parquet", engine="streaming")


def daft(source: Path, output: Path, registry: str, predict_table: Predict = predict) -> None:
    """A batch function on the columns."""
    import daft
    from daft import DataType, Series

    schema, _ = compiled(registry)

    @daft.udf(return_dtype=DataType.float64(), batch_size=131_072)
    def probability(*columns: Series) -> pa.Array:
        table = pa.table(dict(zip([*schema.names, *KEPT], [column.to_arrow() for column in columns], strict=True)))
        return predict_table(registry, table).column("probability_1").combine_chunks()

    frame = daft.read_parquet(str(source / "*.parquet"))
    scored = frame.with_column(
        "probability_1", probability(*[daft.col(name) for name in [*schema.names, *KEPT]])
    ).with_column("probability_0", 1.0 - daft.col("probability_1"))
    scored = scored.with_column("label", (daft.col("probability_1") > 0.5).cast(DataType.int64()))
    scored.select(*KEPT, "label", "probability_0", "probability_1").write_parquet(str(output))


def pyspark(source: Path, output: Path, registry: str, predict_table: Predict = predict) -> None:
    """MapInArrow on local[2]."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = (
        builder.config("spark.driver.memory", "2g")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.sql.legacy.parquet.nanosAsLong", "true")
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", "32768")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")

    def apply(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from predict_table(registry, pa.Table.from_batches([batch])).combine_chunks().to_batches()

    kinds = "transaction_id string, ts long, label long, probability_0 double, probability_1 double"
    spark.read.parquet(str(source)).mapInArrow(apply, kinds).write.mode("overwrite").parquet(str(output))
    spark.stop()


def start_ray() -> None:
    """As a job of ours starts it."""
    import ray

    ray.init("local", _node_ip_address="127.0.0.2", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False


def ray_documented(source: Path, output: Path, registry: str, predict_table: Predict = predict) -> None:
    """read_parquet, a class in an actor pool, write_parquet: the page on batch inference."""
    import ray.data

    start_ray()

    class Score:
        def __call__(self, table: pa.Table) -> pa.Table:
            return predict_table(registry, table)

    # One actor: two would own both CPUs, and reading could not begin.
    pool = ray.data.ActorPoolStrategy(size=1)
    scored = ray.data.read_parquet(str(source)).map_batches(Score, batch_format="pyarrow", compute=pool)
    scored.write_parquet(str(output))


def ray_fused(source: Path, output: Path, registry: str) -> None:
    """Ray Data with a whole file to a task, as ours, and nothing of the checks, receipts and hashes."""
    import ray.data

    start_ray()
    output.mkdir(parents=True, exist_ok=True)

    def work(table: pa.Table) -> pa.Table:
        for path in table.column("path").to_pylist():
            loop(predict, registry, Path(path), output)
        return table

    items = [{"path": str(path)} for path in sorted(source.glob("*.parquet"))]
    tasks = ray.data.TaskPoolStrategy(size=NUM_PROCESSES)
    dataset = ray.data.from_items(items, override_num_blocks=len(items))
    dataset.map_batches(work, batch_size=None, batch_format="pyarrow", num_cpus=0.5, compute=tasks).materialize()


PEERS: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (bare_onnx, bare_onnx_float32, bare_sklearn, ray_fused, ray_documented, polars, daft, pyspark)
}
# As their users would, who have scikit-learn and no compiled model.
PEERS |= {
    f"{each.__name__}_sklearn": functools.partial(each, predict_table=predict_sklearn)
    for each in (ray_documented, polars, daft, pyspark)
}


def main() -> None:
    """Runs the peer that the command names."""
    name, source, output, registry = sys.argv[1:]
    PEERS[name](Path(source), Path(output), registry)


if __name__ == "__main__":
    # Not `main()`: Ray's workers must find these functions in a module, which `__main__` is not to them.
    from benchmarks import batch_peers

    batch_peers.main()
