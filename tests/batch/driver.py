"""A driver that kills itself: `python -m tests.batch.driver HOME REGISTRY STEP COUNT [ray] [setting=value …]`.

Sends itself SIGKILL when the step has come for the COUNT-th time. With COUNT 0 it lingers a little at every step, so
that somebody else's kill may fall on any of them, and runs to its end.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from tests.batch import tables
from zaphod.registry import Registry


def main(home: Path, registry: str, step: str, count: int, *words: str) -> None:
    """Runs the job of `tables.make_settings`."""
    changes: dict[str, object] = dict(word.split("=", 1) for word in words if "=" in word)
    if "upsert_by" in changes:
        changes["upsert_by"] = [changes["upsert_by"]]
    settings = tables.make_settings(home, Registry.open(registry), **changes)
    seen: Counter[str] = Counter()

    def die(name: str) -> None:
        seen[name] += 1
        if count == 0:
            time.sleep(0.05)
        elif name == step and seen[name] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    if "ray" not in words:
        tables.run(settings, on_step=die)
        return
    from batch.execution import ray_executor

    tables.run(settings, open_executor=functools.partial(ray_executor, settings, run_dir=home), on_step=die)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
