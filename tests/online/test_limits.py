"""What a request may cost: size, rows, depth and time; and what a body may not claim."""

from __future__ import annotations

import asyncio
import io
import json
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deployments.batching import Batcher
from deployments.protocols.base import Question
from deployments.protocols.parquet import read
from deployments.scoring import Scoring
from deployments.settings import Limits
from tests.online.inprocess import GOOD, Client, client, make_app
from zaphod.errors import InvalidInputError
from zaphod.registry import Registry
from zaphod.served import Scored, Snapshot

ARROW = "application/vnd.apache.arrow.stream"
PARQUET = "application/vnd.apache.parquet"
LIMITS = Limits(max_body_bytes=100_000, max_rows=50, max_decoded_bytes=1_000_000)


@pytest.fixture(scope="module")
def http(registry: Registry) -> Iterator[Client]:
    """Small limits."""
    with client(make_app(registry, limits=LIMITS)) as made:
        yield made


def stream(table: pa.Table, **options: object) -> bytes:
    """The table as an Arrow IPC stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: pa.Table, **options: object) -> bytes:
    """The table as a Parquet file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def rows(num_rows: int, kind: object = "a") -> pa.Table:
    """Good rows."""
    return pa.table({"amount": [1.0] * num_rows, "count": [1] * num_rows, "kind": [kind] * num_rows})


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        ("/v1/models/binary:predict", "application/json", json.dumps({"rows": [GOOD] * 51}).encode()),
        ("/v1/models/binary:predict", ARROW, stream(rows(51))),
        ("/models/binary/invocations", "application/json", json.dumps({"dataframe_records": [GOOD] * 51}).encode()),
        ("/models/binary/invocations", "text/csv", b"amount,count\n" + b"1,1\n" * 51),
        ("/models/binary/invocations", PARQUET, parquet(rows(51))),
        ("/v2/models/binary/infer", "application/json", json.dumps(
            {"inputs": [{"name": name, "datatype": kind, "shape": [51], "data": [1] * 51}
                        for name, kind in (("amount", "FP64"), ("count", "INT64"))]}).encode()),
        ("/v2/models/binary/infer", "application/json", b" " * 100_001),
    ],
    ids=["json", "arrow", "mlflow", "csv", "parquet", "tensors", "bytes"],
)  # fmt: skip
def test_too_much_is_413_in_every_form(http: Client, path: str, kind: str, body: bytes) -> None:
    """More rows or bytes than allowed is 413 and says which limit."""
    answer = http.post(path, body, content_type=kind)

    assert answer.status_code == 413, answer.text
    assert "max_" in answer.text


BOMBS = {
    "arrow-zstd": (ARROW, stream(rows(40, "a" * 2_000_000), compression="zstd")),
    "arrow-dictionary": (
        ARROW,
        stream(rows(40).set_column(2, "kind", pa.DictionaryArray.from_arrays(
            pa.array([0] * 40, pa.int32()), pa.array(["a" * 90_000])))),
    ),
    "parquet-zstd": (PARQUET, parquet(rows(40, "a" * 2_000_000), compression="zstd", use_dictionary=False)),
    "parquet-dictionary": (PARQUET, parquet(rows(40, "a" * 900_000), compression="zstd")),
    "parquet-prefix": (PARQUET, parquet(
        rows(40, "a" * 90_000), use_dictionary=False, column_encoding={"kind": "DELTA_BYTE_ARRAY"})),
    "parquet-prefix-of-a-number": (PARQUET, parquet(
        rows(40).set_column(0, "amount", pa.array(["a" * 90_000] * 40)),
        use_dictionary=False, column_encoding={"amount": "DELTA_BYTE_ARRAY"})),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_body_cannot_become_a_large_one(http: Client, bomb: str) -> None:
    """Bodies of some kilobytes that stand for megabytes are refused before they are unpacked."""
    kind, body = BOMBS[bomb]
    path = "/v1/models/binary:predict" if kind == ARROW else "/models/binary/invocations"
    assert len(body) <= LIMITS.max_body_bytes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    answer = http.post(path, body, content_type=kind)

    assert answer.status_code in (413, 415), answer.text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8_192


CSV_PATH = "/models/binary/invocations"


WIDE = """
from types import SimpleNamespace
from deployments.catalogue import Catalogue
from deployments.protocols.base import Request
from deployments.protocols.mlflow import MLflow
from deployments.settings import Limits
from zaphod.schema import DType, Field, Output, Schema, Task

def peak_kb():
    # Unlike ru_maxrss, not that of the process which started this one.
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

schema = Schema(fields=(Field(name="s", dtype=DType.FLOAT64),), output=Output(task=Task.REGRESSION))
body = b"x," * 50_000 + b"s\\n" + b"," * 50_000 + b"1\\n"
request = Request([(b"content-type", b"text/csv")], body)
before = peak_kb()
assert MLflow(Catalogue({}), limits=Limits()).decode(SimpleNamespace(schema=schema), request).columns.num_rows == 1
print((peak_kb() - before) // 1024)
"""


def test_columns_of_a_csv_that_no_model_takes_cost_little() -> None:
    """Fifty thousand unknown columns are left out before they are converted, in a process that was never larger."""
    ended = subprocess.run([sys.executable, "-c", WIDE], capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) < 100, "megabytes"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"amount,x,x,count\n1,2,3,4\n", 200, "predictions"),
        (b"amount,count,note\n1,2,\xff\n", 200, "predictions"),
        (b'\xef\xbb\xbf\r\n"amount",count\r\n1,2\r\n', 200, "predictions"),
        (b"amount,count,amount\n1,2,3\n", 422, "different names"),
        (b"amount,x\n1,2\n", 422, "`count`"),
        (b"x,y\n1,2\n", 422, "Expected a column"),
        (b"x,y\n", 422, "at least one row"),
        (b"amount,count,\xff\n1,2,3\n", 400, "CSV"),
        (b"amount,count\n1,2,3\n", 400, "CSV"),
        (b"a" * 99_000 + b",amount,count\n1,2,3\n", 200, "predictions"),
        (b'"' * 99_999, 400, "CSV"),
        (b"\n\n", 400, "CSV"),
    ],
)
def test_the_header_of_a_csv_says_what_is_read(http: Client, body: bytes, status: int, says: str) -> None:
    """Unknown columns are left alone, whatever is in them; the model's must be there, and once."""
    answer = http.post(CSV_PATH, body, content_type="text/csv")

    assert (answer.status_code, says in answer.text) == (status, True), answer.text


