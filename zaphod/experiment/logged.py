"""The log's files in the join's own columns and types, whatever version of a model wrote them, and by which policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from zaphod.monitoring.encode import FEATURE, OUTPUT
from zaphod.monitoring.policy import KEY_METADATA

# Together, of however many files: each table costs the join a pass over all that is there.
_BATCH_ROWS = 1_048_576

_TIME = pa.timestamp("us", tz="UTC")
_OUTCOME = {
    "prediction_id": pa.string(),
    "field": pa.string(),
    "value": pa.float64(),
    "text": pa.string(),
    "time": _TIME,
    "received": _TIME,
}
_PREDICTION = {
    "call": pa.string(),
    "row": pa.int64(),
    "time": _TIME,
    "experiment": pa.string(),
    "phase": pa.int32(),
    "variant": pa.string(),
    "reason": pa.string(),
    "entity": pa.string(),
    "status": pa.string(),
    "latency_s": pa.float64(),
}
# The same for all rows of a file.
_OF_FILE = {"key": pa.string()}
_ANSWER = {"label": pa.string(), "class": pa.float64(), "value": pa.float64()}
_TRUTHS = {"true": 1.0, "false": 0.0}


def outcome_tables(paths: Sequence[Path]) -> Iterator[pa.Table]:
    """Columns as in the log. Raises: pyarrow.ArrowException, OSError when a file cannot be read."""
    return _tables(paths, pa.schema(_OUTCOME), lambda there: {name: name for name in _OUTCOME if name in there})


def prediction_tables(
    paths: Sequence[Path], *, covariates: Sequence[str], segments: Sequence[str]
) -> Iterator[pa.Table]:
    """Columns as in the log, then `label`, `class`, `value`, `covariate_<i>`, `segment_<i>` and `key`.

    class: the label as a number, where it is one or a truth value, also in words. value: the number that was answered.
    key: names the key of the file's hashes. Raises: as `outcome_tables`.
    """
    features = {f"covariate_{i}": (FEATURE + name, pa.float64()) for i, name in enumerate(covariates)}
    features |= {f"segment_{i}": (FEATURE + name, pa.string()) for i, name in enumerate(segments)}
    schema = pa.schema(_PREDICTION | _OF_FILE | _ANSWER | {name: kind for name, (_, kind) in features.items()})
    plain = {name: name for name in _PREDICTION} | {name: column for name, (column, _) in features.items()}

    def sources(there: Sequence[str]) -> dict[str, str]:
        return {name: column for name, column in plain.items() if column in there} | _answer(there)

    return _tables(paths, schema, sources)


def _answer(there: Sequence[str]) -> dict[str, str]:
    """Of several targets no label and no number is the one that an outcome tells about."""
    label, probability = f"{OUTPUT}label", f"{OUTPUT}probability_"
    found = {"label": label, "class": label} if label in there else {}
    numbers = [name for name in (f"{OUTPUT}value", f"{OUTPUT}score") if name in there]
    if label in there:
        numbers += [name for name in there if name.startswith(probability)][-1:]
    return found | ({"value": numbers[0]} if numbers else {})


def _tables(
    paths: Sequence[Path], schema: pa.Schema, sources: Callable[[Sequence[str]], Mapping[str, str]]
) -> Iterator[pa.Table]:
    """sources: from the columns of a file which of them is which of ours; the others are null."""
    waiting: list[pa.Table] = []
    rows = 0
    for path in paths:
        file = pq.ParquetFile(path)
        columns = sources(file.schema_arrow.names)
        key = (file.schema_arrow.metadata or {}).get(KEY_METADATA.encode())
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(dict.fromkeys(columns.values()))):
            waiting.append(_ours(batch, schema, columns, key=key))
            rows += batch.num_rows
            if rows >= _BATCH_ROWS:
                yield pa.concat_tables(waiting)
                waiting, rows = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def _ours(batch: pa.RecordBatch, schema: pa.Schema, columns: Mapping[str, str], *, key: bytes | None) -> pa.Table:
    made = [
        pa.repeat(pa.scalar(key, pa.string()), batch.num_rows) if field.name in _OF_FILE
        else _as(batch.column(columns[field.name]), field.type) if field.name in columns
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]  # fmt: skip
    return pa.table(made, schema=schema)


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Null where the value has no meaning in this type."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        return column.cast(kind, safe=False)
    except pa.ArrowNotImplementedError:
        return pa.nulls(len(column), kind)
    except pa.ArrowInvalid:
        words = column.dictionary_encode()
        return pa.array([_number(word) for word in words.dictionary.to_pylist()], kind).take(words.indices)


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return _TRUTHS.get(word.lower())
