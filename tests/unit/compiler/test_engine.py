"""The engine refuses what the estimator refuses, answers from many threads, and takes no model but its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pyarrow as pa
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import AdaBoostClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from tests import models
from zaphod.columns import Columns
from zaphod.compiler import NotCompilable, compile_model
from zaphod.compiler.engine import OnnxPredictor
from zaphod.errors import ModelLoadError, PredictionError
from zaphod.packaging import infer_schema, sample_columns
from zaphod.schema import Schema
from zaphod.sklearn_predictor import SklearnPredictor


@pytest.fixture(scope="module")
def strict() -> tuple[OnnxPredictor, SklearnPredictor, Columns]:
    """A model that takes no null, behind an encoder that takes no new category. The schema allows both."""
    X = models.table(500, seed=1).fillna({"balance": 0.0, "kind": "a"})
    columns = ColumnTransformer([("kind", OneHotEncoder(), ["kind"])], remainder="passthrough")
    model = make_pipeline(columns, AdaBoostClassifier(n_estimators=5, random_state=0)).fit(X, X["amount"] > 100)
    schema = infer_schema(model, X, nullable=models.NULLABLE)
    compiled = OnnxPredictor(compile_model(model, schema).model, schema)
    return compiled, SklearnPredictor(model, schema), sample_columns(schema, X)


def changed(rows: Columns, *, number: float | None = None, kind: str | None = "a") -> Columns:
    """One row with another balance or another kind."""
    row = rows.take(np.zeros(1, dtype=np.int64))
    if number is not None:
        row.numbers[0, 1] = number
    return Columns(numbers=row.numbers, strings=([kind],))


@pytest.mark.parametrize(("number", "kind"), [(np.nan, "a"), (None, "never seen"), (None, ""), (None, None)], ids=str)
def test_what_the_estimator_refuses_is_refused(
    strict: tuple[OnnxPredictor, SklearnPredictor, Columns], number: float | None, kind: str | None
) -> None:
    """A null or a category that scikit-learn raises on is refused in one row and among many."""
    compiled, reference, rows = strict
    row = changed(rows, number=number, kind=kind)
    among = Columns(
        numbers=np.concatenate([rows.numbers, row.numbers]),
        strings=(pa.concat_arrays([rows.strings[0], pa.array([kind], type=pa.string())]),),
    )

    for predictor in (compiled, reference):
        for asked in (row, among):
            with pytest.raises(PredictionError):
                predictor.predict(asked)
    assert compiled.refuses(among).tolist() == [False] * rows.num_rows + [True]


def test_numbers_that_the_encoder_refuses_are_refused() -> None:
    """A whole number that was no category in training is refused, alone and among many, and null is not."""
    X = models.table(300, seed=6)[["amount", "count"]].assign(balance=1.0)
    X.loc[:20, "balance"] = np.nan
    columns = ColumnTransformer([("codes", OneHotEncoder(), ["count", "balance"])], remainder="passthrough")
    model = make_pipeline(columns, LogisticRegression()).fit(X, X["amount"] > 100)
    schema = infer_schema(model, X)
    compiled = OnnxPredictor(compile_model(model, schema).model, schema)
    rows = sample_columns(schema, X)

    np.testing.assert_allclose(
        compiled.predict(rows).probabilities, SklearnPredictor(model, schema).predict(rows).probabilities, atol=1e-12
    )
    rows.numbers[5, 1] = 99.0
    for asked in (rows, rows.take(np.array([5]))):
        for predictor in (compiled, SklearnPredictor(model, schema)):
            with pytest.raises(PredictionError):
                predictor.predict(asked)
    assert np.flatnonzero(compiled.refuses(rows)).tolist() == [5]


def test_what_it_takes_is_answered(strict: tuple[OnnxPredictor, SklearnPredictor, Columns]) -> None:
    """Refusing some rows does not change the others."""
    compiled, reference, rows = strict

    np.testing.assert_array_equal(compiled.predict(rows).probabilities, reference.predict(rows).probabilities)


def test_one_row_is_a_row_of_many(strict: tuple[OnnxPredictor, SklearnPredictor, Columns]) -> None:
    """Alone or among others, as lists or as Arrow arrays, a row has one answer."""
    compiled, _, rows = strict
    together = compiled.predict(rows)

    for i in range(20):
        alone = rows.take(np.array([i]))
        listed = Columns(numbers=alone.numbers, strings=(alone.strings[0].to_pylist(),))
        for row in (alone, listed):
            answer = compiled.predict(row)
            assert answer.labels[0] == together.labels[i]
            np.testing.assert_array_equal(answer.probabilities[0], together.probabilities[i])


def test_threads_share_a_predictor(strict: tuple[OnnxPredictor, SklearnPredictor, Columns]) -> None:
    """Many threads asking at once get what one gets."""
    compiled, _, rows = strict
    expected = compiled.predict(rows).probabilities

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: compiled.predict(rows).probabilities, range(64)))

    assert all((answer == expected).all() for answer in answers)


def test_no_rows_have_no_answers() -> None:
    """An empty table is scored, to nothing, by a forest too large for one node as well."""
    X = models.table(1500, seed=4)
    coin = np.random.default_rng(0).random(len(X)) > 0.5
    forest = models.pipeline(RandomForestClassifier(40, random_state=0)).fit(X, coin)
    schema = infer_schema(forest, X, nullable=models.NULLABLE)
    compiled = OnnxPredictor(compile_model(forest, schema).model, schema)
    rows = sample_columns(schema, X)
    assert sum(tree.tree_.node_count for tree in forest[-1].estimators_) > 20_000

    nothing = compiled.predict(rows.take(np.zeros(0, dtype=np.int64)))

    assert nothing.labels.shape == (0,)
    assert nothing.probabilities.shape == (0, 2)


@pytest.fixture(scope="module")
def words() -> tuple[bytes, Schema]:
    """A model with labels that are words, and its schema."""
    X = models.table(300, seed=2)
    model = models.pipeline(LogisticRegression()).fit(X, np.where(X["amount"] > 100, "high", "low"))
    schema = infer_schema(model, X, nullable=models.NULLABLE)
    return compile_model(model, schema).model, schema


def test_labels_are_the_classes_themselves(words: tuple[bytes, Schema]) -> None:
    """Words come back as words."""
    model, schema = words
    row = Columns(numbers=np.array([[1000.0, 0.0, 3.0]]), strings=(["a"],))

    assert OnnxPredictor(model, schema).predict(row).labels.tolist() == ["high"]


def test_no_string_is_in_the_graph(words: tuple[bytes, Schema]) -> None:
    """The model takes doubles only."""
    graph = onnx.load_model_from_string(words[0]).graph

    assert [value.type.tensor_type.elem_type for value in graph.input] == [onnx.TensorProto.DOUBLE]
    assert not any(constant.data_type == onnx.TensorProto.STRING for constant in graph.initializer)


def test_another_schema_is_refused(words: tuple[bytes, Schema]) -> None:
    """A model of other fields does not load."""
    model, schema = words
    fewer = Schema(fields=schema.fields[1:], output=schema.output)

    with pytest.raises(ModelLoadError, match="not compiled for this schema"):
        OnnxPredictor(model, fewer)


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x0a"], ids=["empty", "text", "truncated"])
def test_bytes_that_are_no_model_are_refused(words: tuple[bytes, Schema], data: bytes) -> None:
    """Broken files give a clear error."""
    with pytest.raises(ModelLoadError, match=r"model\.onnx"):
        OnnxPredictor(data, words[1])


def test_a_model_made_elsewhere_is_refused(words: tuple[bytes, Schema]) -> None:
    """Without its own metadata a model cannot be fed."""
    model = onnx.load_model_from_string(words[0])
    del model.metadata_props[:]

    with pytest.raises(ModelLoadError):
        OnnxPredictor(model.SerializeToString(), words[1])


def test_compiling_twice_gives_the_same_bytes(words: tuple[bytes, Schema]) -> None:
    """The hash of a compiled model says what it computes."""
    X = models.table(300, seed=2)
    model = models.pipeline(LogisticRegression()).fit(X, np.where(X["amount"] > 100, "high", "low"))

    assert compile_model(model, words[1]).model == words[0]


def test_the_reason_names_what_has_no_converter() -> None:
    """An estimator of one's own is refused by its class."""

    class Mine(LogisticRegression):
        """A subclass may compute anything."""

    X = models.table(100, seed=3)
    model = models.pipeline(Mine()).fit(X, X["amount"] > 100)

    with pytest.raises(NotCompilable, match="Mine"):
        compile_model(model, infer_schema(model, X))
