"""The short and the long way through a replica give the same answers; without Ray, uvicorn alone."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from deployments.batching import Batcher
from deployments.protocols.base import Question
from deployments.scoring import Scoring
from deployments.settings import Limits
from tests.online.inprocess import GOOD, client, listening, make_app
from zaphod.registry import Registry
from zaphod.served import Scored, Snapshot

PATH = "/v1/models/binary:predict"


class Short(Scoring):
    """Five rows are too many to take at once. Keeps the questions it was asked."""

    def __init__(self) -> None:
        super().__init__(Batcher(max_rows=1_024))
        self.asked: list[Question] = []

    def score_now(self, snapshot: Snapshot, question: Question) -> Scored | None:
        self.asked.append(question)
        return None if question.columns.num_rows == 5 else super().score_now(snapshot, question)


@pytest.fixture(scope="module")
def scoring() -> Short:
    """What the application scores with."""
    return Short()


@pytest.fixture(scope="module")
def address(registry: Registry, scoring: Short) -> Iterator[tuple[str, int]]:
    """Where the application listens, as in a replica."""
    with listening(make_app(registry, limits=Limits(max_rows=2_000), scoring=scoring)) as found:
        yield found


def ask(address: tuple[str, int], body: bytes, *, short: bool) -> tuple[int, str, str, bool]:
    """Status, type, body and whether it took the short way. Not short: in HTTP/1.0, which may not take it."""
    head = f"POST {PATH} HTTP/1.{1 if short else 0}\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(head + body)
        answer = http.client.HTTPResponse(connection, method="POST")
        answer.begin()
        return answer.status, answer.headers["content-type"], answer.read().decode(), took_short_way(answer)


def took_short_way(answer: http.client.HTTPResponse) -> bool:
    """It gives each answer an id, which Ray does on the long way, and Ray is not here."""
    return "x-request-id" in answer.headers


BODIES = {
    "one": json.dumps(GOOD),
    "rows": json.dumps({"rows": [GOOD] * 3}),
    "too much": json.dumps({"rows": [GOOD] * 5}),
    "none": "",
    "malformed": "{",
    "wrong type": json.dumps({**GOOD, "amount": "x"}),
    "missing": json.dumps({"amount": 1.0}),
    "many": json.dumps({"rows": [GOOD] * 2_001}),
}


@pytest.mark.parametrize("case", BODIES)
def test_both_ways_say_the_same(address: tuple[str, int], case: str) -> None:
    """Which way a request takes makes no difference to what is answered."""
    short, long = (ask(address, BODIES[case].encode(), short=short) for short in (True, False))

    assert short[:3] == long[:3]
    assert (short[3], long[3]) == (case != "too much", False)


def test_what_is_too_much_for_the_short_way_is_decoded_once(address: tuple[str, int], scoring: Short) -> None:
    """The long way goes on with the question that the short way read."""
    scoring.asked.clear()

    ask(address, BODIES["too much"].encode(), short=True)

    short, long = scoring.asked
    assert short is long


def test_both_ways_are_counted(address: tuple[str, int]) -> None:
    """Each request counts once, whichever way it took, under its outcome."""

    def counted(outcome: str) -> float:
        connection = http.client.HTTPConnection(*address, timeout=10)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        lines = [line for line in text.splitlines() if line.startswith("zaphod_requests_total") and outcome in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    ok, bad = counted("ok"), counted("unprocessable")
    for short in (True, False):
        ask(address, BODIES["one"].encode(), short=short)
        ask(address, BODIES["too much"].encode(), short=short)
        ask(address, BODIES["malformed"].encode(), short=short)

    assert (counted("ok"), counted("unprocessable")) == (ok + 4, bad + 2)


def test_a_request_for_which_there_is_no_room_counts_for_the_version_that_was_asked(registry: Registry) -> None:
    """As refused, beside those that the same version answered."""
    app = make_app(registry)
    for tries in (1, 2):
        response = app.refuse(PATH.encode(), status=429, retry_after_s=0.5)
        assert (response.status, response.headers) == (429, ((b"retry-after", b"1"),))

        with client(app) as asked:
            text = asked.get("/metrics").text
        labels = 'model="binary",version="1",variant="champion",protocol="plain",outcome="refused"'
        assert f'zaphod_requests_total{{{labels},replica="r"}} {tries}' in text
