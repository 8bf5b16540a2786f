"""profile.json: what the training data looked like, as histograms on fixed edges that later counts are held against.

Counts on the same edges add up exactly over batches, replicas and days; no window ever needs the training data again.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.errors import ModelLoadError
from zaphod.outputs import label_columns
from zaphod.predictor import Predictions
from zaphod.schema import DType, LogPolicy, Schema, Task

_DECILES = tuple(i / 10 for i in range(1, 10))
_MAX_CATEGORIES = 50


class NumberProfile(msgspec.Struct, frozen=True, kw_only=True, tag="number"):
    """counts: values <= edges[0], then each interval (edges[i-1], edges[i]], then those > edges[-1], then nulls."""

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]


class CategoryProfile(msgspec.Struct, frozen=True, kw_only=True, tag="category"):
    """counts: one for each of `values`, then all other values, then nulls."""

    name: str
    values: tuple[str, ...]
    counts: tuple[int, ...]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of the schema in its order, and what the model gave for the same rows."""

    num_rows: int
    fields: tuple[NumberProfile | CategoryProfile, ...]
    outputs: tuple[NumberProfile | CategoryProfile, ...]


def make_profile(schema: Schema, columns: Columns, predictions: Predictions) -> bytes:
    """profile.json of the rows the model was trained on, or of a fair sample of them. Bins are the deciles."""
    fields = {field.name: column for field, column in zip(schema.string_fields, columns.strings, strict=True)}
    made: list[NumberProfile | CategoryProfile] = []
    for field in schema.fields:
        if field.is_string:
            # What may not be logged may not be kept here either: then only nulls are counted apart.
            most = _MAX_CATEGORIES if field.log is LogPolicy.KEEP else 0
            made.append(_of_strings(field.name, pa.array(fields[field.name], type=pa.string()), most=most))
            continue
        values = columns.numbers[:, schema.number_fields.index(field)]
        made.append(_of_numbers(field.name, values, edges=(0.5,) if field.dtype is DType.BOOL else None))
    profile = Profile(
        num_rows=columns.num_rows,
        fields=tuple(made),
        outputs=tuple(
            _of_strings(name, pa.array(values, type=pa.string()))
            if isinstance(values, list)
            else _of_numbers(name, values, edges=None)
            for name, values in _outputs(schema, predictions)
        ),
    )
    return msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"


def read_profile(data: bytes) -> Profile:
    """Raises: ModelLoadError when the document is no profile."""
    try:
        return msgspec.json.decode(data, type=Profile)
    except msgspec.MsgspecError as error:
        raise ModelLoadError(f"Cannot read profile.json: {error}. Package the model again.") from error


def count_numbers(profile: NumberProfile, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many values fall into each bin of the profile; NaN is null."""
    return _count(np.array(profile.edges), values)


def count_strings(profile: CategoryProfile, values: pa.Array) -> NDArray[np.int64]:
    """How many values fall on each category of the profile."""
    found = pc.index_in(values, value_set=pa.array(profile.values, type=pa.string()))
    codes = np.asarray(found.fill_null(len(profile.values)))
    codes = np.where(np.asarray(values.is_null()), len(profile.values) + 1, codes)
    return np.bincount(codes, minlength=len(profile.values) + 2)


def count_columns(profile: Profile, schema: Schema, columns: Columns) -> list[NDArray[np.int64]]:
    """Counts of rows on the profile's fields, in its order. The schema is the one the profile was made with."""
    return [_count_field(field, schema, columns) for field in profile.fields]


def count_outputs(profile: Profile, schema: Schema, predictions: Predictions) -> list[NDArray[np.int64]]:
    """Counts of predictions on the profile's outputs."""
    given = dict(_outputs(schema, predictions))
    counts: list[NDArray[np.int64]] = []
    for output in profile.outputs:
        values = given[output.name]
        if isinstance(output, NumberProfile):
            counts.append(count_numbers(output, np.asarray(values)))
        else:
            counts.append(count_strings(output, pa.array(values, type=pa.string())))
    return counts


def _count_field(field: NumberProfile | CategoryProfile, schema: Schema, columns: Columns) -> NDArray[np.int64]:
    if isinstance(field, NumberProfile):
        position = [one.name for one in schema.number_fields].index(field.name)
        return count_numbers(field, columns.numbers[:, position])
    position = [one.name for one in schema.string_fields].index(field.name)
    return count_strings(field, pa.array(columns.strings[position], type=pa.string()))


def _outputs(schema: Schema, predictions: Predictions) -> Sequence[tuple[str, NDArray[np.float64] | list[str]]]:
    """What of the predictions is worth watching: numbers, or labels as text."""
    output = schema.output
    if predictions.values is not None:
        return list(zip(output.value_names, predictions.values.T, strict=True))
    if predictions.scores is not None:
        return [("score", predictions.scores)]
    if output.task is Task.CLASSIFICATION and predictions.probabilities is not None and len(output.classes) == 2:
        return [(output.probability_names[1], predictions.probabilities[:, 1])]
    assert predictions.labels is not None
    columns = label_columns(predictions.labels)
    return [
        (name, [str(one) for one in labels.tolist()]) for name, labels in zip(output.label_names, columns, strict=True)
    ]


def _of_numbers(name: str, values: NDArray[np.float64], *, edges: tuple[float, ...] | None) -> NumberProfile:
    if edges is None:
        known = values[~np.isnan(values)]
        cuts = np.unique(np.quantile(known, _DECILES)) if len(known) else np.array([0.0])
        if len(cuts) == 1:
            # One value rules: keep what is below it apart from it, too.
            cuts = np.array([np.nextafter(cuts[0], -np.inf), cuts[0]])
        edges = tuple(cuts.tolist())
    return NumberProfile(name=name, edges=edges, counts=tuple(_count(np.array(edges), values).tolist()))


def _of_strings(name: str, values: pa.Array, *, most: int = _MAX_CATEGORIES) -> CategoryProfile:
    counted = pc.value_counts(values.drop_null())
    pairs = sorted(
        zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True),
        key=lambda pair: (-pair[1], pair[0]),
    )
    profile = CategoryProfile(name=name, values=tuple(value for value, _ in pairs[:most]), counts=())
    return msgspec.structs.replace(profile, counts=tuple(count_strings(profile, values).tolist()))


def _count(edges: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.int64]:
    null = np.isnan(values)
    bins = np.where(null, len(edges) + 1, np.searchsorted(edges, values, side="left"))
    return np.bincount(bins, minlength=len(edges) + 2)
