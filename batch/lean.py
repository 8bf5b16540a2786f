"""A quarter of a second of each process's start that a compiled model can do without."""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa


class _NotNow(importlib.abc.MetaPathFinder):
    """Says that there is no pandas."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ImportError(fullname)
        return None


def spare_pandas() -> None:
    """Keeps pyarrow from importing pandas with the first array it makes, to see whether it was handed a series.

    It is not handed any: models that need pandas import it themselves, and pass numpy's arrays on. What needs pandas in
    pyarrow itself (`to_pandas`) looks for it again.
    """
    if "pandas" in sys.modules:
        return
    finder = _NotNow()
    sys.meta_path.insert(0, finder)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(finder)
