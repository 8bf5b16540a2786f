"""How to ask a model in each protocol: requests that work when pasted, made from its example row."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from deployments.protocols.tensors import OF_FIELD
from zaphod.outputs import JsonScalar
from zaphod.schema import Schema
from zaphod.served import Snapshot


@dataclass(frozen=True, slots=True)
class Example:
    """One request. body: JSON to send as it is. code: Python instead, where a body cannot be shown."""

    title: str
    path: str
    body: str = ""
    code: str = ""


def plain_body(snapshot: Snapshot) -> dict[str, object]:
    """One row as an object."""
    return {"rows": [dict(snapshot.example)]}


def tensor_body(snapshot: Snapshot) -> dict[str, object]:
    """One tensor a field, of one row."""
    return {
        "inputs": [
            {"name": field.name, "shape": [1], "datatype": OF_FIELD[field.dtype], "data": [value]}
            for field in snapshot.schema.fields
            if (value := snapshot.example.get(field.name)) is not None or field.name in snapshot.example
        ]
    }


def mlflow_body(snapshot: Snapshot) -> dict[str, object]:
    """One record."""
    return {"dataframe_records": [dict(snapshot.example)]}


def plain_path(reference: str) -> str:
    """Where plain rows go."""
    return f"/v1/models/{reference}:predict"


def infer_path(reference: str) -> str:
    """Where tensors go."""
    name, _, selector = reference.partition("@")
    return f"/v2/models/{name}/versions/{selector}/infer" if selector else f"/v2/models/{name}/infer"


def mlflow_path(reference: str) -> str:
    """Where MLflow's bodies go."""
    return f"/models/{reference}/invocations"


def examples(reference: str, snapshot: Snapshot) -> list[Example]:
    """In the order of the docs page."""
    return [
        Example("Plain JSON", plain_path(reference), json.dumps(plain_body(snapshot))),
        Example("Open Inference", infer_path(reference), json.dumps(tensor_body(snapshot))),
        Example("MLflow", mlflow_path(reference), json.dumps(mlflow_body(snapshot))),
        Example("Arrow", plain_path(reference), code=_arrow(reference, snapshot.example)),
        Example("tritonclient", infer_path(reference), code=_triton(reference, snapshot.schema, snapshot.example)),
        Example("gRPC", infer_path(reference), code=_grpc(reference, snapshot.schema, snapshot.example)),
    ]


def curl(example: Example, *, needs_key: bool) -> str:
    """`$HOST` stands for the server's address."""
    key = ' -H "authorization: Bearer $ZAPHOD_KEY"' if needs_key else ""
    return f"curl -s http://$HOST{example.path}{key} -H 'content-type: application/json' -d {shlex.quote(example.body)}"


def _arrow(reference: str, row: Mapping[str, JsonScalar]) -> str:
    return f"""import httpx
import pyarrow as pa

table = pa.Table.from_pylist([{dict(row)!r}])
sink = pa.BufferOutputStream()
with pa.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
answer = httpx.post(
    "http://$HOST{plain_path(reference)}",
    content=sink.getvalue().to_pybytes(),
    headers={{"content-type": "application/vnd.apache.arrow.stream", "accept": "application/vnd.apache.arrow.stream"}},
)
print(pa.ipc.open_stream(answer.content).read_all().to_pylist())"""


def _tensors(schema: Schema, row: Mapping[str, JsonScalar], module: str) -> str:
    kinds = {"FP64": "np.float64", "INT64": "np.int64", "BOOL": "np.bool_", "BYTES": "np.object_"}
    lines = [
        f"    ({field.name!r}, {(kind := OF_FIELD[field.dtype])!r}, np.array([{row[field.name]!r}], {kinds[kind]})),"
        for field in schema.fields
        if row.get(field.name) is not None
    ]
    return "\n".join(
        [
            "import numpy as np",
            f"from tritonclient import {module} as client",
            "",
            "columns = [",
            *lines,
            "]",
            "inputs = []",
            "for name, datatype, values in columns:",
            "    tensor = client.InferInput(name, values.shape, datatype)",
            "    tensor.set_data_from_numpy(values)",
            "    inputs.append(tensor)",
        ]
    )


def _triton(reference: str, schema: Schema, row: Mapping[str, JsonScalar]) -> str:
    name, _, selector = reference.partition("@")
    return f"""{_tensors(schema, row, "http")}
answer = client.InferenceServerClient("$HOST").infer({name!r}, inputs, model_version={selector!r})
print(answer.get_response()["outputs"])"""


def _grpc(reference: str, schema: Schema, row: Mapping[str, JsonScalar]) -> str:
    name, _, selector = reference.partition("@")
    return f"""# grpc_options in configs/serve.yaml must be on; 9000 is its port.
{_tensors(schema, row, "grpc")}
answer = client.InferenceServerClient("localhost:9000").infer({name!r}, inputs, model_version={selector!r})
print(answer.get_response())"""
