"""`ray start` and no more of Ray's commands, which take a second to load: `python -m deployments.head start …`.

Nor does it start the server for clients that speak Ray from elsewhere, a process of 50 MB that nothing of ours asks.
Ray has no option for that, but leaves out what cannot be imported.
"""

from __future__ import annotations

import sys

_OTHER_COMMANDS = ("ray.util.state.state_cli", "ray.dashboard.modules.job.cli", "ray.serve.scripts")


def main() -> None:
    """Takes what `ray start` takes."""
    for name in _OTHER_COMMANDS:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's way to say that it cannot be imported
    from ray.scripts import scripts

    scripts.get_ray_client_dependency_error = lambda: ImportError("not wanted")  # type: ignore[attr-defined]
    scripts.main()  # type: ignore[no-untyped-call]  # Ray is not typed there


if __name__ == "__main__":
    main()
