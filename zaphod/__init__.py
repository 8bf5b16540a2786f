"""Serve one packaged scikit-learn model online, in batch and on a stream, with the same answer from each."""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from zaphod.packaging import package as package
    from zaphod.packaging import package_onnx as package_onnx
    from zaphod.promotion import promote as promote
    from zaphod.registry import Registry as Registry

__version__ = "0.1.0"

# Loaded when they are asked for: scikit-learn and ONNX take seconds to import, and a stream's producer needs neither.
_MODULES = {"package": "packaging", "package_onnx": "packaging", "promote": "promotion", "Registry": "registry"}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(f"zaphod.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'zaphod' has no attribute {name!r}")
