"""The example of an experiment does what it says: `python -m examples.experiment`."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from examples import experiment
from zaphod.registry import Registry

CUSTOMERS = 240


def test_the_example_runs_from_start_to_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every customer is logged under one of two variants, has an outcome, and is in the table and on the page."""
    home = tmp_path / "demo"

    experiment.main(customers=CUSTOMERS, rows=400, home=home)

    said, page = capsys.readouterr().out, (home / "experiment.html").read_text()
    log = ds.dataset(home / "monitoring" / "log" / experiment.NAME, format="parquet").to_table()
    by_variant = Counter(log.column("variant").to_pylist())
    (running,) = {*log.column("experiment").to_pylist()}
    state = Registry.open(os.fspath(home / "registry")).state(experiment.NAME)
    assert state.experiment is not None
    assert state.experiment.id == running
    assert sum(by_variant.values()) == CUSTOMERS
    assert min(by_variant["champion"], by_variant["challenger"]) > CUSTOMERS // 4
    for text in (said, page):
        assert running in text
        for metric in experiment.PLAN.metrics:
            assert metric.name.split()[0] in text
    assert f"100.0% of {by_variant['challenger']} predictions" in " ".join(said.split())
