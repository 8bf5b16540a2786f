"""API keys: who may ask which model, from which moment on, and what is never open."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.access import Access, Keys
from deployments.keys import app as keys_app
from deployments.launcher import predict_examples
from tests.conftest import wait_for
from tests.online.inprocess import GOOD, Client, call, client, listening, make_app, make_service
from zaphod.errors import ConfigError, ForbiddenError, UnauthenticatedError
from zaphod.registry import Registry

BODY = json.dumps(GOOD).encode()
ASKS = {
    "/v1/models/{}:predict": BODY,
    "/v2/models/{}/infer": json.dumps(
        {
            "inputs": [
                {"name": "amount", "shape": [1], "datatype": "FP64", "data": [1.0]},
                {"name": "count", "shape": [1], "datatype": "INT64", "data": [1]},
            ]
        }
    ).encode(),
    "/models/{}/invocations": json.dumps({"instances": [GOOD]}).encode(),
}


def add(path: Path, name: str, *flags: str) -> str:
    """A new key, made as an operator makes it."""
    done = CliRunner().invoke(keys_app, ["add", name, "--file", str(path), *flags])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with one key for `binary` only."""
    return tmp_path / "keys.json"


@pytest.fixture
def asking(registry: Registry, path: Path) -> Iterator[tuple[Client, str]]:
    """A server with keys, and the key that covers `binary`."""
    key = add(path, "narrow", "--model", "binary")
    with client(make_app(registry, keys=path)) as made:
        yield made, key


@pytest.mark.parametrize("ask", ASKS, ids=["plain", "openinference", "mlflow"])
def test_a_key_opens_its_models_and_no_others(asking: tuple[Client, str], ask: str) -> None:
    """401 without a key or with a wrong one, 403 for another model, 200 for its own, in every protocol."""
    http, key = asking
    body = ASKS[ask]

    without = http.post(ask.format("binary"), body)
    wrong = http.post(ask.format("binary"), body, authorization="Bearer zk_guessed")
    other = http.post(ask.format("regressor"), body, authorization=f"Bearer {key}")
    own = http.post(ask.format("binary"), body, authorization=f"Bearer {key}")
    by_header = http.post(ask.format("binary"), body, x_api_key=key)

    assert [answer.status_code for answer in (without, wrong, other, own, by_header)] == [401, 401, 403, 200, 200]
    assert "Bearer" in without.headers["www-authenticate"]
    assert key not in "".join(answer.text for answer in (without, wrong, other, own))


def test_only_health_is_open(asking: tuple[Client, str]) -> None:
    """Pages and metadata show example rows and names: with keys they need one, and show what it covers."""
    http, key = asking
    closed = ["/", "/docs", "/openapi.json", "/v1/models", "/v1/models/binary", "/v2/models/binary", "/v2"]

    assert {path: http.get(path).status_code for path in closed} == dict.fromkeys(closed, 401)
    for open_path in ("/health", "/ready", "/ping", "/v2/health/live", "/v2/health/ready"):
        assert http.get(open_path).status_code == 200
    seen = http.get("/v1/models", authorization=f"Bearer {key}").json()["models"]
    assert [model["model"] for model in seen] == ["binary"]
    assert http.get("/v2/models/regressor", authorization=f"Bearer {key}").status_code == 404


