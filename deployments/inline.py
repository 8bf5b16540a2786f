"""The short way through a replica's HTTP server, for predictions that take microseconds.

Ray wraps each request in a task, a queue for disconnects, a time-out, identifiers and metrics of its own, which
together cost more than the model. A request that is answered in the turn of the event loop that brought its end needs
none of it: it cannot wait, time out, be cancelled, or be under way when a replica drains. Such requests are answered
here, where uvicorn parses HTTP. All others take the long way, through ASGI and Ray, as they always did: bodies that are
slow to arrive, heavy models, many rows, pages, pipelined requests behind one of these.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import msgspec
import uvicorn
import uvicorn.config
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from deployments.protocols.base import Headers, Question, Response
from zaphod.served import Snapshot

_log = logging.getLogger("ray.serve")

# The protocol below stands on parts of uvicorn that are not promised to stay.
_KNOWN_UVICORN = ("0.54.",)

# Most clients send head and body apart, and HAProxy hands on 16 KB at a time: pieces of one request come within a few
# milliseconds. What takes longer or is larger is left to Ray.
_PATIENCE_S = 0.1
_MAX_COLLECTED_BYTES = 1024 * 1024

# How soon a changed configuration is taken up.
_LOOK_S = 0.2

_STATUS_LINE = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Shedding:
    """When to refuse. max_requests: of one turn of the event loop; None for all of them."""

    max_requests: int | None
    status: int
    retry_after_s: float | None


class Admission:
    """Counts the requests that one turn of the event loop finds waiting, which is how long the queue was.

    Requests wait in their sockets; a turn reads every socket that is ready, so the last of n waits for n - 1 others.
    Those on the long way wait in Ray, whose refusal costs several times as much, and the connection: they are counted
    too.
    """

    def __init__(self, shedding: Callable[[], Shedding]) -> None:
        self._shedding = shedding
        self._now = shedding()
        self._next_look_s = 0.0
        self._taken = 0
        self._num_long = 0
        self._app: ASGI3Application | None = None
        self._counted: ASGI3Application | None = None

    def admit(self, loop: asyncio.AbstractEventLoop) -> Shedding | None:
        """None, or why not."""
        if self._taken == 0:
            loop.call_soon(self._turn, loop)
        self._taken += 1
        limit = self._now.max_requests
        return None if limit is None or self._taken <= limit else self._now

    def admit_long(self) -> Shedding | None:
        """As `admit`, before a request takes the long way."""
        limit = self._now.max_requests
        return None if limit is None or self._num_long < limit else self._now

    def around(self, app: ASGI3Application) -> ASGI3Application:
        """The application of the long way, with what is in it counted."""
        if self._counted is None or self._app is not app:

            async def counted(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
                self._num_long += 1
                under_way = True

                async def sent(message: ASGISendEvent) -> None:
                    nonlocal under_way
                    # Before the last bytes leave: who has an answer may ask again, and finds the room that it had.
                    if message["type"] == "http.response.body" and not message.get("more_body") and under_way:
                        self._num_long, under_way = self._num_long - 1, False
                    await send(message)

                try:
                    await app(scope, receive, sent)
                finally:
                    self._num_long -= under_way

            self._app, self._counted = app, counted
        return self._counted

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._taken = 0
        if loop.time() >= self._next_look_s:
            self._now, self._next_look_s = self._shedding(), loop.time() + _LOOK_S


class Begun(msgspec.Struct, frozen=True, gc=False):
    """A request that was decoded before it showed that it takes long: the long way goes on with it.

    began: of `time.perf_counter`.
    """

    snapshot: Snapshot
    question: Question
    began: float


# Where the ASGI scope has it.
BEGUN = "zaphod.begun"


class Answers(Protocol):
    """Who answers. paths: of predictions, as they stand in a request line; they may grow."""

    @property
    def paths(self) -> Mapping[bytes, object]: ...

    def answer(self, path: bytes, headers: Headers, body: bytes) -> Response | Begun | None:
        """At once; when it is not to be had at once, how far it got, or None. Must not raise."""
        ...

    def refuse(self, path: bytes, *, status: int, retry_after_s: float | None) -> Response: ...


class InlineProtocol(HttpToolsProtocol):
    """uvicorn's protocol; POST requests for predictions are given to `answers` first, once they are whole."""

    answers: Answers
    admission: Admission
    patience_s = _PATIENCE_S
    _pieces: list[bytes] | None = None
    _num_bytes = 0
    _patience: asyncio.TimerHandle | None = None
    # One timer a connection, which finds out when it fires whether there was anything in between: to set one after each
    # answer and to stop it before the next request costs as much as parsing that.
    _idle: asyncio.TimerHandle | None = None
    _last_s = 0.0
    _lines_of: list[tuple[bytes, bytes]] | None = None
    _lines = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self.app = self.admission.around(self.app)

    def on_message_begin(self) -> None:
        # The scope is made when the long way needs it.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._pieces = None

    def on_headers_complete(self) -> None:
        if (
            self.url in self.answers.paths
            and self.parser.get_method() == b"POST"
            and (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and not self.flow.write_paused
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
        ):
            self._pieces, self._num_bytes = [], 0
        else:
            self._take_long_way()

    def on_body(self, body: bytes) -> None:
        if self._pieces is None:
            super().on_body(body)
        else:
            self._pieces.append(body)
            self._num_bytes += len(body)
            if self._num_bytes > _MAX_COLLECTED_BYTES:
                self._continue_long_way()

    def on_message_complete(self) -> None:
        self._stop_waiting()
        if self._pieces is None:
            super().on_message_complete()
            return
        refusal = self.admission.admit(self.loop)
        if refusal is not None:
            self._pieces = None
            self._write(self.answers.refuse(self.url, status=refusal.status, retry_after_s=refusal.retry_after_s))
            return
        pieces = self._pieces
        response = self.answers.answer(self.url, self.headers, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if not isinstance(response, Response):
            refusal = self.admission.admit_long()
        if refusal is not None:
            response = self.answers.refuse(self.url, status=refusal.status, retry_after_s=refusal.retry_after_s)
        if isinstance(response, Response):
            self._pieces = None
            self._write(response)
        else:
            self._continue_long_way()
            if response is not None:
                self.scope[BEGUN] = response  # type: ignore[literal-required]  # an extension of ours
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        self._last_s = self.loop.time()
        super().data_received(data)
        if self._pieces is not None and self._patience is None and not self.transport.is_closing():
            self._patience = self.loop.call_later(self.patience_s, self._continue_long_way)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._pieces = None
        if self._idle is not None:
            self._idle.cancel()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Half a request is no idle connection: its rest is waited for as for any other's."""
        if self._pieces is not None:
            self._continue_long_way()
        super().shutdown()

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _take_long_way(self) -> None:
        url, headers, expect_100_continue = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect_100_continue
        self.headers.extend(headers)
        super().on_headers_complete()

    def _continue_long_way(self) -> None:
        self._stop_waiting()
        pieces, self._pieces = self._pieces or [], None
        self._take_long_way()
        for piece in pieces:
            super().on_body(piece)

    def _write(self, response: Response) -> None:
        keep_alive = self.parser.should_keep_alive()
        defaults = self.server_state.default_headers
        if defaults is not self._lines_of:  # uvicorn makes another list each second
            self._lines_of, self._lines = defaults, _lines(defaults)
        head = b"%b%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n" % (
            _STATUS_LINE[response.status],
            self._lines,
            response.content_type,
            len(response.body),
            _lines(response.headers),
            b"" if keep_alive else b"connection: close\r\n",
        )
        num_lines = 4 + len(defaults) + len(response.headers) + (not keep_alive)
        if head.count(b"\n") != num_lines or head.count(b"\r") != num_lines:
            _log.error("a header of a response had a line break in it; the caller got a 500 instead")
            self.transport.write(_STATUS_LINE[500] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
            return
        self.transport.write(head + response.body)
        self.server_state.total_requests += 1
        if not keep_alive:
            self.transport.close()
        elif self._idle is None:
            self._idle = self.loop.call_later(self.timeout_keep_alive, self._end_if_idle)

    def _end_if_idle(self) -> None:
        self._idle = None
        if self._pieces is not None or (self.cycle is not None and not self.cycle.response_complete):
            return  # the answer that comes sets a timer
        rest_s = self._last_s + self.timeout_keep_alive - self.loop.time()
        if rest_s > 0:
            self._idle = self.loop.call_later(rest_s, self._end_if_idle)
        elif self.timeout_keep_alive_task is None:  # the long way's answers have a timer of their own
            self.timeout_keep_alive_handler()


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def install(answers: Answers, *, shedding: Callable[[], Shedding]) -> bool:
    """Makes the HTTP servers that this process starts from now on use it; False when uvicorn is not one it knows."""
    if not uvicorn.__version__.startswith(_KNOWN_UVICORN):
        _log.warning(
            "uvicorn %s has not been tried with the short way for small predictions: every request takes the long way, "
            "which is several times slower. Install the version in requirements.lock.",
            uvicorn.__version__,
        )
        return False
    members = {"answers": answers, "admission": Admission(shedding)}
    # Ray builds the server and asks for the protocol by this name.
    uvicorn.config.HTTP_PROTOCOLS["auto"] = type("Protocol", (InlineProtocol,), members)  # type: ignore[assignment]
    return True
