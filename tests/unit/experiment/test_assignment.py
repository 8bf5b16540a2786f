"""Assignment is the same everywhere and for ever, even and independent."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from zaphod.errors import ConfigError
from zaphod.experiment.assignment import NUM_BUCKETS, RAMP, Splitter, check_share, next_share, threshold_of

# Never to change: a release that moves them moves every entity of every running experiment.
PINNED = [
    ("salt", "", 5359),
    ("salt", "user-1", 7588),
    ("salt", "user-2", 3090),
    ("checkout-7f3a", "user-1", 5633),
    ("checkout-7f3a", "Zoë ☂", 4475),
    ("ü" * 32, "a" * 1000, 1292),
]
ENTITIES = [f"user-{i}" for i in range(100_000)]


@pytest.mark.parametrize(("salt", "entity", "bucket"), PINNED)
def test_buckets_are_pinned(salt: str, entity: str, bucket: int) -> None:
    """Each vector has the bucket it had in the first release, one by one, in a list and in a table."""
    splitter = Splitter(salt)

    assert splitter.bucket(entity) == bucket
    assert [splitter.kept_bucket(entity) for _ in range(2)] == [bucket, bucket]
    assert splitter.buckets([entity]).tolist() == [bucket]
    assert splitter.buckets(pa.array([entity])).tolist() == [bucket]


def test_another_process_agrees() -> None:
    """Nothing of the process goes into the bucket, such as Python's seed of string hashes."""
    code = "from zaphod.experiment.assignment import Splitter; print(Splitter('s').bucket('user-1'))"

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout

    assert int(said) == Splitter("s").bucket("user-1")


def test_tables_and_lists_agree() -> None:
    """Repeated entities in an Arrow column get what each gets alone."""
    entities = ["b", "a", "b", "c", "a"]

    expected = [Splitter("s").bucket(entity) for entity in entities]

    assert Splitter("s").buckets(entities).tolist() == expected
    assert Splitter("s").buckets(pa.chunked_array([entities[:2], entities[2:]])).tolist() == expected


def test_buckets_are_even() -> None:
    """100,000 entities fill 100 groups of buckets as chance would."""
    counts = np.bincount(Splitter("s").buckets(ENTITIES) * 100 // NUM_BUCKETS, minlength=100)

    assert stats.chisquare(counts).pvalue > 0.001


def test_experiments_are_independent() -> None:
    """Who is in which group of one experiment says nothing about another with a similar salt."""
    one, other = (Splitter(salt).buckets(ENTITIES) * 10 // NUM_BUCKETS for salt in ("exp-1", "exp-2"))
    table = np.zeros((10, 10))
    np.add.at(table, (one, other), 1)

    assert stats.chi2_contingency(table).pvalue > 0.001


def test_a_ramp_keeps_who_is_in() -> None:
    """Whoever has the challenger at one step has it at every later one, and each step has its share."""
    buckets = Splitter("s").buckets(ENTITIES)
    steps = [set(np.flatnonzero(buckets < threshold_of(share))) for share in RAMP]

    assert all(before < after for before, after in itertools.pairwise(steps))
    for share, step in zip(RAMP, steps, strict=True):
        assert len(step) / len(ENTITIES) == pytest.approx(share, abs=0.005)


def test_the_ramp_ends_at_half() -> None:
    """1, 5, 10, 25, 50 %, then none."""
    assert [next_share(share) for share in (0.0, 0.01, 0.07, 0.25, 0.5, 1.0)] == [0.01, 0.05, 0.10, 0.5, None, None]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_no_share_outside_0_to_1(share: float) -> None:
    """A share that is none is refused."""
    with pytest.raises(ConfigError):
        threshold_of(share)


def test_every_bucket_may_be_the_last_of_a_share() -> None:
    """As a decimal fraction, a quotient or a sum."""
    for threshold in range(NUM_BUCKETS + 1):
        for share in (threshold / NUM_BUCKETS, float(f"{threshold / 100:.2f}") / 100, threshold * 0.0001):
            check_share(share)
            assert threshold_of(share) == threshold


@pytest.mark.parametrize("share", [-0.1, 1.1, 0.00004, 0.00015, 1 / 3, 0.99999])
def test_no_share_of_which_no_bucket_is_the_last(share: float) -> None:
    """It would be rounded, and the split would be none of it."""
    with pytest.raises(ConfigError):
        check_share(share)


@pytest.mark.parametrize("salt", ["", "x" * 65])
def test_no_salt_of_another_length(salt: str) -> None:
    """An empty salt would put the same entities into every experiment; a long one is no key."""
    with pytest.raises(ConfigError):
        Splitter(salt)
