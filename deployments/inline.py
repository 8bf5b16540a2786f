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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import msgspec
import uvicorn
import uvicorn.config
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
    """

    def __init__(self, shedding: Callable[[], Shedding]) -> None:
        self._shedding = shedding
        self._now = shedding()
        self._taken = 0

    def admit(self, loop: asyncio.AbstractEventLoop) -> Shedding | None:
        """None, or why not."""
        if self._taken == 0:
            loop.call_soon(self._turn)
        self._taken += 1
        limit = self._now.max_requests
        return None if limit is None or self._taken <= limit else self._now

    def _turn(self) -> None:
        self._taken = 0
        self._now = self._shedding()


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
        if isinstance(response, Response):
            self._pieces = None
            self._write(response)
        else:
            self._continue_long_way()
            if response is not None:
                self.scope[BEGUN] = response  # type: ignore[literal-required]  # an extension of ours
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._pieces is not None and self._patience is None and not self.transport.is_closing():
            self._patience = self.loop.call_later(self.patience_s, self._continue_long_way)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._pieces = None
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
        headers = [
            *self.server_state.default_headers,
            (b"content-type", response.content_type),
            (b"content-length", b"%d" % len(response.body)),
            *response.headers,
        ]
        if not keep_alive:
            headers.append((b"connection", b"close"))
        head = _STATUS_LINE[response.status] + b"".join([b"%b: %b\r\n" % header for header in headers])
        if head.count(b"\n") != len(headers) + 1 or head.count(b"\r") != len(headers) + 1:
            _log.error("a header of a response had a line break in it; the caller got a 500 instead")
            self.transport.write(_STATUS_LINE[500] + b"content-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()
            return
        self.transport.write(b"%b\r\n%b" % (head, response.body))
        self.server_state.total_requests += 1
        if keep_alive:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        else:
            self.transport.close()


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
