"""MLflow's scoring server: `POST /invocations` in JSON, CSV or Parquet; `/ping` and `/version`.

https://mlflow.org/docs/latest/ml/deployment/deploy-model-locally/
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from typing import TypeVar

import msgspec
import pyarrow as pa
import pyarrow.csv as pa_csv

from deployments.catalogue import Catalogue, Wanted
from deployments.protocols import parquet
from deployments.protocols.base import JSON, Question, Request, Response, check_encoding, nan_as_null, stamp_headers
from deployments.protocols.tables import check_num_rows, from_whole_table
from deployments.settings import Limits
from zaphod import __version__
from zaphod.columns import Columns, arrow_type, clip
from zaphod.errors import DecodeError, InvalidInputError, LimitExceededError, UnsupportedTypeError, ZaphodError
from zaphod.schema import DType, Schema
from zaphod.served import Scored, Snapshot

_PATH = "/invocations"
_MODEL = re.compile(r"/models/([^/@]{1,100})(?:@([^/@]{1,100}))?/invocations")
_CSV = b"text/csv"
_PARQUET = b"application/vnd.apache.parquet"
_MAX_CSV_COLUMNS = 100_000
_TEXT = b"text/plain; charset=utf-8"
_CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
}
_FORMS = "`dataframe_split`, `dataframe_records`, `instances` or `inputs`"

_Scalar = str | int | float | bool | None
_Row = dict[str, _Scalar]
_T = TypeVar("_T")
_ABSENT = msgspec.Raw()


class _Invocation(msgspec.Struct, forbid_unknown_fields=True):
    dataframe_split: msgspec.Raw = _ABSENT
    dataframe_records: msgspec.Raw = _ABSENT
    instances: msgspec.Raw = _ABSENT
    inputs: msgspec.Raw = _ABSENT
    # Read and left alone: no pipeline of scikit-learn takes any.
    params: dict[str, _Scalar] | None = None


class _Split(msgspec.Struct, forbid_unknown_fields=True):
    data: list[list[_Scalar]]
    columns: list[str] | None = None
    index: msgspec.Raw = _ABSENT


class MLflow:
    """What MLflow's clients send; answers with `predictions`, and `probabilities` where the model has them.

    `/invocations` asks the first served model, `/models/{name}[@alias|@version]/invocations` any.
    """

    name = "mlflow"

    def __init__(self, catalogue: Catalogue, *, limits: Limits) -> None:
        self._catalogue = catalogue
        self._limits = limits
        self._encoder = msgspec.json.Encoder()

    def path(self, reference: str) -> str:
        return f"/models/{reference}/invocations"

    def match(self, path: str) -> Wanted | None:
        if path == _PATH:
            return self._catalogue.first()
        found = _MODEL.fullmatch(path)
        return Wanted.of(found[1], found[2]) if found else None

    def decode(self, snapshot: Snapshot, request: Request) -> Question:
        kind = request.header(b"content-type").split(b";")[0].strip().lower()
        if not request.body:
            raise InvalidInputError(f"Expected a body with {_FORMS}, got nothing")
        check_encoding(request)
        limits = self._limits
        if kind == JSON or not kind:
            rows = _read_json(snapshot.schema, request.body)
            check_num_rows(len(rows), max_rows=limits.max_rows)
            return Question(_columns(snapshot, rows))
        if kind == _CSV:
            table = _read_csv(snapshot.schema, request.body, max_rows=limits.max_rows)
        elif kind == _PARQUET:
            table = parquet.read(
                snapshot.schema, request.body, max_rows=limits.max_rows, max_bytes=limits.max_decoded_bytes
            )
        else:
            raise UnsupportedTypeError(
                f"Expected content type {JSON.decode()}, {_CSV.decode()} or {_PARQUET.decode()}, got another"
            )
        return Question(from_whole_table(snapshot.schema, table, max_rows=limits.max_rows))

    def encode(self, snapshot: Snapshot, question: Question, scored: Scored) -> Response:
        predictions, stamp = scored.predictions, scored.stamps[0]
        document: dict[str, object] = {}
        if predictions.labels is not None:
            document["predictions"] = predictions.labels.tolist()
        elif predictions.values is not None:
            values = predictions.values
            document["predictions"] = (values[:, 0] if values.shape[1] == 1 else values).tolist()
        if predictions.probabilities is not None:
            document["probabilities"] = predictions.probabilities.tolist()
            document["classes"] = snapshot.schema.output.target_classes or snapshot.schema.output.classes
        if predictions.scores is not None:
            document["scores"] = predictions.scores.tolist()
        document |= {"model": stamp.model, "version": stamp.version, "variant": stamp.variant}
        if scored.ids is not None:
            document["prediction_id"] = scored.ids
        if scored.stamp_index is not None:
            document["variant"] = "mixed"
            document["variants"] = [scored.stamp_of(row).variant for row in range(predictions.num_rows)]
        return Response(200, self._encoder.encode(document), headers=stamp_headers(scored))

    def refuse(self, status: int, error: ZaphodError) -> Response:
        code = _CODES.get(status, "BAD_REQUEST")
        return Response(status, self._encoder.encode({"error_code": code, "message": error.message}))

    def inform(self, path: str, catalogue: Catalogue) -> Response | None:
        match path:
            case "/ping":
                return Response(200, b"\n")
            case "/version":
                return Response(200, __version__.encode(), _TEXT)
        return None


def _read_json(schema: Schema, body: bytes) -> list[_Row]:
    try:
        return _rows(schema, body)
    except DecodeError:
        if b"NaN" not in body:
            raise
        return _rows(schema, nan_as_null(body))


def _rows(schema: Schema, body: bytes) -> list[_Row]:
    invocation = _decode(body, _Invocation, "$")
    given = {
        name: raw
        for name in ("dataframe_split", "dataframe_records", "instances", "inputs")
        if (raw := getattr(invocation, name))
    }
    if len(given) != 1:
        raise InvalidInputError(f"Expected exactly one of {_FORMS}, got {len(given)} of them")
    ((name, raw),) = given.items()
    place = f"$.{name}"
    match name:
        case "dataframe_split":
            split = _decode(raw, _Split, place)
            return _named(split.columns or list(schema.names), split.data, place)
        case "dataframe_records":
            return _decode(raw, list[_Row], place)
        case "inputs" if _starts(raw, b"{"):
            return _by_column(_decode(raw, dict[str, msgspec.Raw], place), place)
    return _by_position(schema, raw, place)


def _by_column(columns: dict[str, msgspec.Raw], place: str) -> list[_Row]:
    """A list a column, a list of one-element lists, or one value."""
    lists: list[list[_Scalar]] = []
    for raw in columns.values():
        if _starts(raw, b"[["):
            nested = _decode(raw, list[list[_Scalar]], place)
            if any(len(cell) != 1 for cell in nested):
                raise InvalidInputError(f"Expected one value a row and column, got another number - at `{place}`")
            lists.append([cell[0] for cell in nested])
        elif _starts(raw, b"["):
            lists.append(_decode(raw, list[_Scalar], place))
        else:
            lists.append([_decode(raw, _Scalar, place)])  # type: ignore[arg-type]  # a union is a type to msgspec
    if len({len(values) for values in lists}) > 1:
        raise InvalidInputError(f"Expected columns of one length, got several - at `{place}`")
    return [dict(zip(columns, values, strict=True)) for values in zip(*lists, strict=True)]


def _by_position(schema: Schema, raw: msgspec.Raw, place: str) -> list[_Row]:
    """Objects by name, lists in the order of the schema, or the values of the only field."""
    if _starts(raw, b"[{"):
        return _decode(raw, list[_Row], place)
    if _starts(raw, b"[["):
        return _named(list(schema.names), _decode(raw, list[list[_Scalar]], place), place)
    values = _decode(raw, list[_Scalar], place) if _starts(raw, b"[") else [_decode(raw, _Scalar, place)]  # type: ignore[arg-type]  # as above
    return _named(list(schema.names), [[value] for value in values], place)


def _named(names: list[str], rows: list[list[_Scalar]], place: str) -> list[_Row]:
    if any(len(row) != len(names) for row in rows):
        raise InvalidInputError(f"Expected {len(names)} values in each row, got another number - at `{place}`")
    return [dict(zip(names, row, strict=True)) for row in rows]


def _columns(snapshot: Snapshot, rows: list[_Row]) -> Columns:
    """MLflow drops what is not the model's, and pandas writes integers with nulls among them as 3.0."""
    known = frozenset(snapshot.schema.names)
    whole = [field.name for field in snapshot.schema.fields if field.dtype is DType.INT64]
    for row in rows:
        if not known.issuperset(row):
            for name in row.keys() - known:
                del row[name]
        for name in whole:
            value = row.get(name)
            if isinstance(value, float) and value.is_integer():
                row[name] = int(value)
    try:
        typed = msgspec.convert(rows, list[snapshot.decoder.row_type])  # type: ignore[name-defined]  # made at run time
    except msgspec.ValidationError as error:
        raise InvalidInputError(clip(str(error).replace("`$[", "`rows["))) from error
    return snapshot.decoder.columns(typed)


