"""Whatever is sent: an answer below 500, in time, without the caller's data. ZAPHOD_FUZZ says how many requests."""

from __future__ import annotations

import os
import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.conftest import Server
from tests.online.attempts import CANARY, Attempt, attempts, columnar, mutate
from tests.online.inprocess import GOOD

NUM_REQUESTS = int(os.environ.get("ZAPHOD_FUZZ", "600"))
# Of twenty requests two are bent HTTP on a bare socket, one is drawn by hypothesis, seventeen are mutated good ones.
NUM_SOCKETS = NUM_REQUESTS // 10
NUM_DRAWN = NUM_REQUESTS // 20
NUM_MUTATED = NUM_REQUESTS - NUM_SOCKETS - NUM_DRAWN
NUM_CLIENTS = 4
_AS_A_NAME = re.compile(rb'"' + CANARY.encode() + rb'"\s*:|"name"\s*:\s*"' + CANARY.encode())

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120 + NUM_REQUESTS // 50)]


def is_well(server: Server) -> bool:
    """The server still predicts, in the process it predicted in before."""
    return httpx.post(f"{server.url}/v1/models/binary:predict", json=GOOD, timeout=10).status_code == 200


def replicas(server: Server) -> set[int]:
    """The processes that answer."""
    return {process.pid for process in server.marked() if "Ingress" in " ".join(process.cmdline())}


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    """A client, around a check that no replica died."""
    with httpx.Client(base_url=server.url, timeout=20) as made:
        before = replicas(server)
        assert before
        yield made
        assert is_well(server)
        assert before <= replicas(server), "a replica died"


@settings(
    max_examples=NUM_DRAWN,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    derandomize="ZAPHOD_FUZZ" not in os.environ,
)
@given(attempt=attempts)
def test_no_request_breaks_the_server(http: httpx.Client, attempt: Attempt) -> None:
    """Every bent request is answered below 500, within 20 s, and without the data in it."""
    check(http, attempt)


def check(http: httpx.Client, attempt: Attempt) -> int:
    """The status. Raises: AssertionError when the answer is not what an answer must be."""
    answer = http.request(attempt.method, attempt.path, headers=attempt.headers, content=attempt.body)
    assert answer.status_code < 500, (attempt, answer.text)
    if answer.status_code >= 400:
        # A field that the model does not have is named, so that a slip of the pen is found; values never are.
        assert CANARY not in answer.text or _AS_A_NAME.search(attempt.body), attempt
        assert len(answer.content) < 2_000, attempt
    return answer.status_code


def test_no_mutation_breaks_the_server(server: Server, http: httpx.Client) -> None:
    """Good requests of every protocol with tokens or bytes exchanged, from several clients at once."""

    def run(seed: int) -> Counter[int]:
        rng = random.Random(seed)
        with httpx.Client(base_url=server.url, timeout=20) as client:
            return Counter(check(client, mutate(rng)) for _ in range(NUM_MUTATED // NUM_CLIENTS))

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        seen = sum(pool.map(run, range(NUM_CLIENTS)), Counter[int]())

    # Many still pass: a mutation that only ever met the first check would prove nothing about the rest.
    assert seen[200] > NUM_MUTATED // 20, seen
    assert {400, 422} <= seen.keys(), seen


def bent_http(rng: random.Random) -> bytes:
    """A request that is wrong below its body."""
    body = rng.choice([b'{"amount": 1, "count": 2, "kind": "%s"}' % CANARY.encode(), *columnar()])
    path = rng.choice([b"/v1/models/binary:predict", b"/v2/models/binary/infer", b"/invocations", b"/", b"*", b"/\xff"])
    length = rng.choice([len(body), len(body), len(body) + 50, 0, -1, 10**30])
    headers = [b"host: x", b"content-type: application/json", b"content-length: %d" % length]
    match rng.randrange(9):
        case 0:
            headers.append(b"content-length: 5")
        case 1:
            headers[2] = b"transfer-encoding: chunked"
            body = rng.choice([b"5\r\nabcde\r\n0\r\n\r\n", b"zz\r\nabc\r\n", b"FFFFFFFFFFFFFFFF\r\nx", b"5\r\nab"])
        case 2:
            headers.append(b"transfer-encoding: chunked")
        case 3:
            headers += [b"x-%d: %s" % (i, b"y" * 200) for i in range(rng.choice([10, 200]))]
        case 4:
            headers.append(b"expect: 100-continue")
        case 5:
            headers.append(b"\x00bad\x01: value")
        case 6:
            headers.append(b"x-zaphod-entity: " + CANARY.encode())
        case 7:
            path += b"?" + b"q" * rng.choice([10, 20_000])
    method = rng.choice([b"POST", b"POST", b"POST", b"GET", b"PRI", b"TRACE", b"\x16\x03\x01"])
    version = rng.choice([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9.9", b""])
    whole = method + b" " + path + b" " + version + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body
    return whole[: rng.randrange(len(whole))] if rng.random() < 0.2 else whole


def ask_raw(server: Server, sent: bytes, *, linger_s: float = 0.3, once: bool = False) -> bytes:
    """Sends bytes and reads until the end or `linger_s` of silence. once: until something came."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        received = b""
        try:
            connection.sendall(sent)
            connection.settimeout(linger_s)
            while chunk := connection.recv(65_536):
                received += chunk
                if once:
                    break
        except (TimeoutError, ConnectionError):
            pass
        return received


def test_no_bytes_break_the_server(server: Server, http: httpx.Client) -> None:
    """Bent HTTP is answered below 500 or not at all; nothing of the data comes back."""
    rng = random.Random(1)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda sent: ask_raw(server, sent), [bent_http(rng) for _ in range(NUM_SOCKETS)]))

    answered = [answer for answer in answers if answer.startswith(b"HTTP/1.")]
    assert len(answered) > len(answers) // 3
    for answer in answered:
        assert int(answer.split(b" ", 2)[1]) < 500, answer[:500]
        assert CANARY.encode() not in answer


def test_a_slow_body_ends_in_408_and_holds_up_nobody(server: Server, http: httpx.Client) -> None:
    """Twenty clients that stop in the middle are told so after `body_timeout_s`; others are answered meanwhile."""
    head = b"POST /v1/models/binary:predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
    with ThreadPoolExecutor(20) as pool:
        slow = [pool.submit(ask_raw, server, head + b'{"amount": 1,', linger_s=15, once=True) for _ in range(20)]
        meanwhile = [http.post("/v1/models/binary:predict", json=GOOD, timeout=5).status_code for _ in range(50)]
        answers = [answer.result() for answer in slow]

    assert set(meanwhile) == {200}
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers), answers[0]
