"""Which Ray the pool runs on: the one that serves, a cluster, or one of its own for as long as it needs it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import ray

from zaphod import machine
from zaphod.errors import EnvironmentNotReadyError


@contextlib.contextmanager
def joined(place: machine.RayPlace) -> Iterator[str]:
    """Yields where the pool runs, for people. A Ray of our own ends with the block.

    The place's environment must have been set before Ray was imported: Ray reads it then.
    Raises: EnvironmentNotReadyError.
    """
    try:
        if place.address is None:
            ray.init(
                "local",  # without it Ray joins whatever else was started on this machine
                _node_ip_address=machine.RAY_HOST,
                include_dashboard=False,
                logging_level=logging.ERROR,
                namespace="zaphod",
            )
        else:
            ray.init(place.address, logging_level=logging.ERROR, namespace="zaphod")
    except (ConnectionError, RuntimeError, OSError) as error:
        what = "start Ray" if place.address is None else f"join Ray at {place.address}"
        raise EnvironmentNotReadyError(f"Cannot {what}: {error}") from error
    try:
        yield "a Ray of its own" if place.address is None else f"the Ray at {place.address}"
    finally:
        ray.shutdown()
