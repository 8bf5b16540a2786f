"""What the log calls refused and failed, and what it is not told; without Ray."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.dataset as ds
import pytest

from deployments.settings import Limits
from tests.online.inprocess import GOOD, call, listening, make_app, make_service
from tests.online.test_access import add
from zaphod.monitoring.log import PredictionLog, open_log
from zaphod.monitoring.settings import LogSettings
from zaphod.registry import Registry

PATH = "/v1/models/binary:predict"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PredictionLog]:
    """Empty."""
    made = open_log(LogSettings(uri=str(tmp_path / "kept")))
    assert made is not None
    yield made
    made.close()


def records(log: PredictionLog, tmp_path: Path) -> Counter[tuple[str, str | None]]:
    """How often each status and error."""
    log.flush()
    kept = ds.dataset(tmp_path / "kept/log", format="parquet", partitioning=None).to_table(["status", "error"])
    return Counter((row["status"], row["error"]) for row in kept.to_pylist())


def test_who_may_not_ask_is_no_failure_of_the_model(registry: Registry, log: PredictionLog, tmp_path: Path) -> None:
    """A known key, a slow body and bad data are the caller's; without a known key nothing is written at all."""
    keys = tmp_path / "keys.json"
    narrow, whole = add(keys, "narrow", "--model", "regressor"), add(keys, "whole")
    app = make_app(registry, log=log, keys=keys)
    with listening(app) as (host, port), httpx.Client(base_url=f"http://{host}:{port}", timeout=30) as http:
        asked = [
            http.post(PATH, json=body, headers=headers).status_code
            for body, headers in (
                (GOOD, {}), (GOOD, {"x-api-key": "zk_guessed"}), (GOOD, {"x-api-key": narrow}),
                ({}, {"x-api-key": whole}), (GOOD, {"x-api-key": whole}),
            )
        ]  # fmt: skip
    in_a_hurry = make_app(registry, log=log, keys=keys, limits=Limits(body_timeout_s=0.2))
    with listening(in_a_hurry) as (host, port):
        for key in ("zk_guessed", whole):
            with socket.create_connection((host, port), timeout=30) as slow:
                slow.sendall(
                    f"POST {PATH} HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\ncontent-length: 9\r\n\r\n".encode()
                )
                asked.append(int(slow.recv(12).split()[1]))

    assert asked == [401, 401, 403, 422, 200, 401, 408]
    assert records(log, tmp_path) == {
        ("refused", "forbidden"): 1, ("refused", "invalid_input"): 1, ("ok", None): 1, ("refused", "slow_request"): 1,
    }  # fmt: skip


def test_grpc_is_recorded_alike(registry: Registry, log: PredictionLog, tmp_path: Path) -> None:
    """A key for another model is refused, no key is nothing."""
    keys = tmp_path / "keys.json"
    narrow = add(keys, "narrow", "--model", "regressor")
    service = make_service(registry, keys=keys, log=log)

    codes = [call(service, "ModelInfer", key, model_name="binary")[0] for key in (None, narrow)]

    assert [code and code.name for code in codes] == ["UNAUTHENTICATED", "PERMISSION_DENIED"]
    assert records(log, tmp_path) == {("refused", "forbidden"): 1}
