"""How numbers and the bins between them are written for people."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def short(value: float) -> str:
    """A number as one writes it on an axis."""
    size = abs(value)
    if size >= 1e6 or (0 < size < 1e-4):
        return f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    if size >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def bin_labels(edges: Sequence[float]) -> tuple[str, ...]:
    """Of the bins that these edges cut, and of null, which comes last."""
    written = [short(edge) for edge in edges]
    between = (f"{low} to {high}" for low, high in itertools.pairwise(written))
    return (f"up to {written[0]}", *between, f"over {written[-1]}", "null")