@pytest.mark.parametrize("ask", ["/v1/models/{}:predict", "/v2/models/{}/infer", "/models/{}/invocations"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST"])
def test_nobody_learns_names_of_models(asking: tuple[Client, str], ask: str, method: str) -> None:
    """What is served and what is not look alike to who may ask neither, by whatever method and version."""
    http, key = asking
    shown = {"authorization": f"Bearer {key}"}

    for headers, status in (({}, 401), (shown, 403)):
        served, not_served, version = (
            http.request(method, ask.format(name), content=BODY, headers=headers)
            for name in ("regressor", "nobody", "nobody@7" if ask[:3] != "/v2" else "nobody/versions/7")
        )
        assert served.status_code == not_served.status_code == version.status_code == status
        assert served.text == not_served.text == version.text
    missing = http.request("POST", ask.format("binary@7"), content=BODY, headers=shown)
    assert missing.status_code == 404
    assert "binary@champion" in missing.text or "'binary'" in missing.text
    assert "regressor" not in missing.text


def test_open_health_names_no_model(registry: Registry, asking: tuple[Client, str]) -> None:
    """With keys it says that the server is ready, and nothing else; without keys what is ready."""
    http, _ = asking
    with client(make_app(registry)) as open_server:
        assert open_server.get("/health").json() == {"status": "ready", "models": ["binary", "multiclass", "regressor"]}

    for path in ("/health", "/ready"):
        assert http.get(path).json() == {"status": "ready"}


def test_what_concerns_all_models_wants_a_key_for_all(asking: tuple[Client, str], path: Path) -> None:
    """Metrics and outcomes: no key for one model, unless it manages."""
    http, key = asking
    whole, manager = add(path, "whole"), add(path, "manager", "--manage", "--model", "binary")
    outcome = b'{"outcomes": [{"prediction_id": "a", "value": 1}]}'
    wait_for(lambda: http.get("/metrics", authorization=f"Bearer {manager}").status_code == 200, timeout_s=2.5)

    for headers, status in (({}, 401), ({"x_api_key": key}, 403)):
        assert http.post("/v1/outcomes", outcome, **headers).status_code == status
        assert (
            http.get("/metrics", **{name.replace("_", "-"): value for name, value in headers.items()}).status_code
            == status
        )
    for known in (whole, manager):
        assert http.get("/metrics", authorization=f"Bearer {known}").status_code == 200
        # 400: there is no log here.
        assert http.post("/v1/outcomes", outcome, x_api_key=known).status_code == 400


def test_grpc_tells_no_names_either(registry: Registry, path: Path) -> None:
    """A model that is served and one that is not are the same to who may ask neither, and metadata wants a key."""
    key = add(path, "narrow", "--model", "binary")
    service = make_service(registry, keys=path)

    for shown, code in ((None, "UNAUTHENTICATED"), (key, "PERMISSION_DENIED")):
        told = {call(service, "ModelInfer", shown, model_name=name) for name in ("regressor", "nobody")}
        assert {each[0].name for each in told} == {code}
        assert len(told) == 1
    assert call(service, "ServerMetadata", None)[0].name == "UNAUTHENTICATED"
    assert call(service, "ServerMetadata", key)[0] is None
    (code, details) = call(service, "ModelInfer", key, model_name="binary", model_version="7")
    assert code.name == "NOT_FOUND"
    assert "regressor" not in details


def test_a_browser_is_asked_for_the_key(asking: tuple[Client, str]) -> None:
    """A page offers the browser's own dialogue, and the key is its password."""
    http, key = asking

    asked = http.get("/docs", accept="text/html")
    given = http.request("GET", "/docs", headers={"authorization": basic("me", key)})

    assert "Basic" in ",".join(asked.headers.get_list("www-authenticate"))
    assert given.status_code == 200


def basic(user: str, password: str) -> str:
    """The header that a browser sends."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_keys_change_without_a_restart(asking: tuple[Client, str], path: Path) -> None:
    """A new key is taken and a withdrawn one refused within two seconds; a broken file changes nothing."""
    http, key = asking
    ask = "/v1/models/binary:predict"

    second = add(path, "second")
    wait_for(lambda: http.post(ask, BODY, x_api_key=second).status_code == 200, timeout_s=2.5)
    CliRunner().invoke(keys_app, ["withdraw", "narrow", "--file", str(path)])
    wait_for(lambda: http.post(ask, BODY, x_api_key=key).status_code == 401, timeout_s=2.5)
    path.write_text("{broken")

    wait_for(lambda: http.post(ask, BODY, x_api_key=second).status_code == 200, timeout_s=2.5)
    assert http.post(ask, BODY, x_api_key=key).status_code == 401


def test_a_server_with_keys_is_ready_too(registry: Registry, path: Path) -> None:
    """Who starts it has each model predict that the key covers, and learns which ones refuse it; no key is fine too."""
    key = add(path, "narrow", "--model", "binary")
    models = ["binary", "regressor"]
    with listening(make_app(registry, keys=path)) as (host, port):
        url = f"http://{host}:{port}"
        with_key, without, wrong = (predict_examples(url, models, key=each) for each in (key, "", "zk_guessed"))
    addresses = [f"{url}/v1/models/{name}" for name in models]

    assert [with_key[address] is not None for address in addresses] == [True, False]
    assert without == wrong == dict.fromkeys(addresses)


def test_the_file_holds_no_key(path: Path) -> None:
    """Who reads the file cannot ask with what is in it; nobody but its owner reads it."""
    key = add(path, "one")

    assert key not in path.read_text()
    assert path.stat().st_mode & 0o077 == 0
    (kept,) = Keys.read(path.read_bytes(), source="test").keys
    access = Access(path)
    with pytest.raises(UnauthenticatedError):
        access.predict([(b"x-api-key", kept.sha256.encode())], "binary")
    access.predict([(b"x-api-key", key.encode())], "binary")


def test_management_is_never_open(path: Path) -> None:
    """Without keys nobody manages; with keys only one made for it."""
    with pytest.raises(ForbiddenError, match="no API keys"):
        Access(None).manage([])
    plain, manager = add(path, "plain"), add(path, "manager", "--manage")
    access = Access(path)

    with pytest.raises(UnauthenticatedError):
        access.manage([])
    with pytest.raises(ForbiddenError):
        access.manage([(b"x-api-key", plain.encode())])
    assert access.manage([(b"x-api-key", manager.encode())]).name == "manager"


def test_the_repository_is_for_managers(registry: Registry, asking: tuple[Client, str], path: Path) -> None:
    """Its routes refuse no key, another key, and a server that has no keys at all; a manager lists and looks again."""
    http, key = asking
    manager = add(path, "manager", "--manage", "--model", "binary")
    routes = ["/v2/repository/index", "/v2/repository/models/binary/load"]
    with client(make_app(registry)) as open_server:
        for route in routes:
            assert open_server.post(route, b"").status_code == 403
    for route in routes:
        assert http.post(route, b"").status_code == 401
        assert http.post(route, b"", x_api_key=key).status_code == 403
        wait_for(lambda route=route: http.post(route, b"", x_api_key=manager).status_code == 200, timeout_s=2.5)
    assert [model["name"] for model in http.post(routes[0], b"{}", x_api_key=manager).json()] == ["binary"]
    assert http.post("/v2/repository/models/regressor/load", b"", x_api_key=manager).status_code == 404
    assert http.post("/v2/repository/models/binary/unload", b"", x_api_key=manager).status_code == 404


@pytest.mark.parametrize("content", ["", "[]", '{"keys": [{"name": "a"}]}', '{"keys": [{"name": "a", "sha256": "x"}]}'])
def test_a_server_with_unreadable_keys_does_not_start(path: Path, content: str) -> None:
    """A mistake in the file must not leave the door open."""
    path.write_text(content)

    with pytest.raises(ConfigError):
        Access(path)


def test_a_missing_file_does_not_start_open(path: Path) -> None:
    """A file that is named but not there is a mistake too."""
    with pytest.raises(ConfigError, match="Make the file"):
        Access(path)


def test_keys_of_the_environment(path: Path) -> None:
    """The variable holds the same document as the file."""
    key = add(path, "one")

    access = Access(None, environ_keys=path.read_text())

    access.predict([(b"authorization", f"Bearer {key}".encode())], "binary")
    with pytest.raises(UnauthenticatedError):
        access.predict([], "binary")


@pytest.mark.parametrize(
    "header",
    [b"", b"Bearer", b"Bearer ", b"Basic", b"Basic !!!!", b"Basic " + b"A" * 100_000, b"Negotiate x", b"\xff\xfe\x00"],
)
def test_odd_credentials_are_just_refused(path: Path, header: bytes) -> None:
    """No header makes the check fail in another way."""
    add(path, "one")

    with pytest.raises(UnauthenticatedError):
        Access(path).predict([(b"authorization", header)], "binary")
