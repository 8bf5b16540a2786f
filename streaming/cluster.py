"""Which Ray the pool runs on: the one that serves, a cluster, or one of its own for as long as it needs it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import ray

from zaphod import machine
from zaphod.settings import load_ray_env


@contextlib.contextmanager
def joined(home: Path, *, ray_env: Path) -> Iterator[str]:
    """Yields where the pool runs, for people. A Ray of our own ends with the block."""
    run_dir = home / "var" / "run"
    address = machine.cluster_address(run_dir)
    if address is None:
        os.environ.update({**load_ray_env(ray_env), machine.MARK: machine.owned_mark(run_dir)})
        machine.end_orphans(run_dir)
        ray.init(
            _node_ip_address=machine.RAY_HOST,
            include_dashboard=False,
            logging_level=logging.ERROR,
            namespace="zaphod",
        )
    else:
        ray.init(address=address, logging_level=logging.ERROR, namespace="zaphod")
    try:
        yield "a Ray of its own" if address is None else f"the Ray at {address}"
    finally:
        ray.shutdown()
