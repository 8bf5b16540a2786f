"""Keeps large libraries out of processes that do not need them: each worker of Ray runs `setup` before anything else.

Ray Serve loads pandas to answer with DataFrames, and pyarrow to move tables between workers: half a second and 50 MB in
each of the processes that do nothing but look after replicas. Whoever needs them imports them later as usual.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import sys
from collections.abc import Iterator, Sequence

from deployments import edge


class _Nowhere(importlib.abc.MetaPathFinder):
    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        if fullname in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@contextlib.contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Meanwhile these cannot be imported, by any thread, unless they are loaded already."""
    finder = _Nowhere(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def setup() -> None:
    """Loads Ray Serve without pandas, and lets Ray decide now, without pyarrow, how it moves objects.

    An edge that is started in this worker keeps to itself what it tells about itself.
    """
    with hidden("pandas", "pyarrow"):
        import ray.serve
        from ray._private.worker import global_worker

        if ray.is_initialized():
            global_worker.get_serialization_context()  # type: ignore[no-untyped-call]  # Ray is not typed there
    edge.narrow()


def arrow_without_pandas() -> None:
    """When pyarrow is first given a list it looks for pandas and loads it: 25 MB. `to_pandas` still will."""
    with hidden("pandas"):
        import pyarrow as pa

        pa.array([None])
