"""Without HAProxy everything works behind Ray's Python proxy, and the server says that it is slow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, end_server, start_server
from tests.online.load import GOOD
from zaphod.registry import Registry

pytestmark = pytest.mark.cluster


def below_a_prefix(config: dict[str, Any]) -> None:
    """Where path and prefix could be confused."""
    config["applications"][0]["route_prefix"] = "/fraud"


@pytest.fixture
def slow_server(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Ray without HAProxy."""
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    server = start_server(tmp_path, registry=registry.uri, references=["regressor"], change=below_a_prefix)
    yield server
    end_server(server)


def test_every_protocol(slow_server: Server) -> None:
    """The same answer in each, below a prefix; errors in the protocol's form; a warning on the start page."""
    inputs = [
        {"name": name, "shape": [1], "datatype": datatype, "data": [GOOD[name]]}
        for name, datatype in (("amount", "FP64"), ("balance", "FP64"), ("count", "INT64"), ("kind", "BYTES"))
    ]
    with httpx.Client(base_url=f"{slow_server.url}/fraud", timeout=30) as client:
        plain = client.post("/v1/models/regressor:predict", json=GOOD)
        tensors = client.post("/v2/models/regressor/infer", json={"inputs": inputs})
        mlflow = client.post("/invocations", json={"instances": [GOOD]})
        value = plain.json()["predictions"][0]["value"]
        assert tensors.json()["outputs"][0]["data"] == [pytest.approx(value, rel=1e-9)]
        assert mlflow.json()["predictions"] == [pytest.approx(value, rel=1e-9)]
        assert {answer.headers["x-zaphod-version"] for answer in (plain, tensors, mlflow)} == {"1"}
        refused = client.post("/v2/models/nobody/infer", json={"inputs": inputs})
        assert (refused.status_code, list(refused.json())) == (404, ["error"])
        assert "RAY_SERVE_ENABLE_HA_PROXY" in client.get("/").text
    elsewhere = httpx.post(f"{slow_server.url}/elsewhere/invocations", json={})
    assert (elsewhere.status_code, elsewhere.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")
