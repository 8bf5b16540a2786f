"""One model, three arms, one answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TypeAlias

import httpx
import msgspec
import numpy as np
import pandas as pd
import pytest

from streaming.queues.base import NewEvent
from tests import models
from tests.conftest import ROOT, Server
from tests.streaming.pools import end_pool, start_pool
from zaphod.registry import Registry

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

NUM_ROWS = 1_000
Answer: TypeAlias = tuple[object, tuple[float, ...]]


def rows_with_everything() -> pd.DataFrame:
    """Rows with nulls, categories that the model has never seen, empty strings and numbers far outside its range."""
    frame = models.table(NUM_ROWS, seed=77)
    frame.insert(0, "id", [f"r{i}" for i in range(NUM_ROWS)])
    frame.loc[frame.index % 10 == 3, "kind"] = "never seen"
    frame.loc[frame.index % 50 == 4, "kind"] = ""
    frame.loc[frame.index % 40 == 5, "amount"] = 1e12
    frame.loc[frame.index % 40 == 6, "amount"] = -1e-300
    assert frame[list(models.NULLABLE)].isna().any().all()
    return frame


def json_rows(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The rows as JSON would carry them, every digit kept."""
    plain = frame.drop(columns="id").astype(object).where(frame.drop(columns="id").notna(), None)
    rows: list[dict[str, object]] = plain.to_dict(orient="records")
    return rows


def online(server: Server, registry: Registry, name: str, frame: pd.DataFrame) -> list[Answer]:
    """By HTTP, a hundred rows a request and the last ones singly."""
    rows = json_rows(frame)
    cuts = [*range(0, 900, 100), *range(900, NUM_ROWS)]
    answers: list[Answer] = []
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for start, end in zip(cuts, [*cuts[1:], NUM_ROWS], strict=True):
            answer = client.post(f"/v1/models/{name}:predict", content=msgspec.json.encode({"rows": rows[start:end]}))
            assert answer.status_code == 200, answer.text
            answers.extend(answer_of(prediction) for prediction in answer.json()["predictions"])
    return answers


def batch(server: Server, registry: Registry, name: str, frame: pd.DataFrame) -> list[Answer]:
    """By `python -m batch` on the server's Ray."""
    home = server.home / f"batch-{name}"
    (home / "input").mkdir(parents=True)
    for part in range(4):
        frame.iloc[part::4].to_parquet(home / f"input/part-{part}.parquet", index=False)
    done = subprocess.run(
        [sys.executable, "-m", "batch", "--config", str(ROOT / "configs/batch.yaml"), "--model", name,
         "--registry", registry.uri, "--input", str(home / "input"), "--output", str(home / "output"),
         "--keep", "id", "--ray-env", str(ROOT / "configs/ray.env")],
        cwd=server.home, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (home / "output/runs").iterdir()
    table = pd.read_parquet(run / "predictions").set_index("id").loc[frame["id"]]
    numbers = [column for column in table.columns if column.startswith("probability_") or column == "value"]
    labels = table["label"].tolist() if "label" in table else [None] * len(table)
    return [(label, tuple(values)) for label, values in zip(labels, table[numbers].to_numpy().tolist(), strict=True)]


def stream(server: Server, registry: Registry, name: str, frame: pd.DataFrame) -> list[Answer]:
    """By events, scored by a pool on the server's Ray."""
    pool = start_pool(
        server.home / f"stream-{name}", registry=registry.uri, model=name, num_scorers=1, ray_home=server.home
    )
    try:
        pool.queue.produce(
            [
                NewEvent(value=msgspec.json.encode(row), id=identifier, created=time.time())
                for identifier, row in zip(frame["id"], json_rows(frame), strict=True)
            ]
        )
        pool.wait_scored()
        assert pool.dead_letters() == []
        by_id = {d.output.id: json.loads(d.output.value)["prediction"] for d in pool.outputs()}
    finally:
        end_pool(pool)
    return [answer_of(by_id[identifier]) for identifier in frame["id"]]


def answer_of(prediction: dict[str, object]) -> Answer:
    """Label, and the numbers in the order of the classes."""
    probabilities = prediction.get("probabilities")
    numbers = tuple(probabilities.values()) if isinstance(probabilities, dict) else (prediction["value"],)
    return prediction.get("label"), numbers  # type: ignore[return-value]  # JSON numbers


def reference(registry: Registry, name: str, frame: pd.DataFrame) -> list[Answer]:
    """What scikit-learn itself says."""
    estimator = models.load_estimator(registry, name)
    X = frame.drop(columns="id")
    if hasattr(estimator, "predict_proba"):
        return list(zip(estimator.predict(X).tolist(), map(tuple, estimator.predict_proba(X).tolist()), strict=True))
    return [(None, (value,)) for value in estimator.predict(X).tolist()]


Arm: TypeAlias = Callable[[Server, Registry, str, pd.DataFrame], list[Answer]]


@pytest.mark.parametrize("name", ["binary", "multiclass", "regressor"])
@pytest.mark.parametrize("arm", [online, batch, stream], ids=["online", "batch", "stream"])
def test_every_arm_gives_the_models_own_answer(server: Server, registry: Registry, arm: Arm, name: str) -> None:
    """Labels are the same for every row; numbers within 1e-9 of what scikit-learn gives."""
    frame = rows_with_everything()
    expected = reference(registry, name, frame)

    answers = arm(server, registry, name, frame)

    assert [label for label, _ in answers] == [label for label, _ in expected]
    np.testing.assert_allclose(
        [numbers for _, numbers in answers], [numbers for _, numbers in expected], rtol=1e-9, atol=1e-12
    )
