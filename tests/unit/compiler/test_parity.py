"""Parity passes what agrees and finds what does not, down to one bit of one split."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression

from tests import models
from zaphod.columns import Columns
from zaphod.compiler import compile_model
from zaphod.compiler.engine import OnnxPredictor
from zaphod.compiler.parity import Parity, check_parity
from zaphod.packaging import infer_schema, sample_columns
from zaphod.schema import Schema
from zaphod.sklearn_predictor import SklearnPredictor


class Proof:
    """A fitted pipeline, its schema, rows and compiled bytes."""

    def __init__(self, model: BaseEstimator, *, is_regressor: bool = False) -> None:
        # Fewer rows than bins: splits stand between the rows, not on them.
        X = models.table(200, seed=1)
        signal = X["amount"] / 30 + X["balance"].fillna(3.0)
        y = signal if is_regressor else (signal > signal.median()).astype(int)
        self.pipeline = models.pipeline(model).fit(X, y)
        self.schema: Schema = infer_schema(self.pipeline, X, nullable=models.NULLABLE)
        self.rows: Columns = sample_columns(self.schema, X)
        self.model = onnx.load_model_from_string(compile_model(self.pipeline, self.schema).model)

    def parity(self) -> Parity:
        compiled = OnnxPredictor(self.model.SerializeToString(), self.schema)
        return check_parity(SklearnPredictor(self.pipeline, self.schema), compiled, self.schema, sample=self.rows)


def attribute(model: onnx.ModelProto, name: str) -> onnx.AttributeProto:
    """Of the model's only ensemble of trees."""
    (node,) = [node for node in model.graph.node if node.op_type == "TreeEnsemble"]
    return next(attribute for attribute in node.attribute if attribute.name == name)


def boosted() -> Proof:
    """Few splits, so that each one matters."""
    return Proof(HistGradientBoostingRegressor(max_iter=2, max_leaf_nodes=4), is_regressor=True)


def test_what_agrees_passes() -> None:
    """Every kind of row was compared, and the sum of trees is the reference's to the last bit."""
    parity = boosted().parity()

    assert parity.passed, parity.reason
    assert {rows.kind: rows.compared > 100 for rows in parity.rows} == dict.fromkeys(
        ("sample", "random", "edge"), True
    ) | {"threshold": False}
    assert parity.num_thresholds > 0
    assert parity.largest_absolute == 0.0
    assert parity.speed_up is not None
    assert parity.speed_up > 1


@pytest.mark.parametrize("ulps", [1, -1])
def test_a_split_that_is_off_by_one_ulp_is_found(ulps: int) -> None:
    """The rows around the splits see the smallest error there can be."""
    proof = boosted()
    splits = attribute(proof.model, "nodes_splits")
    values = numpy_helper.to_array(splits.t).copy()
    columns = np.array(attribute(proof.model, "nodes_featureids").ints)
    # The root of the first real tree: every row comes by it. It asks one of the floats.
    node = attribute(proof.model, "tree_roots").ints[1]
    assert columns[node] in (0, 1)
    values[node] = np.nextafter(values[node], np.inf * ulps)
    splits.t.CopyFrom(numpy_helper.from_array(values, splits.t.name))

    parity = proof.parity()

    assert not parity.passed
    assert "threshold" in parity.reason


def test_a_leaf_that_is_off_is_found() -> None:
    """A change of one part in a hundred thousand in one leaf fails."""
    proof = boosted()
    weights = attribute(proof.model, "leaf_weights")
    values = numpy_helper.to_array(weights.t).copy()
    values[1] += 1e-3
    weights.t.CopyFrom(numpy_helper.from_array(values, weights.t.name))

    parity = proof.parity()

    assert not parity.passed
    assert "largest difference" in parity.reason


def test_nulls_that_go_the_wrong_way_are_found() -> None:
    """Random rows and edges hold nulls wherever the schema allows them."""
    proof = Proof(HistGradientBoostingClassifier(max_iter=20))
    missing = attribute(proof.model, "nodes_missing_value_tracks_true")
    missing.ints[:] = [1 - value for value in missing.ints]

    assert not proof.parity().passed


def test_a_category_that_is_mixed_up_is_found() -> None:
    """The look-up table's rows cannot be exchanged unnoticed."""
    proof = Proof(LogisticRegression())
    (gather,) = [node for node in proof.model.graph.node if node.op_type == "Gather" and node.attribute[0].i == 0]
    (table,) = [constant for constant in proof.model.graph.initializer if constant.name == gather.input[0]]
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[::-1].copy(), table.name))

    assert not proof.parity().passed


def test_float32_is_not_good_enough() -> None:
    """Coefficients rounded to float32 are found by the extremes, if not before."""
    proof = Proof(LogisticRegression())
    for constant in proof.model.graph.initializer:
        if constant.data_type == onnx.TensorProto.DOUBLE:
            rounded = numpy_helper.to_array(constant).astype(np.float32).astype(np.float64)
            constant.CopyFrom(numpy_helper.from_array(rounded, constant.name))

    parity = proof.parity()

    assert parity.largest_absolute > 1e-9


def test_a_reference_that_cannot_predict_proves_nothing() -> None:
    """Without a single answer to compare with, parity fails and says so."""
    proof = Proof(LogisticRegression())
    proof.pipeline.steps[-1][1].coef_ = np.zeros((1, 99))

    parity = proof.parity()

    assert not parity.passed
    assert "cannot predict the sample" in parity.reason
