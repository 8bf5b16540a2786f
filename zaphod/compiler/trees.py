"""Decision trees as one `TreeEnsemble` node in double, with every split moved to the model's own inputs.

A split asks one feature whether it is <= a threshold. Where the feature is a function of one number that never falls,
the same question is put to the number with a threshold found by bisection; where it is a table over a category's
codes, the question is which codes. Nothing is computed before the trees then, and nothing is rounded differently.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from zaphod.compiler.features import Coded, Column, Computed, Features, Inputs, Number, apply_steps, matrix, numeric
from zaphod.compiler.graph import INPUT, Graph
from zaphod.compiler.steps import Function, NotBelow, Step, ToFloat32, compose, last_at_most, movable_from

# Modes of a node, as the operator numbers them.
_AT_MOST, _AT_LEAST, _EQUAL, _NOT_EQUAL, _MEMBER = 0, 2, 4, 5, 6
_SUM = 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Tree:
    """Arrays of one entry per node, node 0 the root. Left is taken when feature <= threshold.

    left, right: children; a leaf has left < 0. missing_left: where NaN goes.
    categories: of nodes that ask for a category instead, the category numbers that go left; others and NaN as above.
    value: float64, shape (num_nodes,), what a leaf adds to `target`; or shape (num_nodes, C), what it adds to each.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    value: NDArray[np.float64]
    target: int = 0
    categories: Mapping[int, NDArray[np.float64]] = field(default_factory=dict)


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


# A row walks every tree of a node before the next row: beyond this many nodes they push each other out of the cache.
# Measured on forests of 100 trees: 10,000 rows take a third of the time, one row 3 us more.
_CACHED_NODES = 10_000


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
    starts = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    pieces = []
    for chunk in _chunks(trees):
        leaves = [
            replace(trees[i], value=starts[i] + np.arange(len(trees[i].feature), dtype=np.float64), target=place)
            for place, i in enumerate(chunk)
        ]
        pieces.append(sum_trees(graph, inputs, features, leaves, num_targets=len(chunk), float32=float32))
    found = pieces[0] if len(pieces) == 1 else graph.add("Concat", *pieces, axis=1)
    table = np.concatenate([tree.value for tree in trees])
    rows = graph.add("Gather", table, graph.add("Cast", found, to=7), axis=0)
    return graph.add("ReduceSum", rows, np.array([1]), keepdims=0)


def sum_numbers(
    graph: Graph, inputs: Inputs, features: Features, trees: Sequence[Tree], *, float32: bool = False
) -> str:
    """As `sum_trees` with one target; where one node would be too large, the sums of several are added at the end."""
    sums = [sum_trees(graph, inputs, features, [trees[i] for i in chunk], float32=float32) for chunk in _chunks(trees)]
    return sums[0] if len(sums) == 1 else graph.add("Sum", *sums)


def _chunks(trees: Sequence[Tree]) -> list[list[int]]:
    chunks: list[list[int]] = [[]]
    size = 0
    for i, tree in enumerate(trees):
        if chunks[-1] and size + len(tree.feature) > _CACHED_NODES:
            chunks.append([])
            size = 0
        chunks[-1].append(i)
        size += len(tree.feature)
    return chunks


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
    if float32:
        features = apply_steps(graph, features, [(ToFloat32(),)] * len(features))
    features, source = _splittable(graph, inputs, features)
    nodes = _Nodes()
    questions = _ask(inputs, features, trees)
    for tree, asked in zip(trees, questions, strict=True):
        nodes.add_tree(tree, asked)
    return graph.add("TreeEnsemble", source, **nodes.attributes(num_targets))


@dataclass(frozen=True, slots=True, eq=False)
class _Questions:
    """One entry per node: the same split, put to a column of the ensemble's input."""

    column: NDArray[np.int64]
    mode: NDArray[np.uint8]
    split: NDArray[np.float64]
    members: dict[int, NDArray[np.float64]]
    missing_true: NDArray[np.bool_]
    # The true branch is the right child: the complement was the shorter question.
    swapped: NDArray[np.bool_]


def _splittable(graph: Graph, inputs: Inputs, features: Features) -> tuple[Features, str]:
    """Every column a chain of steps that never fall, from a column of the ensemble's input; or a table of codes.

    What comes before such a chain is computed and joins the input.
    """
    columns = list(features.columns)
    computed: list[Column] = []
    places: list[tuple[int, tuple[Step, ...]]] = []
    for i, column in enumerate(features.columns):
        before, after = _divide(column)
        if before is not None:
            computed.append(before)
            places.append((i, after))
    if not computed:
        return features, INPUT
    tensor = matrix(graph, Features(tuple(computed)), inputs=inputs)
    alone = len(computed) == len(columns)
    for place, (i, after) in enumerate(places):
        columns[i] = Number(place if alone else inputs.num_inputs + place, after)
    return Features(tuple(columns)), tensor if alone else graph.add("Concat", INPUT, tensor, axis=1)


