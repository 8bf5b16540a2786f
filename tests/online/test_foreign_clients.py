"""Clients that others wrote and that do not install beside us: each in an environment of its own, made here.

`pytest -m slow tests/online/test_foreign_clients.py`
"""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path

import httpx
import pytest

from tests import models
from tests.conftest import Server

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

MLSERVER = """
import sys, pandas as pd, requests
from mlserver.codecs import PandasCodec
from mlserver.types import InferenceResponse

url, rows = sys.argv[1], sys.argv[2]
frame = pd.read_json(rows)
request = PandasCodec.encode_request(frame)
answer = requests.post(url + "/v2/models/regressor/infer", data=request.model_dump_json(exclude_none=True),
                       headers={"content-type": "application/json"})
decoded = PandasCodec.decode_response(InferenceResponse.model_validate(answer.json()))
print(decoded["value"].tolist())
"""
KSERVE = """
import asyncio, sys, numpy as np, pandas as pd
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

url, frame = sys.argv[1], pd.read_json(sys.argv[2])
kinds = {"amount": "FP64", "balance": "FP64", "count": "INT64", "kind": "BYTES"}
inputs = [InferInput(name=name, shape=[len(frame)], datatype=kind, data=frame[name].tolist())
          for name, kind in kinds.items()]
client = InferenceRESTClient(RESTConfig(protocol="v2"))

async def ask():
    assert await client.is_server_ready(url) and await client.is_model_ready(url, "regressor")
    request = InferRequest(model_name="regressor", infer_inputs=inputs)
    answer = await client.infer(url, request, model_name="regressor")
    return next(output for output in answer.outputs if output.name == "value").data

print([float(value) for value in asyncio.run(ask())])
"""


@pytest.mark.parametrize(
    ("packages", "program"),
    [(("mlserver==1.7.1", "pandas<3", "requests"), MLSERVER), (("kserve==0.21.0", "pandas"), KSERVE)],
    ids=["mlserver", "kserve"],
)
def test_a_foreign_client_gets_the_same_answer(
    server: Server, tmp_path: Path, packages: tuple[str, ...], program: str
) -> None:
    """What it makes of our answer is what plain JSON says."""
    frame = models.table(7, seed=5).dropna()
    rows = json.loads(frame.to_json(orient="records", double_precision=15))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    expected = httpx.post(f"{server.url}/v1/models/regressor:predict", json={"rows": rows}).json()["predictions"]
    venv.create(tmp_path / "environment", with_pip=True)
    python = str(tmp_path / "environment" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)

    done = subprocess.run(
        [python, "-c", program, server.url, str(tmp_path / "rows.json")], capture_output=True, text=True, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx([row["value"] for row in expected], rel=1e-9)