def test_columns_of_a_csv_are_counted(registry: Registry) -> None:
    """Before each costs Arrow a microsecond and more."""
    with client(make_app(registry)) as http:
        answer = http.post(CSV_PATH, b"amount,count" + b"," * 99_999 + b"\n1,2\n", content_type="text/csv")

    assert (answer.status_code, "at most 100000 columns" in answer.text) == (413, True), answer.text


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_rows_of_a_csv_are_counted_as_rows(http: Client, end: bytes) -> None:
    """Empty lines and lines within a cell are no rows."""
    head, row = b"amount,count,note" + end, b'1,1,"' + end * 3 + b'"' + end * 2

    assert http.post(CSV_PATH, head + row * LIMITS.max_rows, content_type="text/csv").status_code == 200
    assert http.post(CSV_PATH, head + row * (LIMITS.max_rows + 1), content_type="text/csv").status_code == 413


def test_a_stream_that_claims_rows_without_data(http: Client) -> None:
    """Columns of nulls cost nothing on the wire: their number is believed only up to the limit."""
    nothing = pa.Array.from_buffers(pa.null(), 2**30, [None])
    batch = pa.RecordBatch.from_arrays([nothing] * 3, names=["amount", "count", "kind"])
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body = sink.getvalue()

    assert len(body) < 1_000
    assert http.post("/v1/models/binary:predict", body, content_type=ARROW).status_code == 413


def batches(*columns: pa.Array, names: str = "kind", **options: object) -> bytes:
    """An Arrow IPC stream of a batch for each; amount and count are 1."""
    sink = io.BytesIO()
    schema = pa.schema([("amount", pa.float64()), ("count", pa.int64()), (names, columns[0].type)])
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for column in columns:
            ones = pa.array([1] * len(column))
            writer.write_batch(pa.record_batch([ones.cast(pa.float64()), ones, column], schema=schema))
    return sink.getvalue()


def coded(index: int, words: list[str]) -> pa.Array:
    """One row that is this word."""
    return pa.DictionaryArray.from_arrays(pa.array([index], pa.int32()), pa.array(words))


@pytest.mark.parametrize("names", ["kind", "other"])
def test_a_dictionary_that_continues_another_is_415(http: Client, names: str) -> None:
    """Each delta would make a copy of all that was before it; a dictionary that takes another's place is read."""
    deltas = batches(coded(0, ["a"]), coded(1, ["a", "b"]), names=names, emit_dictionary_deltas=True)
    replaced = batches(coded(0, ["a"]), coded(1, ["a", "b"]), names=names)

    answer = http.post("/v1/models/binary:predict", deltas, content_type=ARROW)

    assert (answer.status_code, "delta" in answer.text) == (415, True), answer.text
    assert http.post("/v1/models/binary:predict", replaced, content_type=ARROW).status_code == 200


def test_a_dictionary_costs_in_each_batch(http: Client) -> None:
    """One that all batches share is checked in each, so its size counts in each."""
    shared = coded(0, ["a", "b" * 50_000])

    few = http.post("/v1/models/binary:predict", batches(*[shared] * 10), content_type=ARROW)
    many = http.post("/v1/models/binary:predict", batches(*[shared] * 30), content_type=ARROW)

    assert few.status_code == 200, few.text
    assert (many.status_code, "max_decoded_bytes" in many.text) == (413, True), many.text


