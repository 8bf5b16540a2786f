"""What is written, and into which folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.batch import tables
from zaphod.errors import ConfigError
from zaphod.registry import Registry
from zaphod.settings import load_settings


def test_chosen_outputs_only(tmp_path: Path, registry: Registry) -> None:
    """The named outputs are written, in the given order; one that the model does not have is refused before the run."""
    tables.write_input(tmp_path / "input", num_files=1)
    outcome = tables.run(tables.make_settings(tmp_path, registry, columns=["probability_mid", "label"]))
    assert pd.read_parquet(outcome.predictions).columns.tolist() == ["id", "probability_mid", "label", "model_version"]

    with pytest.raises(ConfigError, match="probability_mad"):
        tables.run(tables.make_settings(tmp_path, registry, columns=["probability_mad"]))


def test_predictions_in_folders(tmp_path: Path, registry: Registry) -> None:
    """Kept columns become folders, nulls and odd characters among them; readers get the same table."""
    rows = tables.frame(200, seed=3)
    rows["place"] = np.resize(["a/b", "c d", None], 200)
    rows["day"] = np.resize([1, 2], 200)
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows)
    keep = ["id", "place", "day"]
    flat = tables.run(tables.make_settings(tmp_path, registry, keep=keep))

    parted = tables.run(tables.make_settings(tmp_path, registry, keep=keep, partition_by=["day", "place"]))

    folders = {str(path.parent.relative_to(parted.predictions)) for path in Path(parted.predictions).rglob("*.parquet")}
    assert folders == {
        f"day={day}/place={place}" for day in (1, 2) for place in ("a%2Fb", "c%20d", "__HIVE_DEFAULT_PARTITION__")
    }
    # pandas' own reader fails on a null folder: it makes categories of them, and Arrow cannot unify those with nulls.
    table = ds.dataset(parted.predictions, partitioning="hive").to_table()
    got = table.to_pandas().sort_values("id", ignore_index=True)
    expected = pd.read_parquet(flat.predictions).sort_values("id", ignore_index=True)
    pd.testing.assert_series_equal(got["place"], expected["place"])
    assert got["day"].tolist() == expected["day"].tolist()
    pd.testing.assert_series_equal(got["probability_low"], expected["probability_low"])
    assert parted.manifest.rows_out == 200


@pytest.mark.parametrize("partition_by", [[], ["day"]])
def test_files_of_a_size(tmp_path: Path, registry: Registry, partition_by: list[str]) -> None:
    """No file of predictions has more rows than wanted, and together they are the table in its order."""
    rows = tables.frame(200, seed=3).assign(day=1)
    (tmp_path / "input").mkdir()
    tables.write_file(tmp_path / "input" / "x.parquet", rows, row_group_rows=200)
    keep = ["id", "day"]
    whole = tables.run(tables.make_settings(tmp_path, registry, keep=keep))

    cut = tables.run(tables.make_settings(tmp_path, registry, keep=keep, partition_by=partition_by, file_rows=70))

    files = sorted(Path(cut.predictions).rglob("*.parquet"))
    assert [pq.read_metadata(path).num_rows for path in files] == [70, 70, 60]
    got = pd.concat([pd.read_parquet(path, partitioning=None) for path in files], ignore_index=True)
    assert got["id"].tolist() == pd.read_parquet(whole.predictions)["id"].tolist()
    assert [file.rows for file in cut.manifest.files] == [70, 70, 60]


def test_a_partition_must_be_kept(tmp_path: Path, registry: Registry) -> None:
    """Both settings are in the message."""
    with pytest.raises(ConfigError, match=r"partition_by among keep \['id'\], got \['day'\]"):
        load_settings(
            type(tables.make_settings(tmp_path, registry)),
            flags={"model": "m", "input": "i", "output": "o", "keep": ["id"], "partition_by": ["day"]},
        )


def test_the_files_are_made_for_readers(tmp_path: Path, registry: Registry) -> None:
    """Row groups are larger than batches, pages have checksums, and no note of the input's is left."""
    tables.write_input(tmp_path / "input", num_files=1)
    outcome = tables.run(tables.make_settings(tmp_path, registry, unit_rows=1_000))

    (path,) = Path(outcome.predictions).iterdir()

    footer = pq.read_metadata(path)
    assert (footer.num_rows, footer.num_row_groups) == (200, 1)
    assert pq.read_schema(path).metadata is None
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        assert file.read().num_rows == 200
