"""A driver that kills itself: `python -m tests.batch.driver HOME REGISTRY STEP COUNT [ray] [setting=value …]`.

Sends itself SIGKILL when the step has come for the COUNT-th time; beside the job's own there is `rows`, which comes
when a unit hands rows to one of its files. With COUNT 0 it lingers a little at every step, so that somebody else's kill
may fall on any of them, and runs to its end.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from batch.writer import PartWriter
from tests.batch import tables
from zaphod.registry import Registry


def main(home: Path, registry: str, step: str, count: int, *words: str) -> None:
    """Runs the job of `tables.make_settings`."""
    changes: dict[str, object] = dict(word.split("=", 1) for word in words if "=" in word)
    for name in ("keep", "upsert_by"):
        if name in changes:
            changes[name] = str(changes[name]).split(",")
    settings = tables.make_settings(home, Registry.open(registry), **changes)
    seen: Counter[str] = Counter()

    def die(name: str) -> None:
        seen[name] += 1
        if count == 0:
            time.sleep(0.01)
        elif name == step and seen[name] == count:
            os.kill(os.getpid(), signal.SIGKILL)

    _tell_of_rows(functools.partial(die, "rows"))
    if "ray" not in words:
        tables.run(settings, on_step=die)
        return
    from batch.execution import ray_executor

    tables.run(settings, open_executor=functools.partial(ray_executor, settings, run_dir=home), on_step=die)


def _tell_of_rows(tell: Callable[[], None]) -> None:
    write = PartWriter.write

    def told(self: PartWriter, table: pa.Table, *, stack: contextlib.ExitStack) -> None:
        write(self, table, stack=stack)
        tell()

    PartWriter.write = told  # type: ignore[method-assign]  # tasks take no callback of the driver's


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), *sys.argv[5:])
