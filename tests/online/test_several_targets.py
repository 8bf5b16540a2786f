"""A classifier of several targets says the same in every protocol, and in its description."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from tests import models
from tests.online import asked
from tests.online.inprocess import Client, client, make_app
from zaphod.outputs import to_arrow
from zaphod.packaging import sample_columns
from zaphod.registry import Registry

FRAME = models.table(20, seed=3)
RECORDS = asked.records(FRAME)


@pytest.fixture(scope="module")
def http(several: Registry) -> Iterator[Client]:
    """The application with that model."""
    with client(make_app(several, models=["several"])) as made:
        yield made


@pytest.fixture(scope="module")
def expected(several: Registry) -> dict[str, list[object]]:
    """By column, straight from the model."""
    bundle = several.load("several", 1)
    predictions = bundle.load_predictor().predict(sample_columns(bundle.schema, FRAME))
    columns: dict[str, list[object]] = to_arrow(bundle.schema, predictions).to_pydict()
    assert list(columns) == [
        "label_risk", "label_again",
        "probability_risk_high", "probability_risk_low", "probability_risk_mid",
        "probability_again_no", "probability_again_yes",
    ]  # fmt: skip
    assert len(set(columns["label_risk"])) == 3
    return columns


def test_json_rows(http: Client, expected: dict[str, list[object]]) -> None:
    """Labels by target, probabilities by target and class."""
    answer = http.post("/v1/models/several:predict", json.dumps({"rows": RECORDS}).encode())

    assert answer.status_code == 200, answer.text
    for i, row in enumerate(answer.json()["predictions"]):
        assert row["labels"] == {"risk": expected["label_risk"][i], "again": expected["label_again"][i]}
        for target, shares in row["probabilities"].items():
            for label, share in shares.items():
                assert share == pytest.approx(expected[f"probability_{target}_{label}"][i], rel=1e-9)


def test_an_arrow_stream(http: Client, expected: dict[str, list[object]]) -> None:
    """One column a label and one a class."""
    kind = "application/vnd.apache.arrow.stream"
    table = asked.arrow_table(FRAME)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)

    answer = http.post("/v1/models/several:predict", sink.getvalue(), content_type=kind, accept=kind)

    got = pa.ipc.open_stream(answer.content).read_all().drop_columns(["model", "version", "variant"]).to_pydict()
    assert list(got) == list(expected)
    assert got["label_risk"] == expected["label_risk"]
    np.testing.assert_allclose(got["probability_again_yes"], expected["probability_again_yes"], rtol=1e-9)


def test_tensors(http: Client, expected: dict[str, list[object]]) -> None:
    """One tensor of labels and one of probabilities a target, as the description says; single columns on request."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": [len(RECORDS)], "data": [row[name] for row in RECORDS]}
        for name, datatype in asked.DATATYPES.items()
    ]

    answer = http.post("/v2/models/several/infer", json.dumps({"inputs": inputs}).encode())

    assert answer.status_code == 200, answer.text
    got = {output["name"]: output for output in answer.json()["outputs"]}
    described = {output["name"]: output for output in http.get("/v2/models/several").json()["outputs"]}
    assert {name: output["datatype"] for name, output in got.items()} == {
        name: output["datatype"] for name, output in described.items()
    }
    assert {name: output["shape"] for name, output in described.items()} == {
        "label_risk": [-1], "label_again": [-1], "probabilities_risk": [-1, 3], "probabilities_again": [-1, 2],
    }  # fmt: skip
    assert got["label_risk"]["data"] == expected["label_risk"]
    shares = np.array(got["probabilities_risk"]["data"]).reshape(got["probabilities_risk"]["shape"])
    np.testing.assert_allclose(shares[:, 2], expected["probability_risk_mid"], rtol=1e-9)

    wanted = [{"name": "probability_again_yes"}, {"name": "label_again"}]
    answer = http.post("/v2/models/several/infer", json.dumps({"inputs": inputs, "outputs": wanted}).encode())

    column, labels = answer.json()["outputs"]
    np.testing.assert_allclose(column["data"], expected["probability_again_yes"], rtol=1e-9)
    assert labels["data"] == expected["label_again"]


def test_mlflow(http: Client, expected: dict[str, list[object]]) -> None:
    """A list of labels a row; the classes say which probability is whose."""
    answer = http.post("/models/several/invocations", json.dumps({"dataframe_records": RECORDS}).encode())

    assert answer.status_code == 200, answer.text
    body = answer.json()
    pairs = zip(expected["label_risk"], expected["label_again"], strict=True)
    assert body["predictions"] == [list(pair) for pair in pairs]
    assert body["classes"] == [["high", "low", "mid"], ["no", "yes"]]
    np.testing.assert_allclose(np.array(body["probabilities"])[:, 4], expected["probability_again_yes"], rtol=1e-9)


def test_the_pages_describe_it(http: Client) -> None:
    """OpenAPI lists the labels of each target, the home page names the targets."""
    document = json.dumps(http.get("/openapi.json").json())
    assert '"risk": {"enum": ["high", "low", "mid"]}' in document
    assert "classification of risk, again" in http.get("/").text
