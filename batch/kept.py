"""The types of the columns that are carried along: one for all files, found before the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from batch.source import Inspected, format_of
from zaphod.errors import SchemaMismatchError
from zaphod.location import partitions_of


@dataclass(frozen=True, slots=True)
class _Seen:
    """A column's type in a file. typed: the file says so itself, as Parquet does."""

    path: str
    kind: pa.DataType
    typed: bool


def kept_types(inspected: Sequence[Inspected], keep: Sequence[str]) -> pa.Schema:
    """Parquet's types hold, the widest where files differ; without any, text where files of lines differ.

    inspected: has every kept column in each file that can be read. Cells of CSV and folders' names become what the
    others have. Raises: SchemaMismatchError naming column and files.
    """
    return pa.schema([(name, _type_of(name, inspected)) for name in keep])


def _type_of(name: str, inspected: Sequence[Inspected]) -> pa.DataType:
    # Thousands of files have a few types.
    seen: dict[tuple[str, str | None, bool], _Seen] = {}
    for each in inspected:
        if each.schema is not None:
            path, kind = each.file.path, each.schema.field(name).type
            found = format_of(path)
            says = found == "parquet" and name not in partitions_of(path)
            seen.setdefault((str(kind), found, says), _Seen(path, kind, says))
    typed = [one for one in seen.values() if one.typed]
    loose = [one for one in seen.values() if not one.typed]
    joint = (typed or loose)[0].kind
    for one in typed[1:]:
        wider = _joint(joint, one.kind)
        if wider is None:
            raise _mismatch(name, typed[0], one)
        joint = wider
    if typed:
        for one in loose:
            if format_of(one.path) == "jsonl" and not _is_text(joint) and _joint(joint, one.kind) is None:
                raise _mismatch(name, typed[0], one)
        return joint
    for one in loose[1:]:
        joint = _joint(joint, one.kind) or pa.string()
    return joint


def _joint(first: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """What holds the values of both; None when nothing does. Of whole numbers and fractions it is the first: columns of
    integers with nulls are often written as fractions.
    """
    first, other = _plain(first, other), _plain(other, first)
    try:
        (wider,) = pa.unify_schemas(
            [pa.schema([("kept", first)]), pa.schema([("kept", other)])], promote_options="permissive"
        ).types
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None
    return first if pa.types.is_integer(first) and not pa.types.is_integer(wider) else wider


def _plain(kind: pa.DataType, other: pa.DataType) -> pa.DataType:
    """Without the way it is stored, where the other is stored in another way."""
    if kind == other:
        return kind
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.large_string() if pa.types.is_string_view(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _mismatch(name: str, first: _Seen, other: _Seen) -> SchemaMismatchError:
    return SchemaMismatchError(
        f"Expected a column to keep of one type in all files, got `{first.kind}` in {first.path} and `{other.kind}` in "
        f"{other.path} - at `{name}`"
    )
