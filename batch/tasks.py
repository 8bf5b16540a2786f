"""Units to receipts through plain Ray tasks, whose workers get ready before there is a unit for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import msgspec

from zaphod.errors import BatchError, ZaphodError

# What a unit needs is imported where it is used: half a second, which the first tasks are not to wait for.
if TYPE_CHECKING:
    from ray import ObjectRef

    from batch.cluster import Cluster
    from batch.commit import Receipt
    from batch.plan import Unit
    from batch.score import Work
    from batch.settings import BatchSettings

# Beyond this many tasks small units share one: each costs a few milliseconds.
_MAX_TASKS = 2_000


class _Remote(Protocol):
    """What Ray makes of `perform`."""

    def remote(
        self, units: Sequence[bytes], work: bytes, *, ready_for: tuple[str, str] | None = None
    ) -> ObjectRef[list[bytes]]: ...


class TaskPool:
    """As many tasks at once as the job may have. size: their number."""

    def __init__(self, cluster: Cluster, settings: BatchSettings) -> None:
        import ray

        self.size = settings.max_tasks or max(1, int(cluster.num_cpus))
        self._settings = settings
        # A task whose process or node has died is done again; how often is for the unit to say.
        self._task = cast("_Remote", ray.remote(num_cpus=settings.cpus_per_task, max_retries=-1)(perform))
        self._warming: list[ObjectRef[list[bytes]]] = []

    def warm_up(self) -> None:
        """Workers start, import what they need and load the champion, while the caller goes on.

        In tasks of the same function as the work itself, for which Ray then keeps the workers.
        """
        model = (self._settings.registry, self._settings.model)
        self._warming = [self._task.remote([], b"", ready_for=model) for _ in range(self.size)]

    def execute(self, units: Sequence[Unit], work: Work) -> Iterator[Receipt]:
        """Raises: BatchError when a task fails in a way that its receipt cannot tell, or none gets on for too long."""
        import ray
        import ray.exceptions

        from batch.commit import Receipt, Staging

        if not self._warming:
            self.warm_up()
        size = -(-len(units) // _MAX_TASKS)
        waiting = [[msgspec.json.encode(unit) for unit in units[at : at + size]] for at in range(0, len(units), size)]
        waiting.reverse()
        encoded = msgspec.json.encode(work)
        running: set[ObjectRef[list[bytes]]] = set()
        staging, progress = Staging.open(work.output, work.run_id), dict[str, bytes]()
        try:
            while waiting or running:
                while waiting and len(running) + len(self._warming) < self.size:
                    running.add(self._task.remote(waiting.pop(), encoded))
                # A worker that is not ready when the last unit is done is not waited for.
                done, _ = ray.wait([*running, *self._warming], timeout=self._settings.stall_timeout_s)
                if not done:
                    before, progress = progress, staging.progress()
                    if progress != before:
                        continue
                    raise BatchError(
                        f"Cannot go on: no unit has finished for {self._settings.stall_timeout_s} s, or got further. "
                        "Nothing was published. See that the cluster has a free CPU, or raise stall_timeout_s."
                    )
                running.difference_update(done)
                self._warming = [each for each in self._warming if each not in done]
                for receipts in ray.get(done):
                    for receipt in receipts:
                        yield msgspec.json.decode(receipt, type=Receipt)
        except ray.exceptions.RayError as error:
            raise task_failed(error) from error


def perform(units: Sequence[bytes], work: bytes, *, ready_for: tuple[str, str] | None = None) -> list[bytes]:
    """In a worker: a receipt for each unit. ready_for: a registry and a model, to be loaded before there are units."""
    from batch.model import load_model, resolve
    from batch.plan import Unit
    from batch.score import Work, score_unit

    if ready_for is not None:
        # A failure shows where it matters, with the first unit.
        with contextlib.suppress(ZaphodError):
            load_model(resolve(*ready_for))
        return []
    decoded = msgspec.json.decode(work, type=Work)
    return [msgspec.json.encode(score_unit(msgspec.json.decode(unit, type=Unit), decoded)) for unit in units]


def task_failed(error: Exception) -> BatchError:
    """Ray's many lines come to one."""
    lines = (line.strip() for line in reversed(str(error).splitlines()))
    last = next((line for line in lines if line), type(error).__name__)
    return BatchError(f"Cannot go on: a task failed ({last}). Nothing was published.")
