"""Requests that nobody should send: drawn from what clients do send, then bent, cut, mislabelled and re-encoded."""

from __future__ import annotations

import io
import json
import random
import re
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

# Stands in for the data of a caller: no answer may hold it.
CANARY = "s3cr3t-canary"
MODELS = ("binary", "multiclass", "regressor")
FIELDS = ("amount", "balance", "count", "kind")
PATHS = (
    "/v1/models/{}:predict", "/v1/models/{}@champion:predict", "/v2/models/{}/infer", "/v2/models/{}/versions/1/infer",
    "/models/{}/invocations", "/invocations",
)  # fmt: skip
OTHER_PATHS = (
    "/", "/docs", "/openapi.json", "/health", "/v1/models", "/v2", "/v2/models/binary", "/ping", "/version",
    "/v1/outcomes",
    "/v1/models/%00:predict", "/v2/models/../../etc/passwd/infer", "/v1/models/binary@99999999999999999999:predict",
    "/v2/models/binary/versions/%2e%2e/infer", "/v1/models/" + "x" * 3_000, "//", "/%ff%fe", "/v2/models//infer",
)  # fmt: skip
CONTENT_TYPES = (
    "application/json", "text/csv", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream",
    "application/octet-stream", "text/plain", "application/json; charset=utf-16", "", "application/json" * 50,
    "multipart/form-data",
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "utf-7")
DATATYPES = ("BOOL", "UINT8", "INT64", "FP16", "FP32", "FP64", "BYTES", "bytes", "", "COMPLEX")


