"""Units to receipts through Ray Data. The table itself never crosses Ray: each task reads and writes files."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec
import pyarrow as pa

from batch.cluster import Cluster, connect
from batch.commit import Receipt
from batch.job import Execute
from batch.plan import Unit
from batch.score import Work, score_unit
from batch.settings import BatchSettings
from zaphod.errors import BatchError, ZaphodError

# Ray Data spends about 30 ms on a task; beyond this many blocks, small units share one.
_MAX_BLOCKS = 2_000

# A cluster that is full or has yet to grow makes the job wait no longer for its workers than this before it begins.
_WARM_UP_TIMEOUT_S = 10.0


@contextlib.contextmanager
def ray_executor(settings: BatchSettings, *, run_dir: Path) -> Iterator[Execute]:
    """On the Ray that runs for this home, or on one started for the job. Raises: EnvironmentNotReadyError."""
    with connect(run_dir=run_dir, ray_env=settings.ray_env) as cluster:
        yield functools.partial(_execute, settings=settings, cluster=cluster)


def _execute(units: Sequence[Unit], work: Work, *, settings: BatchSettings, cluster: Cluster) -> Iterator[Receipt]:
    """Raises: BatchError when a task fails in a way that its receipt cannot tell."""
    import ray

    num_tasks = min(settings.max_tasks or max(1, int(cluster.num_cpus)), len(units))
    # The workers start and load the model while this process imports Ray Data.
    warm_up = ray.remote(warm).options(num_cpus=settings.cpus_per_task, max_retries=0)
    started = [warm_up.remote(work) for _ in range(num_tasks)]
    import ray.data
    import ray.exceptions

    # Tasks that came now would start further workers beside these.
    ray.wait(started, num_returns=num_tasks, timeout=_WARM_UP_TIMEOUT_S)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = settings.stall_timeout_s
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    items = [{"unit": msgspec.json.encode(unit)} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=min(len(items), _MAX_BLOCKS)).map_batches(
        score_block,  # type: ignore[arg-type]  # Ray Data allows every batch format, this takes one of them
        batch_size=None,
        batch_format="pyarrow",
        fn_kwargs={"work": msgspec.json.encode(work)},
        num_cpus=settings.cpus_per_task,
        compute=ray.data.TaskPoolStrategy(size=num_tasks),
    )
    batches = cast(
        "Iterator[pa.Table]", iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    )
    try:
        for table in batches:
            for data in table.column("receipt"):
                yield msgspec.json.decode(data.as_py(), type=Receipt)
    except ray.exceptions.RayError as error:
        raise BatchError(f"Cannot go on: a task failed ({_last_line(error)}). Nothing was published.") from error


def warm(work: Work) -> None:
    """Makes a worker ready: what it imports, and the model. A failure shows where it matters, with the first unit."""
    import ray.data  # noqa: F401  # every task of Ray Data needs it

    with contextlib.suppress(ZaphodError):
        work.ask()


def score_block(table: pa.Table, *, work: bytes) -> pa.Table:
    """One unit to a block, or a few small ones."""
    decoded = msgspec.json.decode(work, type=Work)
    units = [msgspec.json.decode(data.as_py(), type=Unit) for data in table.column("unit")]
    receipts = [msgspec.json.encode(score_unit(unit, decoded)) for unit in units]
    return pa.table({"receipt": pa.array(receipts, pa.binary())})


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
