"""Hands a Serve configuration to a Ray that is starting and waits for its applications.

`python -m deployments.deploy CONFIG`, then the address on standard input. A process of its own: it loads Ray while Ray
starts beside it, and it ends when all is deployed, with the hundred megabytes that talking to Ray takes.
"""

from __future__ import annotations

import sys
import time

import ray
from ray import serve
from ray.serve.schema import ApplicationStatus
from ray.serve.scripts import cli

_POLL_S = 0.2


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
    cli(["run", "--non-blocking", "--address", address, sys.argv[1]], standalone_mode=False)
    while (why := failure()) is None:
        time.sleep(_POLL_S)
    ray.shutdown()
    if why:
        sys.stderr.write(f"{why}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
