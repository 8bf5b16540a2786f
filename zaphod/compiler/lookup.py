"""In which interval a number lies, by binary search: a tree of its own for every column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zaphod.compiler.graph import Graph

_LESS = 1
_SUM = 1


def look_up_intervals(
    graph: Graph, tensor: str, breaks: Sequence[NDArray[np.float64]], values: Sequence[NDArray[np.float64]]
) -> str:
    """For each column of tensor [n, p], a number per interval; double, shape (n_rows, p).

    breaks: per column, ascending, shape (m,). values: per column, shape (m + 2,): for numbers below the first break,
    from each break on, and last for NaN.
    """
    nodes = _Nodes()
    for column, (edges, numbers) in enumerate(zip(breaks, values, strict=True)):
        nodes.add_column(column, edges, numbers)
    return graph.add(
        "TreeEnsemble",
        tensor,
        n_targets=len(breaks),
        aggregate_function=_SUM,
        post_transform=0,
        tree_roots=nodes.roots,
        nodes_featureids=nodes.columns,
        nodes_modes=np.full(len(nodes.columns), _LESS, dtype=np.uint8),
        nodes_splits=np.array(nodes.splits),
        nodes_missing_value_tracks_true=nodes.missing_true,
        nodes_truenodeids=nodes.children[0],
        nodes_falsenodeids=nodes.children[1],
        nodes_trueleafs=nodes.leaves[0],
        nodes_falseleafs=nodes.leaves[1],
        leaf_targetids=nodes.targets,
        leaf_weights=np.array(nodes.weights),
    )


class _Nodes:
    def __init__(self) -> None:
        self.roots: list[int] = []
        self.columns: list[int] = []
        self.splits: list[float] = []
        self.missing_true: list[int] = []
        self.children: tuple[list[int], list[int]] = ([], [])
        self.leaves: tuple[list[int], list[int]] = ([], [])
        self.targets: list[int] = []
        self.weights: list[float] = []

    def add_column(self, column: int, breaks: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """The root sends NaN one way and every number the other; below it the intervals are halved."""
        root = self._node(column, -np.inf, missing_true=True)
        self.roots.append(root)
        # No number is below -inf, and -inf itself is not either: only NaN takes the true branch.
        self._set(root, 0, self._leaf(column, float(values[-1])), is_leaf=True)
        self._set(root, 1, *self._search(column, breaks, values[:-1], 0, len(values) - 2))

    def _search(
        self, column: int, breaks: NDArray[np.float64], values: NDArray[np.float64], first: int, last: int
    ) -> tuple[int, bool]:
        """Intervals first to last. Returns the node's or leaf's number, and whether it is a leaf."""
        if first == last:
            return self._leaf(column, float(values[first])), True
        middle = (first + last) // 2
        node = self._node(column, float(breaks[middle]), missing_true=False)
        self._set(node, 0, *self._search(column, breaks, values, first, middle))
        self._set(node, 1, *self._search(column, breaks, values, middle + 1, last))
        return node, False

    def _node(self, column: int, split: float, *, missing_true: bool) -> int:
        self.columns.append(column)
        self.splits.append(split)
        self.missing_true.append(int(missing_true))
        for side in (0, 1):
            self.children[side].append(0)
            self.leaves[side].append(0)
        return len(self.columns) - 1

    def _leaf(self, column: int, value: float) -> int:
        self.targets.append(column)
        self.weights.append(value)
        return len(self.weights) - 1

    def _set(self, node: int, side: int, number: int, is_leaf: bool) -> None:  # noqa: FBT001  # the pair _search gives
        self.children[side][node] = number
        self.leaves[side][node] = int(is_leaf)
