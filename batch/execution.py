"""Units to receipts on Ray: by plain tasks, or by Ray Data where its start is no matter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from batch.cluster import connect, find, num_machines, own_disks
from batch.settings import BatchSettings
from batch.tasks import TaskPool

if TYPE_CHECKING:
    from batch.commit import Receipt
    from batch.job import Execute
    from batch.plan import Unit
    from batch.score import Work

_JOIN_S = 0.5


@contextlib.contextmanager
def join_ahead(settings: BatchSettings, *, run_dir: Path) -> Iterator[Callable[[], TaskPool] | None]:
    """Joins a cluster that is there, whose workers get ready, while the caller looks at the input.

    Gives what waits for it, and raises EnvironmentNotReadyError; None where there is no cluster yet, or where the job
    may need none.
    """
    place = find(run_dir=run_dir, ray_env=settings.ray_env) if settings.in_process_s == 0 else None
    if place is None or place.address is None:
        yield None
        return
    # In this thread, with nothing beside it: the sooner it is done, the sooner the workers begin.
    import ray  # noqa: F401

    with contextlib.ExitStack() as stack, ThreadPoolExecutor(max_workers=1) as threads:

        def join() -> TaskPool:
            pool = TaskPool(stack.enter_context(connect(place)), settings)
            pool.warm_up()
            return pool

        joining = threads.submit(join)
        # Beside imports, which hold the interpreter, joining takes ten times as long; what does not answer is not
        # waited for.
        wait([joining], timeout=_JOIN_S)
        yield joining.result


@contextlib.contextmanager
def ray_executor(
    settings: BatchSettings,
    *,
    run_dir: Path,
    seconds: float | None = None,
    joined: Callable[[], TaskPool] | None = None,
    warn: Callable[[str], None] = lambda text: None,
) -> Iterator[Execute]:
    """On the Ray that runs for this home, or on one started for the job. Raises: EnvironmentNotReadyError.

    seconds: what is left to do, on one core, where that is known. joined: from `join_ahead`. warn: told of folders that
    the cluster's machines may each have for themselves.
    """
    from batch import dataset

    with contextlib.ExitStack() as stack:
        if joined is not None:
            pool = joined()
        else:
            pool = TaskPool(stack.enter_context(connect(find(run_dir=run_dir, ray_env=settings.ray_env))), settings)
        warning = own_disks(settings, num_machines=num_machines())
        if warning is not None:
            warn(warning)
        if seconds is None or seconds < settings.ray_data_s:
            yield pool.execute
            return

        def execute(units: Sequence[Unit], work: Work) -> Iterator[Receipt]:
            # Ray Data takes a unit that has not ended for too long for stalled, however far it is.
            if any(unit.num_rows is None or unit.num_rows > settings.unit_rows for unit in units):
                return pool.execute(units, work)
            return dataset.execute(units, work, settings=settings, num_tasks=pool.size)

        yield execute
