"""The short way through the HTTP server: what takes it, what does not, and that nobody can tell them apart."""

from __future__ import annotations

import asyncio
import contextlib
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


@dataclass
class LongWay:
    """The application behind: echoes with a mark, once it is let. lingers: it does not end with its answer."""

    num_calls: int = 0
    held: bool = False
    lingers: bool = False

    async def __call__(self, scope, receive, send) -> None:  # type: ignore[no-untyped-def]  # ASGI
        self.num_calls += 1
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        while self.held:  # noqa: ASYNC110  # another thread lets it go
            await asyncio.sleep(0.01)
        headers = [(b"x-way", b"long"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        while self.lingers:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)


@dataclass
class Running:
    """A real server in a thread."""

    port: int
    echo: Echo
    shedding: list[Shedding]
    reads: list[int]
    server: uvicorn.Server
    long_way: LongWay
    protocol: type[InlineProtocol]

    def talk(self, *pieces: bytes, num_answers: int = 1) -> list[tuple[bytes, dict[bytes, bytes], bytes]]:
        """Sends the pieces one after the other; status line, headers and body of each answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
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
    echo, shedding, long_way = Echo(), [Shedding(None, 429, 1.5)], LongWay()
    reads: list[int] = []

    class Protocol(InlineProtocol):
        answers = echo
        admission = Admission(lambda: shedding[0])

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            reads.append(len(data))

    config = uvicorn.Config(
        long_way, http=Protocol, lifespan="off", log_config=None, access_log=False, timeout_keep_alive=60
    )
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
        thread.start()
        wait_for(lambda: server.started)
        yield Running(listener.getsockname()[1], echo, shedding, reads, server, long_way, Protocol)
        server.should_exit = True
        thread.join(timeout=60)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "pieces",
    [
        (post(b"whole"),),
        (post(b"pieces")[:-3], post(b"pieces")[-3:]),
        (post(b"headers first")[:-13], b"headers first"),
        (post(b"whole")[:10], post(b"whole")[10:-3], post(b"whole")[-3:]),
    ],
    ids=["whole", "pieces", "headers-first", "within-the-head"],
)
def test_a_request_takes_the_short_way_once_it_is_whole(running: Running, pieces: tuple[bytes, ...]) -> None:
    """It is answered in the turn that brings its end, with the headers that uvicorn gives as well."""
    running.protocol.patience_s = 60.0

    ((status, headers, body),) = running.talk(*pieces)

    assert (status, headers[b"x-way"], body) == (b"HTTP/1.1 200 OK", b"short", b"".join(pieces).split(b"\r\n\r\n")[1])
    assert {b"date", b"server"} <= headers.keys()


def test_a_slow_body_is_left_to_the_long_way(running: Running) -> None:
    """Which has time-outs, and knows a client that went away."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
        connection.sendall(post(b"slow")[:-2])
        wait_for(lambda: running.long_way.num_calls == 1)
        connection.sendall(b"ow")
        _, headers, body = read_answer(connection.makefile("rb"))

    assert (headers[b"x-way"], body) == (b"long", b"slow")


def test_a_large_body_is_left_to_the_long_way(running: Running) -> None:
    """So much is not kept beside what uvicorn keeps, which holds a fast sender back."""
    running.protocol.patience_s = 60.0
    body = b"x" * 1_100_000

    ((_, headers, got),) = running.talk(post(body))

    assert (headers[b"x-way"], got) == (b"long", body)


def test_half_a_request_survives_the_end_of_the_server(running: Running) -> None:
    """A replica that stops waits for the rest and answers, where it closes idle connections at once."""
    running.protocol.patience_s = 60.0
    with (
        socket.create_connection(("127.0.0.1", running.port), timeout=60) as idle,
        socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection,
    ):
        read = len(running.reads)
        connection.sendall(post(b"half")[:-2])
        wait_for(lambda: len(running.reads) > read)
        running.server.should_exit = True
        assert idle.recv(1) == b""
        connection.sendall(b"lf")
        status, headers, body = read_answer(connection.makefile("rb"))

    assert (status.split()[1], headers[b"x-way"], body) == (b"200", b"long", b"half")


def test_a_client_that_leaves_in_the_middle_is_forgotten(running: Running) -> None:
    """Nobody is answered, and nothing waits."""
    running.protocol.patience_s = 60.0
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
        connection.sendall(post(b"gone")[:-2])
        wait_for(lambda: len(running.server.server_state.connections) == 1)
    wait_for(lambda: not running.server.server_state.connections)

    assert running.long_way.num_calls == 0


@pytest.mark.parametrize(
    "pieces",
    [
        (post(b"long, the handler says"),),
        (post(b"long, the handler says")[:-6], b"r says"),
        (post(b"elsewhere", path=b"/other"),),
        (post(b"query", path=b"/fast?x=1"),),
        (post(b"careful", b"expect: 100-continue"),),
        (post(b"old", version=b"1.0"),),
        (b"POST /fast HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nlong\r\n0\r\n\r\n",),
    ],
    ids=["handler-declines", "pieces-declined", "path", "query", "expect", "http-1.0", "chunked-declined"],
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
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
        file = connection.makefile("rb")
        for _ in range(3):
            connection.sendall(post(b"again"))
            assert b"connection" not in read_answer(file)[1]
        connection.sendall(post(b"last", b"connection: close"))
        assert read_answer(file)[1][b"connection"] == b"close"
        assert file.read() == b""


def test_an_idle_connection_is_ended_in_the_end(running: Running) -> None:
    """After its last answer, whichever way that took, and not while anything is under way."""
    running.server.config.timeout_keep_alive = 1
    with contextlib.ExitStack() as stack:
        files = []
        for bodies in ([b"short"], [b"long"], [b"short", b"long", b"short"]):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=60))
            files.append(connection.makefile("rb"))
            for body in bodies:
                connection.sendall(post(body))
                assert read_answer(files[-1])[2] == body
        assert [file.read() for file in files] == [b""] * 3


