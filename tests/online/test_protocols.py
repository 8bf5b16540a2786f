"""Every protocol gives the same answers, through clients that others wrote."""

from __future__ import annotations

import numpy as np
import pytest

from tests import models
from tests.conftest import Server
from tests.online import asked

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize("name", ["binary", "multiclass", "regressor"])
@pytest.mark.parametrize("num_rows", [1, 7, 300])
@pytest.mark.parametrize("way", asked.WAYS, ids=lambda way: way.__name__)
def test_the_same_rows_get_the_same_answer(server: Server, way: asked.Way, num_rows: int, name: str) -> None:
    """Labels are equal and numbers agree to 1e-9, whatever language the rows come in."""
    frame = models.table(num_rows, seed=num_rows)

    expected = asked.plain(server, name, frame)
    got = way(server, name, frame)

    assert got.labels == expected.labels
    np.testing.assert_allclose(got.numbers, expected.numbers, rtol=1e-9, atol=0)