def _divide(column: Column) -> tuple[Column | None, tuple[Step, ...]]:
    """The part that has to be computed, if any, and the steps after it that a threshold can be moved through."""
    match column:
        case Coded():
            return None, ()
        case Computed():
            return column, ()
        case Number():
            steps = column.steps
            start = movable_from(steps)
            for i in range(len(steps) - 1, start - 1, -1):
                step = steps[i]
                if isinstance(step, Function) and step.begins_at is not None:
                    # Below where it begins it gives NaN: the input has to be NaN there for the split to see it.
                    return replace(column, steps=(*steps[:i], NotBelow(step.begins_at))), steps[i:]
            return (replace(column, steps=steps[:start]) if start else None), steps[start:]


def _ask(inputs: Inputs, features: Features, trees: Sequence[Tree]) -> list[_Questions]:
    """All trees at once: bisection over one column's thresholds is one vectorised search."""
    sizes = [len(tree.feature) for tree in trees]
    feature = np.concatenate([tree.feature for tree in trees])
    threshold = np.concatenate([tree.threshold for tree in trees])
    missing_left = np.concatenate([tree.missing_left for tree in trees])
    is_split = np.concatenate([tree.left for tree in trees]) >= 0
    column = np.zeros(len(feature), dtype=np.int64)
    mode = np.zeros(len(feature), dtype=np.uint8)
    split = np.zeros(len(feature))
    missing_true = np.zeros(len(feature), dtype=bool)
    swapped = np.zeros(len(feature), dtype=bool)
    members: dict[int, NDArray[np.float64]] = {}
    starts = np.cumsum([0, *sizes])
    categories = {
        int(start) + node: numbers
        for start, tree in zip(starts, trees, strict=False)
        for node, numbers in tree.categories.items()
    }
    for i, made_of in enumerate(features.columns):
        chosen = np.flatnonzero(is_split & (feature == i))
        if not chosen.size:
            continue
        match made_of:
            case Number():
                column[chosen] = made_of.source
                many = [node for node in chosen if int(node) in categories]
                for node in many:
                    mode[node], members[int(node)] = _MEMBER, categories[int(node)]
                missing_true[many] = missing_left[many]
                chosen = np.setdiff1d(chosen, many)
                split[chosen] = last_at_most(made_of.steps, threshold[chosen]) if made_of.steps else threshold[chosen]
                at_missing = float(compose(made_of.steps, np.array([np.nan]))[0])
                missing_true[chosen] = missing_left[chosen] if np.isnan(at_missing) else at_missing <= threshold[chosen]
            case Coded():
                column[chosen] = inputs.num_numbers + made_of.field
                values = numeric(made_of)
                for node in chosen:
                    inside = (
                        np.isin(values, categories[int(node)]) if int(node) in categories else values <= threshold[node]
                    )
                    left = inside | (np.isnan(values) & missing_left[node])
                    mode[node], split[node], swapped[node], codes = _question_of_codes(
                        left, offset=inputs.offsets[made_of.field]
                    )
                    if codes is not None:
                        members[int(node)] = codes
            case Computed():
                raise AssertionError("computed columns are inputs of the ensemble by now")
    return [
        _Questions(
            column=column[a:b],
            mode=mode[a:b],
            split=split[a:b],
            members={node - int(a): many for node, many in members.items() if a <= node < b},
            missing_true=missing_true[a:b],
            swapped=swapped[a:b],
        )
        for a, b in itertools.pairwise(starts)
    ]


def _question_of_codes(left: NDArray[np.bool_], *, offset: int) -> tuple[int, float, bool, NDArray[np.float64] | None]:
    """Mode, split, whether the branches are swapped, and the members if it takes several."""
    codes = (np.flatnonzero(left) + offset).astype(np.float64)
    others = (np.flatnonzero(~left) + offset).astype(np.float64)
    if not codes.size or not others.size:
        return _AT_MOST, (np.inf if codes.size else -np.inf), False, None
    if codes[-1] < others[0]:
        return _AT_MOST, float(codes[-1]), False, None
    if others[-1] < codes[0]:
        return _AT_MOST, float(others[-1]), True, None
    if codes.size == 1:
        return _EQUAL, float(codes[0]), False, None
    if others.size == 1:
        return _EQUAL, float(others[0]), True, None
    return (_MEMBER, 0.0, False, codes) if codes.size <= others.size else (_MEMBER, 0.0, True, others)


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

    def add_tree(self, tree: Tree, asked: _Questions) -> None:
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
            if asked.mode[node] == _MEMBER:
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