def test_requests_beyond_the_limit_of_a_turn_are_refused(running: Running) -> None:
    """Of the requests that wait together, so many are answered and the others told when to come again."""
    running.shedding[0] = Shedding(3, 429, 1.5)
    got: list[tuple[bytes, dict[bytes, bytes], bytes]] = []

    def refused() -> bool:
        got[:] = running.talk(post(b"x") * 5, num_answers=5)
        return b"429" in got[-1][0]

    wait_for(refused, what="the new limit")
    assert [status.split()[1] for status, _, _ in got] == [b"200"] * 3 + [b"429"] * 2
    assert got[-1][1][b"retry-after"] == b"1"
    assert running.talk(post(b"later"))[0][0].split()[1] == b"200"


def test_requests_beyond_what_the_long_way_may_hold_are_refused(running: Running) -> None:
    """Those in it stay, others are told to come again on a connection that stays, until there is room."""
    running.shedding[0] = Shedding(3, 429, 1.5)
    running.long_way.held = True
    with contextlib.ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=60))

        waiting = [connect() for _ in range(3)]
        for number, connection in enumerate(waiting, start=1):
            connection.sendall(post(b"long"))
            wait_for(lambda number=number: running.long_way.num_calls == number)  # type: ignore[misc]  # mypy cannot infer it
        late = connect()
        late_file = late.makefile("rb")

        def statuses() -> bytes:
            late.sendall(post(b"long"))
            return read_answer(late_file)[0]

        wait_for(lambda: b"429" in statuses(), what="the new limit")
        late.sendall(post(b"short"))
        assert read_answer(late_file)[1][b"x-way"] == b"short"
        running.long_way.held = False
        assert [read_answer(each.makefile("rb"))[2] for each in waiting] == [b"long"] * 3
        wait_for(lambda: b"200" in statuses(), what="room")


def test_who_has_an_answer_finds_room_again(running: Running) -> None:
    """A request holds its place up to its answer, whatever the application has to do afterwards."""
    running.shedding[0] = Shedding(1, 429, 1.5)
    wait_for(lambda: b"429" in running.talk(post(b"x") * 2, num_answers=2)[-1][0], what="the new limit")
    running.long_way.lingers = True

    statuses = [running.talk(post(b"long"))[0][0] for _ in range(3)]

    running.long_way.lingers = False
    assert statuses == [b"HTTP/1.1 200 OK"] * 3


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
