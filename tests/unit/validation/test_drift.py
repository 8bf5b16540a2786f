"""PSI against published values and its noise floor by simulation; profiles count what they should."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from zaphod.columns import Columns
from zaphod.errors import ModelLoadError
from zaphod.predictor import Predictions
from zaphod.schema import DType, Field, LogPolicy, Output, Schema, Task
from zaphod.validation.drift import DriftCounter, psi, psi_noise, psi_of_counts
from zaphod.validation.profile import make_profile, read_profile

SCHEMA = Schema(
    fields=(
        Field(name="amount", dtype=DType.FLOAT64, nullable=True),
        Field(name="kind", dtype=DType.STRING, nullable=True),
        Field(name="email", dtype=DType.STRING, log=LogPolicy.DROP),
        Field(name="known", dtype=DType.BOOL),
    ),
    output=Output(task=Task.CLASSIFICATION, classes=(0, 1), has_probabilities=True),
)


def rows(num_rows: int, *, seed: int, shift: float = 0.0) -> tuple[Columns, Predictions]:
    """Columns and probabilities; a tenth of the amounts is null."""
    rng = np.random.default_rng(seed)
    amount = np.where(rng.random(num_rows) < 0.1, np.nan, rng.normal(shift, 1, num_rows))
    kinds = rng.choice(["a", "b", None], num_rows, p=[0.6, 0.3, 0.1])
    columns = Columns(
        numbers=np.stack([amount, rng.integers(0, 2, num_rows).astype(float)], axis=1),
        strings=(pa.array(kinds, type=pa.string()), pa.array([f"{i}@example.org" for i in range(num_rows)])),
    )
    p = rng.random(num_rows)
    return columns, Predictions(labels=(p > 0.5).astype(int), probabilities=np.stack([1 - p, p], axis=1))


def test_psi_is_the_published_value() -> None:
    """Ten bins of a tenth against (.05, .05, .1 six times, .15, .15): 0.1 ln 3."""
    actual = np.array([0.05, 0.05, *[0.1] * 6, 0.15, 0.15])

    assert psi(np.full(10, 0.1), actual) == pytest.approx(0.1098612, abs=1e-7)
    assert psi_of_counts(np.full(10, 10**7), (actual * 1e8).astype(int)) == pytest.approx(0.1098612, abs=1e-5)


@pytest.mark.parametrize(("num_actual", "q95"), [(100, 0.171), (200, 0.086), (500, 0.036), (1000, 0.019)])
def test_the_noise_floor_is_the_published_one(num_actual: int, q95: float) -> None:
    """Yurdakul's law at ten bins and 10,000 training rows."""
    assert psi_noise(num_bins=10, num_expected=10_000, num_actual=num_actual, quantile=0.95) == pytest.approx(
        q95, abs=7e-4
    )


def test_the_noise_floor_holds_by_simulation() -> None:
    """Of 2,000 pairs of samples without drift, 1 % lie above the 99 % floor, to within what so many can tell."""
    rng = np.random.default_rng(5)
    expected = rng.multinomial(10_000, np.full(10, 0.1), size=2000)
    actual = rng.multinomial(800, np.full(10, 0.1), size=2000)
    floor = psi_noise(num_bins=10, num_expected=10_000, num_actual=800, quantile=0.99)

    found = np.array([psi_of_counts(p, q) for p, q in zip(expected, actual, strict=True)])

    assert (found > floor).mean() == pytest.approx(0.01, abs=3 * np.sqrt(0.01 * 0.99 / 2000))
    assert found.mean() == pytest.approx((1 / 10_000 + 1 / 800) * 9, rel=0.05)


def test_drift_shows_where_it_is_and_nowhere_else() -> None:
    """A shifted field is over its floor; the others and the score are under theirs."""
    profile = read_profile(make_profile(SCHEMA, *rows(5000, seed=1)))
    counter = DriftCounter(profile, SCHEMA)
    for seed in range(2, 6):
        counter.add(*rows(500, seed=seed, shift=0.4))

    found = {one.name: one for one in counter.result()}

    assert [name for name, one in found.items() if one.psi > one.noise] == ["amount"]
    assert found["amount"].psi == pytest.approx(0.14, abs=0.05)
    assert list(found) == ["amount", "kind", "email", "known", "probability_1"]


def test_profile_counts_every_row_once() -> None:
    """Nulls and unseen values have bins of their own."""
    columns, predictions = rows(1000, seed=1)
    profile = read_profile(make_profile(SCHEMA, columns, predictions))

    assert all(sum(part.counts) == 1000 for part in (*profile.fields, *profile.outputs))
    assert profile.fields[0].counts[-1] == np.isnan(columns.numbers[:, 0]).sum()
    assert profile.fields[1].values == ("a", "b")


def test_profile_keeps_no_value_of_a_field_that_may_not_be_logged() -> None:
    """Only nulls are counted apart."""
    data = make_profile(SCHEMA, *rows(300, seed=1))

    assert b"example.org" not in data
    assert read_profile(data).fields[2].counts == (300, 0)


def test_a_constant_field_drifts_either_way() -> None:
    """Values below the only training value do not hide in its bin."""
    schema = Schema(fields=(Field(name="x", dtype=DType.FLOAT64),), output=Output(task=Task.REGRESSION))

    def made(value: float) -> tuple[Columns, Predictions]:
        return Columns(numbers=np.full((200, 1), value), strings=()), Predictions(values=np.zeros((200, 1)))

    profile = read_profile(make_profile(schema, *made(3.0)))

    for value, drifts in ((3.0, False), (2.0, True), (4.0, True)):
        counter = DriftCounter(profile, schema)
        counter.add(*made(value))
        one = counter.result()[0]
        assert (one.psi > one.noise) is drifts


def test_a_broken_profile_is_refused() -> None:
    """With the file's name."""
    with pytest.raises(ModelLoadError, match=r"profile\.json"):
        read_profile(b'{"num_rows": "many"}')
