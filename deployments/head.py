"""`ray start` and no more of Ray's commands, which take a second to load: `python -m deployments.head start …`.

Nor does it start the server for clients that speak Ray from elsewhere, a process of 50 MB that nothing of ours asks.
Ray has no option for that, but leaves out what cannot be imported. The dashboard's parts start when they are asked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_OTHER_COMMANDS = ("ray.util.state.state_cli", "ray.dashboard.modules.job.cli", "ray.serve.scripts")
# Whose dashboard deployments.dashboard knows.
_KNOWN_RAY = "2.60."


def main() -> None:
    """Takes what `ray start` takes."""
    for name in _OTHER_COMMANDS:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say that it cannot be imported
    import ray
    from ray._private import ray_constants, services
    from ray.scripts import scripts

    start_process = services.start_ray_process

    def start(command: Sequence[str], process_type: str, **options: object) -> object:
        if process_type == ray_constants.PROCESS_TYPE_DASHBOARD:
            command = with_parts_on_demand(command)
        return start_process(command, process_type, **options)  # type: ignore[arg-type]  # handed on as they come

    if ray.__version__.startswith(_KNOWN_RAY):
        services.start_ray_process = start  # type: ignore[assignment]  # as above
    scripts.get_ray_client_dependency_error = lambda: ImportError("not wanted")  # type: ignore[attr-defined]
    scripts.main()  # type: ignore[no-untyped-call]  # Ray is not typed there


def with_parts_on_demand(command: Sequence[str]) -> list[str]:
    """The command that starts Ray's dashboard, by way of deployments.dashboard; another command as it is."""
    python, script, *rest = command
    if Path(script).name != "dashboard.py":
        return list(command)
    return [python, "-m", "deployments.dashboard", script, *rest]


if __name__ == "__main__":
    main()
