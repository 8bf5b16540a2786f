"""The pages show what works, and the OpenAPI document tells the truth."""

from __future__ import annotations

import asyncio
import html
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    positive_data_acceptance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import Server
from tests.online.inprocess import Client, client, make_app
from tests.online.test_access import add
from zaphod.monitoring.outcomes import open_outcomes
from zaphod.monitoring.settings import LogSettings
from zaphod.registry import Registry

NUM_CASES = int(os.environ.get("ZAPHOD_FUZZ", "300")) // 30
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
MODELS = ("binary", "multiclass", "regressor")
SERVER_PATHS = {
    "/health", "/ready", "/ping", "/version", "/metrics", "/invocations", "/v1/models", "/v1/outcomes",
    "/v1/predictions/{id}", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/repository/index",
    "/v2/repository/models/{name}/load",
}  # fmt: skip
_PASTE = re.compile(r"<pre class=paste data-kind=(\w+)>(.*?)</pre>", re.DOTALL)


@pytest.fixture(scope="module")
def local(registry: Registry) -> Iterator[Client]:
    """The application without Ray."""
    with client(make_app(registry)) as made:
        yield made


def pasted(page: str, kind: str) -> list[str]:
    """What the page offers to copy."""
    return [html.unescape(text) for found, text in _PASTE.findall(page) if found == kind]


@pytest.mark.cluster
def test_every_pasted_example_works(server: Server, local: Client) -> None:
    """Each `curl` line in a shell, and each piece of Python, prints a prediction."""
    page = local.get("/docs").text
    host = server.url.removeprefix("http://")
    commands, programs = pasted(page, "curl"), pasted(page, "python")
    assert (len(commands), len(programs)) == (9, 9)

    for command in commands:
        done = subprocess.run(["bash", "-c", command], env={**os.environ, "HOST": host}, capture_output=True, text=True)
        answer = json.loads(done.stdout)
        assert "predictions" in answer or "outputs" in answer, command
    program = "\n".join(programs).replace("$HOST", host).replace("localhost:9000", server.grpc)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= len(programs)


def test_the_home_page_says_what_is_served(local: Client) -> None:
    """Names, versions and engines; nothing is fetched from elsewhere, and no other site may frame it."""
    answer = local.get("/")

    for name in ("binary", "multiclass", "regressor"):
        assert name in answer.text
    assert "version 1" in answer.text
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert not re.findall(r"""(?:src|href)=["']?https?:""", answer.text + local.get("/docs").text)


def test_everything_leads_below_the_prefix(registry: Registry) -> None:
    """Behind a route prefix, with or without a slash, are the pages; their links and the document's begin there too."""
    transport = httpx.ASGITransport(make_app(registry), root_path="/fraud")

    async def get(path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://zaphod") as http:
            return await http.get(f"/fraud{path}")

    assert asyncio.run(get("/openapi.json")).json()["servers"] == [{"url": "/fraud"}]
    assert asyncio.run(get("")).text == asyncio.run(get("/")).text
    for path in ("", "/", "/docs"):
        links = re.findall(r"""href=["']?(/[^"' >]*)""", asyncio.run(get(path)).text)
        assert links
        assert all(link.startswith("/fraud/") for link in links)


def test_the_docs_name_the_servers_routes_too(local: Client, registry: Registry, tmp_path: Path) -> None:
    """Those that are no model's stand in a table; of the first model only who may know it is told."""
    keys = tmp_path / "keys.json"
    key = add(keys, "narrow", "--model", "regressor")
    page = local.get("/docs").text

    assert all(f"<code>{path}</code>" in page for path in SERVER_PATHS - {"/v1/predictions/{id}"})
    with client(make_app(registry, keys=keys)) as closed:
        for path in ("/docs", "/openapi.json"):
            told = closed.get(path, authorization=f"Bearer {key}").text
            assert "/v1/outcomes" in told
            assert "binary" not in told


def test_openapi_tells_the_truth(registry: Registry, tmp_path: Path) -> None:
    """Answers have the status, type and form that the document promises, and rows that it allows are accepted."""
    outcomes = open_outcomes(LogSettings(uri=str(tmp_path / "log")))
    assert outcomes is not None
    app = make_app(registry, predictions=str(tmp_path / "predictions"), outcomes=outcomes)
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {each.path for each in operations if not any(name in each.path for name in MODELS)} == SERVER_PATHS
    assert len(operations) == len(SERVER_PATHS) + len(MODELS) * 6

    for operation in operations:

        @settings(max_examples=NUM_CASES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def probe(case: schemathesis.Case) -> None:
            rows = case.operation.path.startswith("/v1") and case.media_type == "application/json"
            case.call_and_validate(checks=[*CHECKS, positive_data_acceptance] if rows else CHECKS)

        probe()
    outcomes.close()