def _decode(data: bytes | msgspec.Raw, kind: type[_T], place: str) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise InvalidInputError(clip(str(error).replace("`$", f"`{place}"))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(clip(f"Expected JSON, got something else: {error}")) from error


def _starts(raw: msgspec.Raw, brackets: bytes) -> bool:
    return bytes(memoryview(raw)[:256]).translate(None, b" \t\r\n").startswith(brackets)


def _read_csv(schema: Schema, body: bytes, *, max_rows: int) -> pa.Table:
    """Cells without text are nulls. Columns that are not the model's are never converted: each would cost kilobytes.

    Raises: DecodeError, which cannot say where: Arrow's message holds the value; InvalidInputError; LimitExceededError.
    """
    try:
        names = _read_header(body, max_rows=max_rows)
        known = frozenset(schema.names)
        wanted = [name for name in names if name in known]
        if len(set(wanted)) < len(wanted):
            raise InvalidInputError("Expected columns of different names, got one twice")
        convert = pa_csv.ConvertOptions(
            # None at all would mean every one. Rows are still counted, and the schema says what is missing.
            include_columns=wanted or names[:1],
            column_types={field.name: arrow_type(field) for field in schema.fields},
            null_values=["", "NA", "NaN", "nan", "null", "None"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        table = pa_csv.read_csv(
            pa.py_buffer(body),
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=max(1, len(body))),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=convert,
        )
        return table.select(wanted)
    except (pa.ArrowException, csv.Error, UnicodeError) as error:
        raise DecodeError("Expected CSV with a header and values of the fields' types, got something else") from error


def _read_header(body: bytes, *, max_rows: int) -> list[str]:
    """The names of the columns; rows are counted where there may be too many.

    Raises: LimitExceededError; csv.Error; UnicodeError for a name that is not UTF-8.
    """
    # Cells of other columns may be in any encoding.
    lines = io.TextIOWrapper(io.BytesIO(body), encoding="utf-8-sig", errors="surrogateescape", newline="")
    rows = filter(None, csv.reader(lines))
    names = next(rows, [])
    if len(names) > _MAX_CSV_COLUMNS:
        raise LimitExceededError(f"Expected at most {_MAX_CSV_COLUMNS} columns, got more")
    "".join(names).encode()
    # A row may have more than one line, but no line more than one row.
    num_lines = max(body.count(b"\n"), body.count(b"\r"))
    if num_lines > max_rows and sum(1 for _ in itertools.islice(rows, max_rows + 1)) > max_rows:
        raise LimitExceededError(f"Expected at most {max_rows} rows (max_rows), got more")
    return names
