"""The Ray a job runs on: joined where one runs, else started for the job and ended with it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batch.settings import BatchSettings
from zaphod import machine
from zaphod.errors import EnvironmentNotReadyError
from zaphod.location import on_own_disk


@dataclass(frozen=True, slots=True)
class Cluster:
    """num_cpus: of all its nodes, reserved or not. joined: it was there before and stays."""

    num_cpus: float
    joined: bool


def find(*, run_dir: Path, ray_env: Path) -> machine.RayPlace:
    """Where Ray is or is to be, with its environment set in this process. Raises: ConfigError."""
    place = machine.find_ray(run_dir, ray_env=ray_env)
    os.environ.update(place.environ)
    if place.address is None:
        machine.end_orphans(run_dir)
    return place


def num_machines() -> int:
    """Of the cluster that this process is part of: several of its nodes may be on one machine."""
    import ray

    return len({node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]})  # type: ignore[no-untyped-call]  # Ray's own


def own_disks(settings: BatchSettings, *, num_machines: int) -> str | None:
    """A warning of folders that every machine may have for itself. It is none that refuses: one of the machines may
    lend its folder to the others.
    """
    uris = {
        "registry": settings.registry,
        "input": settings.input,
        "output": settings.output,
        "monitoring.uri": settings.monitoring.uri,
    }
    own = [f"{name} ({uri})" for name, uri in uris.items() if uri is not None and on_own_disk(uri)]
    if num_machines < 2 or not own:
        return None
    return (
        f"The cluster has {num_machines} machines, and a disk of this one holds {', '.join(own)}: unless the others "
        "see it under the same path, each reads and writes a folder of its own. Name a bucket, or a shared folder."
    )


@contextlib.contextmanager
def connect(place: machine.RayPlace) -> Iterator[Cluster]:
    """Leaves no process behind. Raises: EnvironmentNotReadyError when Ray is not to be had."""
    # Not before `find`: Ray reads its environment, the way to authenticate in it, when it is imported.
    import ray

    # It warns of being connected to from another thread than the first, which is meant.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if place.address is None:
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
