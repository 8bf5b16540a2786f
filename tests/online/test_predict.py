"""Predictions over real HTTP from a real server."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import models
from tests.conftest import Server, wait_for
from zaphod.outputs import to_rows
from zaphod.packaging import sample_columns
from zaphod.registry import Registry
from zaphod.served import ServedModel

pytestmark = pytest.mark.cluster

GOOD = {"amount": 100.0, "balance": None, "count": 3, "kind": "a"}


def json_rows(num_rows: int, *, seed: int) -> list[dict[str, object]]:
    """The test table as JSON would carry it."""
    rows: list[dict[str, object]] = json.loads(
        models.table(num_rows, seed=seed).to_json(orient="records", double_precision=15)
    )
    return rows


@pytest.mark.parametrize("name", ["binary", "multiclass", "regressor"])
def test_answers_what_the_model_says(server: Server, registry: Registry, name: str) -> None:
    """The answer over HTTP is the packaged model's answer, stamped with model, version and variant."""
    rows = json_rows(50, seed=3)
    snapshot = ServedModel.open(registry, f"{name}@1").snapshot()
    decoded = [snapshot.decoder.convert_row(row) for row in rows]
    expected = to_rows(snapshot.schema, snapshot.score(snapshot.decoder.columns(decoded)).predictions)

    answer = httpx.post(f"{server.url}/v1/models/{name}:predict", json={"rows": rows})

    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["version"], body["variant"]) == (name, 1, "champion")
    assert answer.headers["x-zaphod-version"] == "1"
    for got, wanted in zip(body["predictions"], expected, strict=True):
        assert got.get("label") == wanted.get("label")
        for key, value in (wanted.get("probabilities") or {"value": wanted.get("value")}).items():
            there = (got.get("probabilities") or got)[key]
            assert there == pytest.approx(value, rel=1e-9)


def test_one_row_without_a_wrapper(server: Server) -> None:
    """A single object is one row."""
    answer = httpx.post(f"{server.url}/v1/models/binary:predict", json=GOOD)

    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 422, "nothing"),
        (b"{not json", 400, "JSON"),
        (b'{"rows": [{"amount": 1.0, "count": 1}], "more": 1}', 422, "more"),
        (json.dumps({"rows": [{**GOOD, "amount": "much"}]}).encode(), 422, "$.rows[0].amount"),
        (json.dumps({"rows": [{"amount": 1.0}]}).encode(), 422, "count"),
        (json.dumps({"rows": [{**GOOD, "extra": 1}]}).encode(), 422, "extra"),
        (json.dumps({"rows": []}).encode(), 422, "at least one"),
        (json.dumps({"rows": [GOOD] * 10_001}).encode(), 413, "10000"),
        (b"[" * 50_000, 422, "object"),
        (b"\x00\xff" * 100, 400, "JSON"),
        (b'{"amount": ' + b'"' + b"x" * (50 * 1024 * 1024) + b'"}', 413, "max_body_bytes"),
    ],
    ids=["empty", "malformed", "unknown-key", "type", "missing", "unknown", "no-rows", "many", "deep", "bytes", "50MB"],
)  # fmt: skip
def test_bad_input_is_a_4xx_that_names_the_reason(server: Server, body: bytes, status: int, says: str) -> None:
    """Each mistake is answered in JSON with its reason, and the server goes on."""
    answer = httpx.post(f"{server.url}/v1/models/binary:predict", content=body, timeout=30)

    assert answer.status_code == status
    assert says in answer.json()["message"]
    assert len(answer.content) < 2_000
    assert httpx.post(f"{server.url}/v1/models/binary:predict", json=GOOD).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/models/nobody:predict", 404),
        ("/v1/models/..%2f..%2fetc:predict", 404),
        ("/v1/models/binary", 404),
        ("/nowhere", 404),
    ],
)
def test_unknown_paths_and_models_are_404(server: Server, path: str, status: int) -> None:
    """An unknown model or path is a 404 in JSON."""
    answer = httpx.post(f"{server.url}{path}", json=GOOD)

    assert answer.status_code == status
    assert answer.json()["message"]


def test_the_example_of_each_prediction_is_answered(server: Server) -> None:
    """The OpenAPI document's example of every path that predicts gets an answer, in every protocol."""
    document = httpx.get(f"{server.url}/openapi.json").json()
    examples = {
        path: item["post"]["requestBody"]["content"]["application/json"]["example"]
        for path, item in document["paths"].items()
        if path.endswith((":predict", "/infer", "/invocations")) and "post" in item
    }

    statuses = {path: httpx.post(f"{server.url}{path}", json=example).status_code for path, example in examples.items()}

    assert len(statuses) >= 9  # three models, three protocols
    assert set(statuses.values()) == {200}, statuses


def test_promotion_is_served_without_a_failed_request(server: Server, registry: Registry) -> None:
    """A promoted version answers within two seconds, and no request fails meanwhile."""
    bundle = registry.load("regressor", 1)
    version = registry.publish("regressor", bundle.files)
    registry.set_alias("regressor", alias="champion", version=version, action="promote", why="test")

    seen: list[int] = []
    with httpx.Client(base_url=server.url) as client:
        for _ in range(2_000):
            answer = client.post("/v1/models/regressor:predict", json=GOOD)
            assert answer.status_code == 200
            seen.append(answer.json()["version"])
            if seen[-1] == version:
                break
    registry.set_alias("regressor", alias="champion", version=1, action="rollback", why="test")

    assert seen[-1] == version
    assert np.all(np.diff(seen) >= 0)


def test_sample_columns_take_what_http_takes(registry: Registry) -> None:
    """The packaging sample and HTTP rows pass the same checks."""
    schema = registry.load("binary", 1).schema

    assert sample_columns(schema, models.table(100, seed=9)).num_rows == 100


def test_counts_reach_rays_exporter(server: Server) -> None:
    """What was counted is what Prometheus gets from Ray's exporter, found as Prometheus finds it."""
    httpx.post(f"{server.url}/v1/models/binary:predict", json=GOOD)
    headers = {"authorization": f"Bearer {(Path.home() / '.ray' / 'auth_token').read_text().strip()}"}
    name = "ray_zaphod_request_duration_seconds"
    wanted = {"ray_zaphod_requests_total", "ray_zaphod_rows_total", f"{name}_sum_total", f"{name}_count_total"}

    def exported() -> bool:
        # The part of the dashboard that knows them has just been started, perhaps.
        found = httpx.get(f"{server.dashboard}/api/prometheus/sd", headers=headers, timeout=30).json()
        targets = [target for group in found for target in group["targets"]]
        samples: Counter[tuple[str, str]] = Counter()
        for target in targets:
            for family in text_string_to_metric_families(httpx.get(f"http://{target}/metrics").text):
                for sample in family.samples:
                    if (sample.labels.get("model"), sample.labels.get("outcome")) == ("binary", "ok"):
                        samples[sample.name, sample.labels.get("le", "")] += sample.value  # type: ignore[assignment]
        if not wanted <= {found for found, _ in samples}:
            return False
        buckets = [samples[f"{name}_bucket_total", le] for le in ("30", "+Inf")]
        return buckets[0] == buckets[1] == samples[f"{name}_count_total", ""] and samples[f"{name}_sum_total", ""] > 0

    wait_for(exported, timeout_s=60, what="counts in Ray's exporter")
