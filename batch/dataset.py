"""Units to receipts through Ray Data, for long jobs: it shows them on Ray's dashboard, and takes seconds to start."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import cast

import msgspec
import pyarrow as pa

from batch.commit import Receipt
from batch.plan import Unit
from batch.score import Work
from batch.settings import BatchSettings
from batch.tasks import perform, task_failed

# Ray Data spends about 30 ms on a task; beyond this many blocks, small units share one.
_MAX_BLOCKS = 2_000


def execute(units: Sequence[Unit], work: Work, *, settings: BatchSettings, num_tasks: int) -> Iterator[Receipt]:
    """Ray must be connected to. Raises: BatchError when a task fails in a way that its receipt cannot tell."""
    import ray.data
    import ray.exceptions

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
        raise task_failed(error) from error


def score_block(table: pa.Table, *, work: bytes) -> pa.Table:
    """One unit to a block, or a few small ones."""
    receipts = perform([data.as_py() for data in table.column("unit")], work)
    return pa.table({"receipt": pa.array(receipts, pa.binary())})