@dataclass(frozen=True)
class Attempt:
    """One request."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def table() -> pa.Table:
    """Three good rows, one string the canary."""
    return pa.table(
        {"amount": [1.0, 2.0, 3.0], "balance": [None, 0.5, 1.0], "count": [1, 2, 3], "kind": ["a", CANARY, None]}
    )


def columnar() -> list[bytes]:
    """Good bodies in the binary forms."""
    stream, plain, packed = io.BytesIO(), io.BytesIO(), io.BytesIO()
    coded = table().set_column(3, "kind", table()["kind"].dictionary_encode())
    with pa.ipc.new_stream(stream, coded.schema) as writer:
        writer.write_table(coded)
    pq.write_table(table(), plain, compression="none", use_dictionary=False)
    pq.write_table(table(), packed, compression="zstd")
    header = {
        "inputs": [
            {"name": "amount", "shape": [3], "datatype": "FP64", "parameters": {"binary_data_size": 24}},
            {"name": "count", "shape": [3], "datatype": "INT64", "parameters": {"binary_data_size": 24}},
        ]
    }
    raw = np.arange(3, dtype="<f8").tobytes() + np.arange(3, dtype="<i8").tobytes()
    csv = f"amount,balance,count,kind\n1,,2,{CANARY}\n".encode()
    return [stream.getvalue(), plain.getvalue(), packed.getvalue(), json.dumps(header).encode() + raw, csv]


_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-20, 20), st.integers(-(2**70), 2**70), st.just(10**400),
    st.floats(), st.sampled_from([1e308, -0.0, 5e-324]), st.text(max_size=8), st.just(CANARY), st.just("\ud800"),
)  # fmt: skip
_names = st.sampled_from(FIELDS) | st.text(max_size=4)
_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=8,
)
_rows = st.fixed_dictionaries(
    {"amount": st.floats(-200, 200) | _scalars, "count": st.integers(0, 9) | _scalars},
    optional={"balance": _scalars, "kind": st.sampled_from(["a", "b", None, CANARY]), "more": _json},
)
_tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(FIELDS) | st.text(max_size=5),
        "datatype": st.sampled_from(DATATYPES),
        "shape": st.lists(st.integers(-1, 4) | st.just(2**63), max_size=3),
    },
    optional={"data": st.lists(_scalars, max_size=4) | _json, "parameters": st.dictionaries(
        st.sampled_from(["binary_data_size", "content_type", "null_value"]), _scalars, max_size=2)},
)  # fmt: skip
_wanted = st.fixed_dictionaries({"name": st.sampled_from(["label", "probabilities", "predict", CANARY])})
_documents = st.one_of(
    _json,
    _rows,
    st.fixed_dictionaries({"rows": st.lists(_rows, max_size=3) | _json}),
    st.fixed_dictionaries(
        {"inputs": st.lists(_tensors, max_size=4) | _json},
        optional={"id": _scalars, "parameters": _json, "outputs": st.lists(_wanted, max_size=3)},
    ),
    st.dictionaries(
        st.sampled_from(["dataframe_split", "dataframe_records", "instances", "inputs", "params"]),
        st.lists(_rows, max_size=3) | st.fixed_dictionaries({"columns": _json, "data": _json}) | _json,
        max_size=2,
    ),
)  # fmt: skip
_nested = st.builds(
    lambda opening, depth: (opening * depth).encode(),
    st.sampled_from(["[", '{"a":', '{"rows":[', '{"inputs":[', '{"instances":[[']),
    st.integers(1, 20_000),
)
_texts = st.builds(
    lambda document, encoding: json.dumps(document).encode(encoding, errors="replace"),
    _documents,
    st.sampled_from(ENCODINGS),
)
_bodies = st.one_of(_texts, _texts, _texts, st.sampled_from(columnar()), st.binary(max_size=200), _nested)


@st.composite
def _bent(draw: st.DrawFn) -> bytes:
    """A body as it is, or cut, or with some bytes changed, doubled or added."""
    body = draw(_bodies)
    match draw(st.integers(0, 7)):
        case 0:
            return body[: draw(st.integers(0, len(body)))]
        case 1 if body:
            bent = bytearray(body)
            for _ in range(draw(st.integers(1, 6))):
                bent[draw(st.integers(0, len(bent) - 1))] = draw(st.integers(0, 255))
            return bytes(bent)
        case 2:
            return body + draw(st.binary(max_size=20))
        case 3:
            return body * 2
    return body


_headers = st.fixed_dictionaries(
    {"content-type": st.sampled_from(CONTENT_TYPES)},
    optional={
        "content-encoding": st.sampled_from(["gzip", "br", "identity", "x"]),
        "accept": st.sampled_from(["*/*", "text/html", "application/vnd.apache.arrow.stream", CANARY]),
        "inference-header-content-length": st.sampled_from(["0", "1", "50", "99999", "-1", "x", "9" * 40]),
        "authorization": st.sampled_from([f"Bearer {CANARY}", "Basic ====", "x"]),
        "x-request-id": st.text(alphabet="ab%<>", max_size=9),
    },
)
attempts = st.one_of(
    st.builds(
        lambda path, model, headers, body: Attempt("POST", path.format(model), headers, body),
        st.sampled_from(PATHS), st.sampled_from((*MODELS, "nobody")), _headers, _bent(),
    ),
    st.builds(
        Attempt, st.sampled_from(["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "POST"]),
        st.sampled_from(OTHER_PATHS), _headers, st.binary(max_size=20),
    ),
)  # fmt: skip


_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|null|true|false|[\[\]{}:,]')
_PIECES = (
    b"null", b"true", b"-1", b"1e400", b"NaN", b"-Infinity", b"9" * 400, b'"\\ud800"', b'"\xff"', b"[]", b"{}",
    b"[[[]]]", b'{"":0}',
    b'"' + CANARY.encode() + b'"', b'"' + b"x" * 5_000 + b'"', b",", b"]", b"}", b":", b"\x00", b"",
    b"18446744073709551616",
)  # fmt: skip


def good_bodies() -> list[tuple[str, str, bytes]]:
    """Path, content type and body of requests that every protocol accepts."""
    row = {"amount": 1.5, "balance": None, "count": 2, "kind": CANARY}
    tensors = [
        {"name": name, "shape": [1], "datatype": datatype, "data": [row[name]]}
        for name, datatype in zip(FIELDS, ("FP64", "FP64", "INT64", "BYTES"), strict=True)
    ]
    stream, plain, packed, binary, csv = columnar()
    texts = [
        ("/v1/models/{}:predict", {"rows": [row, row]}),
        ("/v1/models/{}:predict", row),
        ("/v2/models/{}/infer", {"id": "1", "inputs": tensors, "outputs": [{"name": "predict"}]}),
        ("/v2/models/{}/infer", {"parameters": {"content_type": "pd"}, "inputs": tensors}),
        ("/models/{}/invocations", {"dataframe_split": {"columns": list(row), "data": [list(row.values())]}}),
        ("/models/{}/invocations", {"instances": [row], "params": {}}),
        ("/invocations", {"inputs": {name: [value] for name, value in row.items()}}),
    ]
    return [
        *((path, "application/json", json.dumps(document).encode()) for path, document in texts),
        ("/v1/models/{}:predict", "application/vnd.apache.arrow.stream", stream),
        ("/models/{}/invocations", "application/vnd.apache.parquet", plain),
        ("/models/{}/invocations", "application/vnd.apache.parquet", packed),
        ("/v2/models/{}/infer", "application/octet-stream", binary),
        ("/models/{}/invocations", "text/csv", csv),
    ]


def mutate(rng: random.Random) -> Attempt:
    """A good request with a few tokens exchanged, or a few bytes: cheap, so that there can be very many."""
    path, kind, body = rng.choice(_GOOD)
    headers = {"content-type": kind}
    if b"binary_data_size" in body:
        headers["inference-header-content-length"] = str(body.index(b"]}") + 2 + rng.choice([0, 0, 0, 1, -3]))
    if kind == "application/json":
        tokens = _TOKEN.findall(body)
        for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
            tokens[rng.randrange(len(tokens))] = rng.choice(_PIECES) if rng.random() < 0.7 else rng.choice(tokens)
        body = b" ".join(tokens)
    match rng.randrange(6):
        case 0:
            body = body[: rng.randrange(len(body) + 1)]
        case 1 | 2:
            bent = bytearray(body or b"x")
            for _ in range(rng.randint(1, 5)):
                bent[rng.randrange(len(bent))] = rng.randrange(256)
            body = bytes(bent)
        case 3 if rng.random() < 0.3:
            headers["content-type"] = rng.choice(CONTENT_TYPES)
    return Attempt("POST", path.format(rng.choice(MODELS)), headers, body)


_GOOD = good_bodies()