def test_empty_batches_are_no_way_to_pass_the_time(http: Client) -> None:
    """A few are read, and no more batches than there may be rows."""
    empty, row = pa.array([], pa.string()), pa.array(["a"])

    some = http.post("/v1/models/binary:predict", batches(empty, row, empty, row), content_type=ARROW)
    many = http.post("/v1/models/binary:predict", batches(*[empty] * 50, row), content_type=ARROW)

    assert (some.status_code, len(some.json()["predictions"])) == (200, 2), some.text
    assert (many.status_code, "max_rows" in many.text) == (413, True), many.text


def test_offsets_beyond_the_buffer(http: Client) -> None:
    """String offsets that lead out of their buffer are found before they are followed."""
    honest = stream(rows(1, "a" * 77))
    lying = honest.replace(struct.pack("<ii", 0, 77), struct.pack("<ii", 0, 2**30))
    assert lying != honest

    answer = http.post("/v1/models/binary:predict", lying, content_type=ARROW)

    assert answer.status_code == 400


def test_a_damaged_parquet_file_is_refused_in_one_piece(registry: Registry) -> None:
    """With bytes of footer or pages exchanged it is read or refused; pyarrow's metadata would end the process."""
    schema = registry.load("binary", 1).schema
    good = parquet(rows(3), compression="zstd")
    rng = random.Random(7)
    refused = 0
    for _ in range(1_000):
        bent = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bent[rng.randrange(len(bent))] = rng.randrange(256)
        try:
            read(schema, bytes(bent), max_rows=50, max_bytes=1_000_000)
        except InvalidInputError:
            refused += 1

    assert 200 < refused < 1_000


RECORD = '{"amount": %s, "balance": %s, "count": 3, "kind": "a"}'
TENSORS = """{"inputs": [
    {"name": "amount", "datatype": "FP64", "shape": [1], "data": [%s]},
    {"name": "balance", "datatype": "FP64", "shape": [1], "data": [%s]},
    {"name": "count", "datatype": "INT64", "shape": [1], "data": [3]}]}"""


@pytest.mark.parametrize("number", ["1e999", "-1e400", "1" * 400])
@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/models/binary/invocations", f'{{"dataframe_records": [{RECORD}]}}'),
        ("/models/binary/invocations", f'{{"instances": [{RECORD}]}}'),
        ("/models/binary/invocations", '{"inputs": {"amount": [%s], "balance": [%s], "count": [3], "kind": ["a"]}}'),
        ("/v2/models/binary/infer", TENSORS),
    ],
)
def test_a_number_beyond_a_float_is_refused_beside_a_nan(http: Client, path: str, form: str, number: str) -> None:
    """A NaN in the body, which stands for a null, changes nothing in the answer to a number that would be infinite."""
    plain, beside, nan = (
        http.post(path, (form % values).encode(), content_type="application/json")
        for values in ((number, "null"), (number, "NaN"), ("1.5e3", "NaN"))
    )

    assert (plain.status_code, nan.status_code) == (422, 200), (plain.text, nan.text)
    assert (beside.status_code, beside.text) == (plain.status_code, plain.text)


@pytest.mark.parametrize("path", ["/v1/models/binary:predict", "/v2/models/binary/infer", "/models/binary/invocations"])
@pytest.mark.parametrize(
    "opening", [b"[", b'{"rows":', b'{"inputs":', b'{"instances":[', b'{"id":', b'{"parameters":{"a":']
)
def test_depth_is_refused_in_every_protocol(http: Client, path: str, opening: bytes) -> None:
    """No body of any protocol nests deeper than four levels; thousands are refused without a crash."""
    depth = 99_000 // len(opening)

    assert http.post(path, opening * depth, content_type="application/json").status_code in (400, 422)


def test_a_compressed_body_is_415(http: Client) -> None:
    """Nothing is decompressed, and the answer says why the body is no JSON."""
    for path in ("/v1/models/binary:predict", "/v2/models/binary/infer", "/models/binary/invocations"):
        answer = http.post(path, b"\x1f\x8b\x08\x00rest", content_type="application/json", content_encoding="gzip")

        assert answer.status_code == 415
        assert "Content-Encoding" in answer.text


class Slow(Scoring):
    """A model that takes long."""

    async def score(self, snapshot: Snapshot, question: Question) -> Scored:
        await asyncio.sleep(30)
        return await super().score(snapshot, question)


@pytest.mark.parametrize(
    ("path", "says"),
    [("/v1/models/binary:predict", "error"), ("/models/binary/invocations", "error_code")],
)
def test_a_slow_model_is_504(registry: Registry, path: str, says: str) -> None:
    """A model that takes too long ends in 504, in the form of the protocol."""
    body = json.dumps(GOOD if "v1" in path else {"instances": [GOOD]}).encode()

    limits = Limits(predict_timeout_s=0.05)
    with client(make_app(registry, limits=limits, scoring=Slow(Batcher(max_rows=1_024)))) as http:
        answer = http.post(path, body, content_type="application/json")

    assert answer.status_code == 504
    assert "predict_timeout_s" in answer.json()["message"]
    assert says in answer.json()
