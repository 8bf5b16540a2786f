"""A local S3 server."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import wait_for
from zaphod import machine

_REGION = {"authorization": "AWS4-HMAC-SHA256 Credential=key/20260101/eu-central-1/s3/aws4_request"}
_LOCATION = (
    "<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint></CreateBucketConfiguration>"
)


@contextlib.contextmanager
def running() -> Iterator[None]:
    """With an empty bucket `registries`; its address and credentials are in the environment."""
    with server("eu-central-1") as url:
        assert httpx.put(f"{url}/registries", headers=_REGION, content=_LOCATION, timeout=60).status_code == 200
        yield


@contextlib.contextmanager
def server(region: str) -> Iterator[str]:
    """Its address; that and credentials are in the environment, as the cloud's own tools read them."""
    port = machine.free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    with contextlib.ExitStack() as stack:
        stack.callback(process.wait)
        stack.callback(process.kill)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": region,
            "AWS_ENDPOINT_URL": url,
            "AWS_ALLOW_HTTP": "true",
        }.items():
            patch.setenv(name, value)
        wait_for(lambda: _answers(url), what="the S3 server")
        yield url


def _answers(url: str) -> bool:
    """Somebody listens and speaks HTTP."""
    try:
        httpx.get(url)
    except httpx.TransportError:
        return False
    return True
