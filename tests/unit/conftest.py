"""Buckets of two kinds, of servers on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import gcs, s3


@pytest.fixture(scope="session", name="s3")
def s3_bucket() -> Iterator[str]:
    """A local S3 server with an empty bucket; its address and credentials are in the environment."""
    with s3.running():
        yield "s3://registries"


@pytest.fixture(scope="session", name="gs")
def gs_bucket() -> Iterator[str]:
    """A stand-in for Google Cloud Storage with an empty bucket."""
    with gcs.running():
        yield "gs://registries"
