"""Slow tests run when they are asked for: `-m slow`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import threadpoolctl


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the slow ones unless the marker is named."""
    if "slow" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="minutes: run with -m slow"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """scikit-learn's threads wait for each other longer than these small models compute."""
    with threadpoolctl.threadpool_limits(1):
        yield
