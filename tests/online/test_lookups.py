"""`GET /v1/predictions/<id>`: what the batch arm published of an entity, for those who may see it."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.asgi import OnlineApp
from deployments.keys import app as keys_app
from deployments.settings import Limits
from tests.batch import tables
from tests.conftest import wait_for
from tests.online.inprocess import client, make_app
from zaphod.lookup import PublishedPredictions
from zaphod.registry import Registry

PATH = "/v1/predictions/"


@pytest.fixture
def published(tmp_path: Path, registry: Registry) -> str:
    """Two files of predictions; one id has everything in it that a path should not."""
    tables.write_input(tmp_path / "input", num_files=1)
    odd = tables.frame(2, seed=9).assign(id=["../../etc/passwd", "a b/c?d=é%2F"])
    tables.write_file(tmp_path / "input/odd.parquet", odd)
    tables.run(tables.make_settings(tmp_path, registry, model="binary"))
    return str(tmp_path / "output")


def test_the_newest_prediction_is_told(registry: Registry, published: str) -> None:
    """With its run and version; an id may hold any character, for it is compared and names no file."""
    with client(make_app(registry, predictions=published)) as http:
        for entity in ("0-17", "../../etc/passwd", "a b/c?d=é%2F"):
            answer = http.get(PATH + urllib.parse.quote(entity, safe=""))

            assert answer.status_code == 200, answer.text
            assert answer.json()["row"]["id"] == entity
            assert (answer.json()["model"], answer.json()["version"]) == ("binary", 1)


@pytest.mark.parametrize(
    ("entity", "status"),
    [
        ("nobody", 404),
        ("..%2F..%2Fcurrent.json", 404),
        ("%00", 422),
        ("x" * 513, 422),
        ("", 422),
        ("*", 404),
        ("'%20OR%201=1", 404),
    ],
)
def test_others_are_refused(registry: Registry, published: str, entity: str, status: int) -> None:
    """In one sentence that does not repeat the id, nor names a folder of the server."""
    with client(make_app(registry, predictions=published)) as http:
        answer = http.get(PATH + entity)

    assert answer.status_code == status
    assert published not in answer.text
    assert len(entity) < 3 or urllib.parse.unquote(entity) not in answer.text


def test_a_server_without_predictions_says_so(registry: Registry, tmp_path: Path) -> None:
    """One that was told of none, and one whose folder is still empty."""
    with client(make_app(registry)) as http:
        assert "Set `predictions`" in http.get(PATH + "0-1").text
    with client(make_app(registry, predictions=str(tmp_path / "nothing"))) as http:
        assert http.get(PATH + "0-1").status_code == 404


def test_a_key_sees_the_models_it_covers(registry: Registry, published: str, tmp_path: Path) -> None:
    """401 without a key; a key for another model finds nothing, and cannot tell whether there is something."""
    path = tmp_path / "keys.json"
    narrow, other = (
        CliRunner().invoke(keys_app, ["add", model, "--file", str(path), "--model", model]).stdout.splitlines()[0]
        for model in ("binary", "regressor")
    )
    with client(make_app(registry, predictions=published, keys=path)) as http:
        answers = [
            http.get(PATH + entity, **{"x-api-key": key} if key else {}).status_code
            for entity, key in (("0-1", ""), ("0-1", narrow), ("0-1", other), ("nobody", other))
        ]

    assert answers == [401, 200, 404, 404]


class Slow(PublishedPredictions):
    """Looks as long as it is held."""

    held = threading.Event()

    def newest(self, entity: str, *, covers: Callable[[str], bool] | None = None) -> object:  # type: ignore[override]
        self.held.wait(60)
        return super().newest(entity, covers=covers)


def test_many_at_once_are_refused(registry: Registry, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many wait; later ones get 429 at once, and those that wait their answers."""
    monkeypatch.setattr("tests.online.inprocess.PublishedPredictions", Slow)
    Slow.held.clear()
    app: OnlineApp = make_app(registry, predictions=published, limits=Limits(predict_timeout_s=60))
    with client(app) as http, ThreadPoolExecutor(40) as pool:
        asked = [pool.submit(http.get, PATH + "0-1") for _ in range(40)]
        wait_for(lambda: sum(each.done() for each in asked) == 24, what="refusals")
        refused = [each.result().status_code for each in asked if each.done()]
        Slow.held.set()
        codes = [each.result().status_code for each in asked]

    assert refused == [429] * 24
    assert sorted(codes) == [200] * 16 + [429] * 24


def test_slow_looks_make_room_again(registry: Registry, published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each ends with 504, and then all is as before."""
    monkeypatch.setattr("tests.online.inprocess.PublishedPredictions", Slow)
    Slow.held.clear()
    app: OnlineApp = make_app(registry, predictions=published, limits=Limits(predict_timeout_s=0.5))
    with client(app) as http, ThreadPoolExecutor(16) as pool:
        codes = [asked.result().status_code for asked in [pool.submit(http.get, PATH + "0-1") for _ in range(16)]]
        assert codes == [504] * 16

        Slow.held.set()
        wait_for(lambda: http.get(PATH + "0-1").status_code == 200)
