"""Property tests compute on one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import threadpoolctl


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """scikit-learn's threads wait for each other longer than these small models compute."""
    with threadpoolctl.threadpool_limits(1):
        yield
