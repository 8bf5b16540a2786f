"""The simplified silhouette of single rows, and where there is none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from zaphod.columns import Columns
from zaphod.errors import PredictionError
from zaphod.inference import infer_schema
from zaphod.packaging import sample_columns
from zaphod.sklearn_predictor import SklearnPredictor
from zaphod.validation.clusters import Clusters


def numbers(*values: float) -> Columns:
    """Rows of one field."""
    return Columns(numbers=np.array(values, dtype=np.float64).reshape(-1, 1), strings=())


def reference(*values: float, num_clusters: int) -> SklearnPredictor:
    """Clusters on one line, without steps before them."""
    frame = pd.DataFrame({"x": values})
    model = KMeans(num_clusters, n_init=1, random_state=0).fit(frame)
    return SklearnPredictor(model, infer_schema(model, frame))


def test_of_single_rows() -> None:
    """Centroids at 0 and 10: the middle, an edge, half way, and a row that is given to the wrong one."""
    predictor = reference(-1, 1, 9, 11, num_clusters=2)
    low, high = predictor.predict(numbers(0, 10)).labels.tolist()
    clusters = Clusters.of(predictor, numbers(-1, 1, 9, 11))

    found = clusters.silhouettes(numbers(0, 2, 5, 0), np.array([low, low, low, high]))

    assert found.tolist() == pytest.approx([1.0, (8 - 2) / 8, 0.0, -1.0])


def test_where_there_is_no_other_cluster() -> None:
    """Nothing can be said of one cluster, nor of one that the sample had no row of."""
    alone = Clusters.of(reference(1, 2, 3, num_clusters=1), numbers(1, 2, 3))
    predictor = reference(0, 1, 50, 51, 90, 91, num_clusters=3)
    two = Clusters.of(predictor, numbers(0, 1, 50, 51))
    rows = numbers(0, 90)

    assert alone.silhouettes(numbers(1, 9), np.array([0, 0])).tolist() == [0.0, 0.0]
    found = two.silhouettes(rows, predictor.predict(rows).labels)
    assert (found[0] > 0.9, found[1]) == (True, 0.0)


def test_features_are_those_of_the_last_step() -> None:
    """Also where they are sparse; a step that fails says which error it was."""
    frame = pd.DataFrame({"kind": pd.Series(["a", "b", "a", "c"], dtype="str")})
    model = make_pipeline(OneHotEncoder(), StandardScaler(with_mean=False), KMeans(2, n_init=1, random_state=0))
    predictor = SklearnPredictor(model.fit(frame), infer_schema(model, frame))
    columns = sample_columns(infer_schema(model, frame), frame)

    np.testing.assert_array_equal(predictor.features(columns), model[:-1].transform(frame).toarray())
    with pytest.raises(PredictionError, match="ValueError"):
        predictor.features(Columns(numbers=np.empty((1, 0)), strings=(["new"],)))
