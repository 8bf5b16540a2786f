"""The same rows asked in every language the server speaks, through clients that others wrote where there are some."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray

from tests.conftest import Server

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

NULL = "\x00null"
DATATYPES = {"amount": "FP64", "balance": "FP64", "count": "INT64", "kind": "BYTES"}


@dataclass(frozen=True)
class Answer:
    """labels: (n,) for classifiers, None otherwise. numbers: (n, classes) or (n, 1)."""

    labels: list[object] | None
    numbers: NDArray[np.float64]


def arrow_table(frame: pd.DataFrame) -> pa.Table:
    """The frame with NaN as null, as the other ways to ask have it."""
    return pa.Table.from_pandas(frame, preserve_index=False)


def records(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Rows as JSON would carry them, every digit kept."""
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.astype(object).to_dict(orient="records")
    ]


def plain(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """JSON rows, the way the others are compared with."""
    answer = httpx.post(f"{server.url}/v1/models/{model}:predict", json={"rows": records(frame)})
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    if "value" in rows[0]:
        return Answer(None, np.array([[row["value"]] for row in rows]))
    return Answer([row["label"] for row in rows], np.array([list(row["probabilities"].values()) for row in rows]))


def arrow(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """An Arrow stream both ways."""
    table = arrow_table(frame)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    kind = "application/vnd.apache.arrow.stream"
    answer = httpx.post(
        f"{server.url}/v1/models/{model}:predict",
        content=sink.getvalue(),
        headers={"content-type": kind, "accept": kind},
    )
    assert answer.status_code == 200, answer.text
    with pa.ipc.open_stream(answer.content) as reader:
        got = reader.read_all().drop_columns(["model", "version", "variant"])
    numbers = np.column_stack([got[name].to_numpy() for name in got.column_names if name != "label"])
    return Answer(got["label"].to_pylist() if "label" in got.column_names else None, numbers)


def inputs(frame: pd.DataFrame, *, binary: bool) -> list[tritonclient.http.InferInput]:
    """One input a column; strings that are null have a name of their own, for the binary form has no null."""
    made = []
    for name, datatype in DATATYPES.items():
        values = frame[name].to_numpy()
        if datatype == "BYTES":
            values = np.array([NULL if pd.isna(value) else value for value in frame[name]], dtype=object)
        tensor = tritonclient.http.InferInput(name, [len(frame)], datatype)
        tensor.set_data_from_numpy(values, binary_data=binary)
        if datatype == "BYTES":
            tensor._parameters["null_value"] = NULL  # the client has no method for parameters of an input
        made.append(tensor)
    return made


def triton(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """NVIDIA's client, tensors as bytes both ways."""
    with tritonclient.http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        return from_triton(client.infer(model, inputs(frame, binary=True), request_id="asked"))


def from_triton(result: tritonclient.http.InferResult) -> Answer:
    """What Triton's client made of the answer."""
    response = result.get_response()
    assert response["id"] == "asked"
    assert response["model_version"] == "1"
    labels = result.as_numpy("label")
    if labels is None:
        return Answer(None, result.as_numpy("value").reshape(-1, 1))
    texts = labels.dtype == np.object_
    return Answer([label.decode() if texts else label for label in labels], result.as_numpy("probabilities"))


def from_grpc(result: tritonclient.grpc.InferResult) -> Answer:
    """What Triton's gRPC client made of the answer."""
    response = result.get_response()
    assert (response.id, response.model_version) == ("asked", "1")
    labels = result.as_numpy("label")
    if labels is None:
        return Answer(None, result.as_numpy("value").reshape(-1, 1))
    texts = labels.dtype == np.object_
    return Answer([label.decode() if texts else label for label in labels], result.as_numpy("probabilities"))


def grpc(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """NVIDIA's gRPC client, raw contents."""
    tensors = []
    for name, datatype in DATATYPES.items():
        values = frame[name].to_numpy()
        if datatype == "BYTES":
            values = np.array([NULL if pd.isna(value) else value for value in frame[name]], dtype=object)
        tensor = tritonclient.grpc.InferInput(name, [len(frame)], datatype)
        tensor.set_data_from_numpy(values)
        if datatype == "BYTES":
            tensor._input.parameters["null_value"].string_param = NULL  # as above
        tensors.append(tensor)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        return from_grpc(client.infer(model, tensors, request_id="asked"))


def tensors_in_json(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """The same tensors in JSON, nulls and all."""
    rows = records(frame)
    body = {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [len(rows)], "data": [row[name] for row in rows]}
            for name, datatype in DATATYPES.items()
        ]
    }
    answer = httpx.post(f"{server.url}/v2/models/{model}/versions/1/infer", json=body)
    assert answer.status_code == 200, answer.text
    outputs = {output["name"]: output for output in answer.json()["outputs"]}
    if "value" in outputs:
        return Answer(None, np.array(outputs["value"]["data"]).reshape(-1, 1))
    numbers = np.array(outputs["probabilities"]["data"]).reshape(outputs["probabilities"]["shape"])
    return Answer(outputs["label"]["data"], numbers)


def from_mlflow(body: dict[str, object]) -> Answer:
    """What an MLflow answer says."""
    if "probabilities" in body:
        return Answer(body["predictions"], np.array(body["probabilities"]))
    return Answer(None, np.array(body["predictions"]).reshape(-1, 1))


def mlflow_client(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """MLflow's own client, which sends `dataframe_split`."""
    host, port = server.url.removeprefix("http://").split(":")
    client = ScoringServerClient(host, f"{port}/models/{model}")
    return from_mlflow(json.loads(client.invoke(frame).to_json()))


def invocations(server: Server, model: str, content: bytes, kind: str) -> Answer:
    """One call of the scoring route."""
    answer = httpx.post(f"{server.url}/models/{model}/invocations", content=content, headers={"content-type": kind})
    assert answer.status_code == 200, answer.text
    return from_mlflow(answer.json())


def mlflow_records(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """Records, with a column that is not the model's: MLflow drops it."""
    body = {"dataframe_records": [row | {"more": 1} for row in records(frame)]}
    return invocations(server, model, json.dumps(body).encode(), "application/json")


def mlflow_instances(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """Rows as lists in the order of the schema."""
    body = {"instances": [list(row.values()) for row in records(frame)]}
    return invocations(server, model, json.dumps(body).encode(), "application/json")


def mlflow_inputs(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """Lists by column."""
    rows = records(frame)
    body = {"inputs": {name: [row[name] for row in rows] for name in DATATYPES}}
    return invocations(server, model, json.dumps(body).encode(), "application/json")


def csv(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """What pandas writes."""
    return invocations(server, model, frame.to_csv(index=False).encode(), "text/csv")


def parquet(server: Server, model: str, frame: pd.DataFrame) -> Answer:
    """What pyarrow writes, compressed."""
    sink = io.BytesIO()
    pq.write_table(arrow_table(frame), sink, compression="zstd")
    return invocations(server, model, sink.getvalue(), "application/vnd.apache.parquet")


Way: TypeAlias = Callable[[Server, str, pd.DataFrame], Answer]

WAYS: list[Way] = [
    arrow, triton, grpc, tensors_in_json,
    mlflow_client, mlflow_records, mlflow_instances, mlflow_inputs, csv, parquet,
]  # fmt: skip
