"""The splits of trees, moved from the features they were learnt on to the inputs of the model.

A split asks one feature whether it is <= a threshold. Where the feature is a function of one number that never falls,
the same question is put to the number with a threshold found by bisection; where it is a table over a category's
codes, the question is which codes. Nothing is computed before the trees then, and nothing is rounded differently.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from zaphod.compiler.features import Coded, Column, Computed, Features, Inputs, Number, matrix, numeric
from zaphod.compiler.graph import INPUT, Graph
from zaphod.compiler.steps import Function, NotBelow, Step, compose, last_at_most, movable_from

# Modes of a node, as the operator numbers them.
_AT_MOST, _EQUAL, MEMBER = 0, 4, 6

# Mode, split, whether the branches are swapped, and the members if it takes several.
_CodeQuestion: TypeAlias = tuple[int, float, bool, NDArray[np.float64] | None]


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


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """One entry per node: the same split, put to a column of the ensemble's input."""

    column: NDArray[np.int64]
    mode: NDArray[np.uint8]
    split: NDArray[np.float64]
    members: dict[int, NDArray[np.float64]]
    missing_true: NDArray[np.bool_]
    # The true branch is the right child: the complement was the shorter question.
    swapped: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Source:
    """What an ensemble is fed, and the features as functions of its columns. never_null: columns without a NaN."""

    tensor: str
    features: Features
    never_null: frozenset[int]


def splittable(graph: Graph, inputs: Inputs, features: Features, *, plain: bool) -> Source:
    """Every column a chain of steps that never fall, from a column of the ensemble's input; or a table of codes.

    What comes before such a chain is computed and joins the input. plain: tables of codes do as well.
    """
    columns = list(features.columns)
    never_null = {i for i, nullable in enumerate(inputs.nullable) if not nullable}
    computed: list[Column] = []
    places: list[tuple[int, tuple[Step, ...]]] = []
    for i, column in enumerate(features.columns):
        before, after = _divide(column, plain=plain)
        if before is not None:
            computed.append(before)
            places.append((i, after))
    if not computed:
        return Source(INPUT, features, frozenset(never_null))
    tensor = matrix(graph, Features(tuple(computed)), inputs=inputs)
    alone = len(computed) == len(columns)
    never_null = set() if alone else never_null
    for place, (i, after) in enumerate(places):
        at = place if alone else inputs.num_inputs + place
        columns[i] = Number(at, after)
        column = computed[place]
        if isinstance(column, Coded) and not np.isnan(numeric(column)).any():
            never_null.add(at)
    source = tensor if alone else graph.add("Concat", INPUT, tensor, axis=1)
    return Source(source, Features(tuple(columns)), frozenset(never_null))


def _divide(column: Column, *, plain: bool) -> tuple[Column | None, tuple[Step, ...]]:
    """The part that has to be computed, if any, and the steps after it that a threshold can be moved through."""
    match column:
        case Coded() if not plain:
            return None, ()
        case Coded() | Computed():
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


def ask(inputs: Inputs, source: Source, trees: Sequence[Tree]) -> list[Questions]:
    """All trees at once: the splits of one column are moved together."""
    starts = np.cumsum([0, *(len(tree.feature) for tree in trees)])
    forest = _Forest(trees, starts)
    for i, made_of in enumerate(source.features.columns):
        nodes = np.flatnonzero(forest.is_split & (forest.feature == i))
        if not nodes.size:
            continue
        match made_of:
            case Number():
                forest.ask_number(made_of, nodes, is_never_null=made_of.source in source.never_null)
            case Coded():
                forest.ask_code(made_of, nodes, column=inputs.num_numbers, offset=inputs.offsets[made_of.field])
            case Computed():
                raise AssertionError("computed columns are inputs of the ensemble by now")
    return [forest.questions(int(a), int(b)) for a, b in itertools.pairwise(starts)]


class _Forest:
    """The nodes of all trees in one row, and the questions found for them so far."""

    def __init__(self, trees: Sequence[Tree], starts: NDArray[np.int64]) -> None:
        self.feature = np.concatenate([tree.feature for tree in trees])
        self.is_split = np.concatenate([tree.left for tree in trees]) >= 0
        self._threshold = np.concatenate([tree.threshold for tree in trees])
        self._missing_left = np.concatenate([tree.missing_left for tree in trees])
        self._categories = {
            int(start) + node: numbers
            for start, tree in zip(starts[:-1], trees, strict=True)
            for node, numbers in tree.categories.items()
        }
        size = len(self.feature)
        self._column = np.zeros(size, dtype=np.int64)
        self._mode = np.full(size, _AT_MOST, dtype=np.uint8)
        self._split = np.zeros(size)
        self._missing_true = np.zeros(size, dtype=bool)
        self._swapped = np.zeros(size, dtype=bool)
        self._members: dict[int, NDArray[np.float64]] = {}

    def ask_number(self, made_of: Number, nodes: NDArray[np.int64], *, is_never_null: bool) -> None:
        self._column[nodes] = made_of.source
        by_category = [int(node) for node in nodes if int(node) in self._categories]
        if by_category:
            assert not made_of.steps, "category numbers are computed before the trees"
            self._mode[by_category] = MEMBER
            self._missing_true[by_category] = self._missing_left[by_category]
            self._members |= {node: self._categories[node] for node in by_category}
            nodes = np.setdiff1d(nodes, by_category)
        thresholds = self._threshold[nodes]
        unique, inverse = np.unique(thresholds, return_inverse=True)
        self._split[nodes] = (last_at_most(made_of.steps, unique) if made_of.steps else unique)[inverse]
        at_missing = float(compose(made_of.steps, np.array([np.nan]))[0])
        if not is_never_null:
            # An ensemble that sends NaN nowhere runs faster.
            self._missing_true[nodes] = self._missing_left[nodes] if np.isnan(at_missing) else at_missing <= thresholds

    def ask_code(self, made_of: Coded, nodes: NDArray[np.int64], *, column: int, offset: int) -> None:
        """column: the first of the code columns."""
        self._column[nodes] = column + made_of.field
        values = numeric(made_of)
        known: dict[bytes, _CodeQuestion] = {}
        for node in map(int, nodes):
            category = self._categories.get(node)
            inside = values <= self._threshold[node] if category is None else np.isin(values, category)
            left = inside | (np.isnan(values) & self._missing_left[node])
            key = left.tobytes()
            if key not in known:
                known[key] = _question_of_codes(left, offset=offset)
            self._mode[node], self._split[node], self._swapped[node], members = known[key]
            if members is not None:
                self._members[node] = members

    def questions(self, start: int, end: int) -> Questions:
        """Of the nodes from start to end: one tree."""
        return Questions(
            column=self._column[start:end],
            mode=self._mode[start:end],
            split=self._split[start:end],
            members={node - start: self._members[node] for node in range(start, end) if node in self._members},
            missing_true=self._missing_true[start:end],
            swapped=self._swapped[start:end],
        )


def _question_of_codes(left: NDArray[np.bool_], *, offset: int) -> _CodeQuestion:
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
    return (MEMBER, 0.0, False, codes) if codes.size <= others.size else (MEMBER, 0.0, True, others)
