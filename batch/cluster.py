"""The Ray a job runs on: joined where one runs, else started for the job and ended with it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ray

from zaphod import machine
from zaphod.errors import EnvironmentNotReadyError
from zaphod.settings import load_ray_env


@dataclass(frozen=True, slots=True)
class Cluster:
    """num_cpus: of all its nodes, reserved or not. joined: it was there before and stays."""

    num_cpus: float
    joined: bool


@contextlib.contextmanager
def connect(*, run_dir: Path, ray_env: Path) -> Iterator[Cluster]:
    """Leaves no process behind. Raises: EnvironmentNotReadyError when Ray cannot be reached or started."""
    address = machine.cluster_address(run_dir)
    try:
        if address is None:
            # Read by the processes that Ray starts.
            os.environ.update(load_ray_env(ray_env))
            ray.init(
                _node_ip_address=machine.RAY_HOST,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        else:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, OSError) as error:
        what = "start Ray" if address is None else f"join Ray at {address}"
        raise EnvironmentNotReadyError(f"Cannot {what}: {error}") from error
    try:
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's own
        yield Cluster(
            num_cpus=resources.get("CPU", 0.0),
            joined=address is not None,
        )
    finally:
        ray.shutdown()
