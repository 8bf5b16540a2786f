"""The short way through the HTTP server: what takes it, what does not, and that nobody can tell them apart."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import uvicorn

from deployments.inline import Admission, InlineProtocol, Shedding, install
from deployments.protocols.base import Headers, Response
from tests.conftest import wait_for


@dataclass
class Echo:
    """Answers `/fast` with the body, unless it begins with `long`."""

    paths: dict[bytes, object] = field(default_factory=lambda: {b"/fast": None})
    extra: tuple[bytes, bytes] = (b"x-way", b"short")

    def answer(self, path: bytes, headers: Headers, body: bytes) -> Response | None:
        return None if body.startswith(b"long") else Response(200, body, headers=(self.extra,))

    def refuse(self, path: bytes, *, status: int, retry_after_s: float | None) -> Response:
        return Response(status, b"full", headers=((b"retry-after", b"%d" % (retry_after_s or 0)),))


async def long_way(scope, receive, send) -> None:  # type: ignore[no-untyped-def]  # ASGI
    """Echoes with a mark."""
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    headers = [(b"x-way", b"long"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@dataclass
class Running:
    """A real server in a thread."""

    port: int
    echo: Echo
    shedding: list[Shedding]
    reads: list[int]

    def talk(self, *pieces: bytes, num_answers: int = 1) -> list[tuple[bytes, dict[bytes, bytes], bytes]]:
        """Sends the pieces one after the other; status line, headers and body of each answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            for piece in pieces:
                read = len(self.reads)
                connection.sendall(piece)
                # So that the next piece is a piece of its own.
                wait_for(lambda read=read: len(self.reads) > read)  # type: ignore[misc]  # mypy cannot infer it
            file = connection.makefile("rb")
            return [read_answer(file) for _ in range(num_answers)]


def read_answer(file) -> tuple[bytes, dict[bytes, bytes], bytes]:  # type: ignore[no-untyped-def]  # a socket's file
    """One response; an interim one is passed over."""
    status = file.readline().strip()
    headers = dict(line.strip().split(b": ", 1) for line in iter(file.readline, b"\r\n") if line)
    if b" 100 " in status:
        return read_answer(file)
    return status, headers, file.read(int(headers[b"content-length"]))


def post(body: bytes, *headers: bytes, path: bytes = b"/fast", version: bytes = b"1.1") -> bytes:
    """A whole request."""
    lines = [b"POST %b HTTP/%b" % (path, version), b"host: x", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


@pytest.fixture
def running() -> Iterator[Running]:
    """A server with the protocol, and no limit on what it takes."""
    echo, shedding = Echo(), [Shedding(None, 429, 1.5)]
    reads: list[int] = []

    class Protocol(InlineProtocol):
        answers = echo
        admission = Admission(lambda: shedding[0])

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            reads.append(len(data))

    config = uvicorn.Config(long_way, http=Protocol, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        yield Running(listener.getsockname()[1], echo, shedding, reads)
        server.should_exit = True
        thread.join(timeout=10)
    assert not thread.is_alive()


def test_whole_request_takes_the_short_way(running: Running) -> None:
    """What came in one piece is answered at once, with the headers that uvicorn gives as well."""
    ((status, headers, body),) = running.talk(post(b"one"))

    assert (status, headers[b"x-way"], body) == (b"HTTP/1.1 200 OK", b"short", b"one")
    assert {b"date", b"server"} <= headers.keys()


@pytest.mark.parametrize(
    "pieces",
    [
        (post(b"pieces")[:-3], post(b"pieces")[-3:]),
        (post(b"headers first")[:-13], b"headers first"),
        (post(b"long, the handler says"),),
        (post(b"elsewhere", path=b"/other"),),
        (post(b"query", path=b"/fast?x=1"),),
        (post(b"careful", b"expect: 100-continue"),),
        (post(b"old", version=b"1.0"),),
        (b"POST /fast HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nlong\r\n0\r\n\r\n",),
    ],
    ids=["pieces", "headers-first", "handler-declines", "path", "query", "expect", "http-1.0", "chunked-declined"],
)
def test_everything_else_takes_the_long_way(running: Running, pieces: tuple[bytes, ...]) -> None:
    """The application behind gets the whole body of every other request."""
    ((status, headers, body),) = running.talk(*pieces)

    assert status.endswith(b" 200 OK")
    assert headers[b"x-way"] == b"long"
    assert body == pieces[-1].split(b"\r\n\r\n")[-1] or body in b"".join(pieces)
    assert body


def test_pipelined_requests_are_answered_in_order(running: Running) -> None:
    """Whichever way each takes, answers come back in the order of the questions."""
    bodies = [b"a", b"long b", b"c", b"d", b"long e", b"f"]

    got = running.talk(b"".join(post(body) for body in bodies), num_answers=len(bodies))

    assert [body for _, _, body in got] == bodies
    assert got[0][1][b"x-way"] == b"short"


def test_connection_is_kept_or_closed_as_asked(running: Running) -> None:
    """`connection: close` is obeyed and said; otherwise the connection takes the next request."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        file = connection.makefile("rb")
        for _ in range(3):
            connection.sendall(post(b"again"))
            assert b"connection" not in read_answer(file)[1]
        connection.sendall(post(b"last", b"connection: close"))
        assert read_answer(file)[1][b"connection"] == b"close"
        assert file.read() == b""


def test_requests_beyond_the_limit_of_a_turn_are_refused(running: Running) -> None:
    """Of the requests that wait together, so many are answered and the others told when to come again."""
    running.shedding[0] = Shedding(3, 429, 1.5)
    running.talk(post(b"a turn to take up the new limit"))

    got = running.talk(post(b"x") * 5, num_answers=5)

    assert [status.split()[1] for status, _, _ in got] == [b"200"] * 3 + [b"429"] * 2
    assert got[-1][1][b"retry-after"] == b"1"
    assert running.talk(post(b"later"))[0][0].split()[1] == b"200"


def test_no_header_is_ever_split(running: Running) -> None:
    """A line break in a header's value ends in a 500, not in a header of the caller's choice."""
    running.echo.extra = (b"x-id", b"1\r\nset-cookie: a=b")

    ((status, headers, _),) = running.talk(post(b"x"))

    assert b"500" in status
    assert b"set-cookie" not in headers


def test_other_uvicorn_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a uvicorn that has not been tried nothing is changed."""
    before = dict(uvicorn.config.HTTP_PROTOCOLS)
    monkeypatch.setattr(uvicorn, "__version__", "0.99.0")

    assert not install(Echo(), shedding=lambda: Shedding(None, 429, None))
    assert before == uvicorn.config.HTTP_PROTOCOLS
