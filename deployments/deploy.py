"""Hands a Serve configuration to a Ray that is starting and waits for its applications.

`python -m deployments.deploy CONFIG`, then the address on standard input. A process of its own: it loads Ray while Ray
starts beside it, and it ends when all is deployed, with the hundred megabytes that talking to Ray takes.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ray
import ray.serve._private.controller  # Ray loads it when it is first needed, which is when everybody waits for it
import yaml
from ray import serve
from ray.serve._private import api
from ray.serve._private.client import ServeControllerClient
from ray.serve._private.constants import SERVE_NAMESPACE
from ray.serve.config import ControllerOptions, gRPCOptions
from ray.serve.context import _set_global_client
from ray.serve.schema import ApplicationStatus, ServeDeploySchema

_POLL_S = 0.2
# Of Serve's processes. By itself glibc keeps the more of what was freed the larger requests were, in a heap for each of
# many threads: a replica grows by a tenth in half an hour of mixed load. Not in configs/ray.env, for batch tasks gain
# a tenth from buffers that are kept.
_MEMORY = {"MALLOC_ARENA_MAX": "2", "MALLOC_TRIM_THRESHOLD_": str(128 * 1024)}


def start(config: ServeDeploySchema) -> None:
    """What `serve run` does, but that applications need not wait until the edge listens: each loads for seconds."""
    controller, edges = api._create_controller_and_proxy_refs(  # `serve.start` has no way not to wait
        config.http_options.model_dump(),
        gRPCOptions(**config.grpc_options.model_dump()),
        global_logging_config=None,
        global_tracing_config=None,
        controller_options=config.controller_options or ControllerOptions(),
        proxy_location=config.proxy_location,
    )
    client = ServeControllerClient(controller)
    _set_global_client(client)  # type: ignore[no-untyped-call]  # Ray is not typed there
    client.deploy_apps(config)
    ray.get(edges)


def failure() -> str | None:
    """Why an application does not run, empty when all run, None while that is open."""
    applications = serve.status().applications
    for name, application in applications.items():
        if application.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            lines = [line for line in application.message.splitlines() if line.strip()]
            return f"application {name}: {lines[-1] if lines else application.status}"
    running = [each.status is ApplicationStatus.RUNNING for each in applications.values()]
    return "" if running and all(running) else None


def main() -> None:
    """Exits with 1, the reason last on standard error, when an application cannot be deployed."""
    address = sys.stdin.readline().strip()
    config = ServeDeploySchema.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text()))
    environment = {"worker_process_setup_hook": "deployments.lean.setup", "env_vars": _MEMORY}
    ray.init(address, namespace=SERVE_NAMESPACE, runtime_env=environment)
    start(config)
    while (why := failure()) is None:
        time.sleep(_POLL_S)
    ray.shutdown()
    if why:
        sys.stderr.write(f"{why}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
