"""Decision trees as `TreeEnsemble` nodes in double."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from zaphod.compiler.features import Features, Inputs, apply_steps
from zaphod.compiler.graph import Graph
from zaphod.compiler.splits import MEMBER, Questions, Tree, ask, splittable
from zaphod.compiler.steps import ToFloat32

_SUM = 1


def constant_tree(value: float, *, target: int = 0) -> Tree:
    """One leaf. Put first, it is what a sum of trees starts from."""
    none = np.full(1, -1, dtype=np.int64)
    return Tree(
        feature=none,
        threshold=np.zeros(1),
        left=none,
        right=none,
        missing_left=np.zeros(1, dtype=bool),
        value=np.array([value], dtype=np.float64),
        target=target,
    )


# A row walks every tree of a node before the next row: beyond this many nodes they push each other out of the nearest
# cache. Measured in processor time on forests of 100 trees grown to the end: with 10,000 nodes 10,000 rows take longer
# than in scikit-learn; with 600 one row takes 10 to 15 us more.
_CACHED_NODES = 1500
# Numbers that are only added up gain nothing from smaller ensembles than the larger cache holds.
_SUMMED_NODES = 10_000
# Above this it pays to compute categories first: the operator asks questions of one kind only a quarter faster.
_PLAIN_NODES = 10_000


def sum_vectors(
    graph: Graph, inputs: Inputs, features: Features, trees: Sequence[Tree], *, float32: bool = False
) -> str:
    """As `sum_trees`, for leaves that hold a row of numbers: double, shape (n_rows, C).

    The operator's leaves hold one number: small forests are copied for each of C, in larger ones a leaf says which
    it is, and its row is looked up.
    """
    width = trees[0].value.shape[1]
    if width * sum(len(tree.feature) for tree in trees) <= _CACHED_NODES:
        copies = [replace(tree, value=tree.value[:, k], target=k) for tree in trees for k in range(width)]
        return sum_trees(graph, inputs, features, copies, num_targets=width, float32=float32)
    source, questions = _prepare(graph, inputs, features, trees, float32=float32)
    starts = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    pieces = []
    for chunk in _chunks(trees, max_nodes=_CACHED_NODES):
        leaves = [
            replace(trees[i], value=starts[i] + np.arange(len(trees[i].feature), dtype=np.float64), target=place)
            for place, i in enumerate(chunk)
        ]
        pieces.append(_emit(graph, source, leaves, [questions[i] for i in chunk], num_targets=len(chunk)))
    return _sum_rows(graph, pieces, np.concatenate([tree.value for tree in trees]), num_trees=len(trees))


def _sum_rows(graph: Graph, found: Sequence[str], table: NDArray[np.float64], *, num_trees: int) -> str:
    """The sum of the table's rows that `found` names, [n, trees] each, to [n, C], added in the trees' order."""
    # Number by number and tree by tree: what is looked up next to each other stands next to each other then.
    joined = found[0] if len(found) == 1 else graph.add("Concat", *found, axis=1)
    positions = graph.add("Cast", graph.add("Transpose", joined, perm=[1, 0]), to=7)
    sums = []
    for column in table.T:
        picked = graph.add("ArrayFeatureExtractor", np.ascontiguousarray(column[None, :]), positions)
        numbers = graph.add("Reshape", picked, np.array([num_trees, -1]))
        sums.append(graph.add("ReduceSum", numbers, np.array([0]), keepdims=1))
    return graph.add("Transpose", graph.add("Concat", *sums, axis=0), perm=[1, 0])


def sum_numbers(
    graph: Graph, inputs: Inputs, features: Features, trees: Sequence[Tree], *, float32: bool = False
) -> str:
    """As `sum_trees` with one target; where one node would be too large, the sums of several are added at the end."""
    source, questions = _prepare(graph, inputs, features, trees, float32=float32)
    sums = [
        _emit(graph, source, [trees[i] for i in chunk], [questions[i] for i in chunk], num_targets=1)
        for chunk in _chunks(trees, max_nodes=_SUMMED_NODES)
    ]
    return sums[0] if len(sums) == 1 else graph.add("Sum", *sums)


def sum_trees(
    graph: Graph,
    inputs: Inputs,
    features: Features,
    trees: Sequence[Tree],
    *,
    num_targets: int = 1,
    float32: bool = False,
) -> str:
    """The sum of the trees' leaves, added in their order, double, shape (n_rows, num_targets).

    float32: features are rounded to float32 before they are compared, as scikit-learn's classic trees do.
    """
    source, questions = _prepare(graph, inputs, features, trees, float32=float32)
    return _emit(graph, source, trees, questions, num_targets=num_targets)


def _prepare(
    graph: Graph, inputs: Inputs, features: Features, trees: Sequence[Tree], *, float32: bool
) -> tuple[str, list[Questions]]:
    """The ensemble's input, and each tree's questions to it."""
    if float32:
        features = apply_steps(graph, features, [(ToFloat32(),)] * len(features))
    is_large = sum(len(tree.feature) for tree in trees) > _PLAIN_NODES
    source = splittable(graph, inputs, features, plain=is_large)
    if graph.is_rehearsal:
        return source.tensor, [None] * len(trees)  # type: ignore[list-item]  # nothing looks at them
    return source.tensor, ask(inputs, source, trees)


def _emit(graph: Graph, source: str, trees: Sequence[Tree], questions: Sequence[Questions], *, num_targets: int) -> str:
    if graph.is_rehearsal:
        return graph.add("TreeEnsemble", source)
    nodes = _Nodes()
    for tree, asked in zip(trees, questions, strict=True):
        nodes.add_tree(tree, asked)
    return graph.add("TreeEnsemble", source, **nodes.attributes(num_targets))


def _chunks(trees: Sequence[Tree], *, max_nodes: int) -> list[list[int]]:
    chunks: list[list[int]] = [[]]
    size = 0
    for i, tree in enumerate(trees):
        if chunks[-1] and size + len(tree.feature) > max_nodes:
            chunks.append([])
            size = 0
        chunks[-1].append(i)
        size += len(tree.feature)
    return chunks


class _Nodes:
    """The attributes of a TreeEnsemble, filled tree by tree: inner nodes and leaves are numbered apart."""

    def __init__(self) -> None:
        self._columns: list[NDArray[np.int64]] = []
        self._modes: list[NDArray[np.uint8]] = []
        self._splits: list[NDArray[np.float64]] = []
        self._missing: list[NDArray[np.bool_]] = []
        self._true: list[NDArray[np.int64]] = []
        self._false: list[NDArray[np.int64]] = []
        self._true_leaf: list[NDArray[np.bool_]] = []
        self._false_leaf: list[NDArray[np.bool_]] = []
        self._members: list[float] = []
        self._weights: list[NDArray[np.float64]] = []
        self._targets: list[NDArray[np.int64]] = []
        self._roots: list[int] = []
        self._num_nodes = 0
        self._num_leaves = 0

    def add_tree(self, tree: Tree, asked: Questions) -> None:
        is_leaf = tree.left < 0
        inner = np.flatnonzero(~is_leaf)
        number = np.where(is_leaf, self._num_leaves + np.cumsum(is_leaf) - 1, self._num_nodes + np.cumsum(~is_leaf) - 1)
        self._roots.append(self._num_nodes)
        self._weights.append(tree.value[is_leaf])
        self._targets.append(np.full(int(is_leaf.sum()), tree.target))
        self._num_leaves += int(is_leaf.sum())
        if not inner.size:
            self._add_lone_leaf(int(number[0]))
            return
        first = np.where(asked.swapped, tree.right, tree.left)[inner]
        second = np.where(asked.swapped, tree.left, tree.right)[inner]
        self._columns.append(asked.column[inner])
        self._modes.append(asked.mode[inner])
        self._splits.append(asked.split[inner])
        self._missing.append(asked.missing_true[inner])
        self._true.append(number[first])
        self._false.append(number[second])
        self._true_leaf.append(is_leaf[first])
        self._false_leaf.append(is_leaf[second])
        for node in inner:
            if asked.mode[node] == MEMBER:
                self._members += [*asked.members[int(node)], np.nan]
        self._num_nodes += inner.size

    def _add_lone_leaf(self, leaf: int) -> None:
        # The operator knows no tree without a split: ask anything, and answer the same.
        self._columns.append(np.zeros(1, dtype=np.int64))
        self._modes.append(np.zeros(1, dtype=np.uint8))
        self._splits.append(np.zeros(1))
        self._missing.append(np.zeros(1, dtype=bool))
        for children in (self._true, self._false):
            children.append(np.array([leaf]))
        for flags in (self._true_leaf, self._false_leaf):
            flags.append(np.ones(1, dtype=bool))
        self._num_nodes += 1

    def attributes(self, num_targets: int) -> dict[str, int | list[int] | NDArray[np.generic]]:
        made: dict[str, int | list[int] | NDArray[np.generic]] = {
            "n_targets": num_targets,
            "aggregate_function": _SUM,
            "post_transform": 0,
            "tree_roots": self._roots,
            "nodes_featureids": np.concatenate(self._columns).tolist(),
            "nodes_modes": np.concatenate(self._modes),
            "nodes_splits": np.concatenate(self._splits),
            "nodes_missing_value_tracks_true": np.concatenate(self._missing).astype(int).tolist(),
            "nodes_truenodeids": np.concatenate(self._true).tolist(),
            "nodes_falsenodeids": np.concatenate(self._false).tolist(),
            "nodes_trueleafs": np.concatenate(self._true_leaf).astype(int).tolist(),
            "nodes_falseleafs": np.concatenate(self._false_leaf).astype(int).tolist(),
            "leaf_targetids": np.concatenate(self._targets).tolist(),
            "leaf_weights": np.concatenate(self._weights),
        }
        if self._members:
            made["membership_values"] = np.array(self._members)
        return made
