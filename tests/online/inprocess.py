"""The HTTP application without Ray and without a socket: what a protocol or a limit does needs neither."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio.from_thread
import grpc
import httpx
import uvicorn

from deployments.access import Access
from deployments.asgi import OnlineApp
from deployments.batching import Batcher
from deployments.catalogue import Catalogue
from deployments.grpc_service import InferenceService
from deployments.inline import Admission, InlineProtocol, Shedding
from deployments.lookups import Lookups
from deployments.metrics import Meter
from deployments.outcomes import OutcomeInbox
from deployments.protocols.every import every_protocol
from deployments.protocols.messages import message
from deployments.scaling import Busyness
from deployments.scoring import Scoring
from deployments.settings import Limits
from tests.conftest import wait_for
from zaphod.lookup import PublishedPredictions
from zaphod.monitoring.log import PredictionLog
from zaphod.monitoring.outcomes import OutcomeLog
from zaphod.monitoring.record import Arm
from zaphod.monitoring.settings import LogSettings
from zaphod.registry import Registry
from zaphod.served import Recording, ServedModel

GOOD = {"amount": 100.0, "balance": None, "count": 3, "kind": "a"}


def make_app(
    registry: Registry,
    *,
    limits: Limits | None = None,
    keys: Path | None = None,
    scoring: Scoring | None = None,
    predictions: str | None = None,
    log: PredictionLog | None = None,
    outcomes: OutcomeLog | None = None,
    models: Sequence[str] = ("binary", "multiclass", "regressor"),
) -> OnlineApp:
    """Test models behind every protocol. predictions: output of a batch job. log, outcomes: where they go."""
    limits = limits or Limits()
    catalogue = _catalogue(registry, models, log)
    return OnlineApp(
        catalogue,
        protocols=every_protocol(catalogue, limits=limits),
        scoring=scoring or Scoring(Batcher(max_rows=1_024)),
        limits=limits,
        access=Access(keys),
        inbox=OutcomeInbox(outcomes, max_rows=limits.max_rows),
        meter=Meter(replica="r", busyness=Busyness()),
        lookups=Lookups(
            None if predictions is None else PublishedPredictions.open(predictions), timeout_s=limits.predict_timeout_s
        ),
    )


def _catalogue(registry: Registry, models: Sequence[str], log: PredictionLog | None) -> Catalogue:
    recording = None if log is None else Recording(log, Arm.ONLINE, LogSettings())
    return Catalogue({name: ServedModel.open(registry, f"{name}@champion", recording=recording) for name in models})


def make_service(
    registry: Registry,
    *,
    keys: Path | None = None,
    log: PredictionLog | None = None,
    models: Sequence[str] = ("binary", "multiclass", "regressor"),
) -> InferenceService:
    """What answers gRPC, with the same models."""
    return InferenceService(
        _catalogue(registry, models, log),
        scoring=Scoring(Batcher(max_rows=1_024)),
        limits=Limits(),
        access=Access(keys),
        meter=Meter(replica="r", busyness=Busyness()),
    )


@dataclass
class Context:
    """Of a gRPC call: what it was told."""

    key: str | None
    code: grpc.StatusCode | None = None
    details: str = ""

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [] if self.key is None else [("x-api-key", self.key)]

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None: ...


def call(service: InferenceService, method: str, key: str | None, **fields: str) -> tuple[grpc.StatusCode | None, str]:
    """The code and the details of a call's end."""
    context = Context(key)
    asyncio.run(service.call(method, message(f"{method}Request")(**fields), context))
    return context.code, context.details


class Client:
    """Sends requests to an application on an event loop of its own."""

    def __init__(self, portal: anyio.from_thread.BlockingPortal, app: OnlineApp) -> None:
        self._portal = portal
        self._client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://zaphod")

    def request(
        self, method: str, path: str, *, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        async def send() -> httpx.Response:
            return await self._client.request(method, path, content=content, headers=headers)

        return self._portal.call(send)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, content: bytes, **headers: str) -> httpx.Response:
        return self.request(
            "POST", path, content=content, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )


@contextmanager
def client(app: OnlineApp) -> Iterator[Client]:
    """A client for the time of the block."""
    with anyio.from_thread.start_blocking_portal() as portal:
        yield Client(portal, app)


@contextmanager
def listening(app: OnlineApp) -> Iterator[tuple[str, int]]:
    """Where the application listens for the time of the block, with the short way, as in a replica."""

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
