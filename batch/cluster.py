"""The Ray a job runs on: joined where one runs, else started for the job and ended with it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from zaphod import machine
from zaphod.errors import EnvironmentNotReadyError


@dataclass(frozen=True, slots=True)
class Cluster:
    """num_cpus: of all its nodes, reserved or not. joined: it was there before and stays."""

    num_cpus: float
    joined: bool


def is_running(run_dir: Path) -> bool:
    """Whether `connect` would join a Ray that is there, by what the environment and the home say."""
    return bool(os.environ.get("RAY_ADDRESS")) or machine.read_run_file(run_dir) is not None


@contextlib.contextmanager
def connect(*, run_dir: Path, ray_env: Path) -> Iterator[Cluster]:
    """Leaves no process behind. Raises: ConfigError; EnvironmentNotReadyError when Ray is not to be had."""
    place = machine.find_ray(run_dir, ray_env=ray_env)
    os.environ.update(place.environ)
    # Not before: Ray reads its environment, the way to authenticate in it, when it is imported.
    import ray

    # It warns of being connected to from another thread than the first, which is meant.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if place.address is None:
            machine.end_orphans(run_dir)
            ray.init(
                "local",  # without it Ray joins whatever else was started on this machine
                _node_ip_address=machine.RAY_HOST,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        else:
            ray.init(place.address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    except (ConnectionError, RuntimeError, OSError) as error:
        what = "start Ray" if place.address is None else f"join Ray at {place.address}"
        raise EnvironmentNotReadyError(f"Cannot {what}: {error}") from error
    try:
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's own
        yield Cluster(num_cpus=resources.get("CPU", 0.0), joined=place.address is not None)
    finally:
        ray.shutdown()
