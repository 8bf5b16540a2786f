"""The short and the long way through a replica give the same answers; without Ray, uvicorn alone."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from deployments.inline import Admission, InlineProtocol, Shedding
from deployments.settings import Limits
from tests.conftest import wait_for
from tests.online.inprocess import GOOD, make_app
from zaphod.registry import Registry

PATH = "/v1/models/binary@champion:predict"


@pytest.fixture(scope="module")
def address(registry: Registry) -> Iterator[tuple[str, int]]:
    """Where the application listens, as in a replica."""
    app = make_app(registry, limits=Limits(max_rows=2_000))

    class Protocol(InlineProtocol):
        answers = app
        admission = Admission(lambda: Shedding(None, 429, None))

    server = uvicorn.Server(uvicorn.Config(app, http=Protocol, log_config=None, access_log=False))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        yield "127.0.0.1", listener.getsockname()[1]
        server.should_exit = True
        thread.join(timeout=10)


def ask(address: tuple[str, int], body: bytes, *, whole: bool, path: str = PATH) -> tuple[int, str, str]:
    """Status, type and body. Not whole: the head and the body arrive one after the other."""
    connection = http.client.HTTPConnection(*address, timeout=10)
    if whole:
        # http.client sends head and body apart; a request in one piece has to be written by hand.
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        connection.connect()
        connection.sock.sendall(head + body)
        answer = http.client.HTTPResponse(connection.sock, method="POST")
        answer.begin()
    else:
        connection.request("POST", path, body)
        answer = connection.getresponse()
    got = answer.status, answer.headers["content-type"], answer.read().decode()
    connection.close()
    return got


BODIES = {
    "one": json.dumps(GOOD),
    "rows": json.dumps({"rows": [GOOD] * 3}),
    "none": "",
    "malformed": "{",
    "wrong type": json.dumps({**GOOD, "amount": "x"}),
    "missing": json.dumps({"amount": 1.0}),
    "many": json.dumps({"rows": [GOOD] * 2_001}),
}


@pytest.mark.parametrize("case", BODIES)
def test_both_ways_say_the_same(address: tuple[str, int], case: str) -> None:
    """Whether a request came whole makes no difference to what is answered."""
    short, long = (ask(address, BODIES[case].encode(), whole=whole) for whole in (True, False))

    assert short == long


def test_both_ways_are_counted(address: tuple[str, int]) -> None:
    """Each request counts once, whichever way it took, under its outcome."""

    def counted(outcome: str) -> float:
        connection = http.client.HTTPConnection(*address, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        lines = [line for line in text.splitlines() if line.startswith("zaphod_requests_total") and outcome in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    ok, bad = counted("ok"), counted("unprocessable")
    for whole in (True, False):
        ask(address, BODIES["one"].encode(), whole=whole)
        ask(address, BODIES["malformed"].encode(), whole=whole)

    assert (counted("ok"), counted("unprocessable")) == (ok + 2, bad + 2)
