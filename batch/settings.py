"""What configs/batch.yaml may say."""

from __future__ import annotations

import enum
from pathlib import Path

import pydantic

from zaphod.monitoring.settings import LogSettings
from zaphod.settings import Settings

_SQLITE = "sqlite:///"


class OnCorrupt(enum.StrEnum):
    """What happens to a file that cannot be read."""

    FAIL = "fail"
    REJECT = "reject"


class BatchSettings(Settings):
    """One batch job. Relative paths start at ZAPHOD_HOME where it is set, else at the working folder."""

    model: str
    """The model's reference: `name`, `name@alias` or `name@7`. Resolved once, when the job starts."""

    registry: str = "var/registry"
    """The registry: a folder or a bucket's address. Every node must see it."""

    input: str
    """What to score: a folder, which is read with its subfolders, or one file. Parquet, CSV and JSON lines are told by
    the names' endings; `name=value` folders are columns."""

    output: str
    """The folder that holds the runs; `current.json` in it names the newest."""

    csv_delimiter: str = pydantic.Field(default=",", min_length=1, max_length=1)
    """What stands between two cells of a CSV file."""

    csv_null_values: tuple[str, ...] = ("",)
    """Cells of a CSV file, without quotes, that mean null."""

    challenger: str | None = None
    """Another version that scores the same rows in the same pass, beside the champion: `name@challenger`, `name@8`."""

    experiment: bool = True
    """Take part in the model's running experiment, as the other arms do, when the model is named by its champion and no
    challenger is set: `ab` splits the rows by their entity, `interleave` scores a challenger beside, `shadow` scores
    its share of the rows for the prediction log alone."""

    entity: str | None = None
    """The column that names whom a row is about, a kept one or a field of the model. Text or whole numbers."""

    monitoring: LogSettings = LogSettings(features=False)
    """The prediction log. What was asked stands in the input files: by default only what was answered is logged."""

    truth: str | None = None
    """An input column with the right answers, null where not known yet: the manifest tells how good the model was. It
    is carried along like a kept column."""

    keep: tuple[str, ...] = ()
    """Input columns to carry into the predictions and the rejects: identifiers, times."""

    columns: tuple[str, ...] = ()
    """Outputs of the model to write, by their names in the predictions; none named means all."""

    prediction_id: bool = False
    """Write each row's prediction id, by which the log knows it and its outcome is told, into a column `prediction_id`.
    Always done while the job takes part in an experiment."""

    partition_by: tuple[str, ...] = ()
    """Kept columns that become folders of the predictions, `country=DE/…`, and are left out of the files."""

    delta: str | None = None
    """A Delta table that gets every published run, in one commit. Needs the package deltalake."""

    sql: pydantic.SecretStr | None = None
    """A database that gets every published run, in one transaction: `sqlite:///<path>` or `postgresql://…`. Needs the
    package adbc-driver-sqlite or adbc-driver-postgresql."""

    sql_table: str = pydantic.Field(default="predictions", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The table there; it is made when it is missing."""

    upsert_by: tuple[str, ...] = ()
    """Kept columns that tell rows of the Delta table or the database apart: a row with the same values is replaced.
    Without them rows are added."""

    incremental: bool = False
    """Score only files that are new or changed since the run that `current.json` names, and carry the others' results
    over. Another model version or another setting that changes results scores all."""

    max_rejected: pydantic.NonNegativeInt | None = None
    """More rejected rows than this fail the job: nothing is published, exit code 2."""

    max_rejected_share: float = pydantic.Field(default=0.01, ge=0.0, le=1.0)
    """A larger share of rejected rows than this fails the job likewise. 1 lets all pass."""

    on_corrupt: OnCorrupt = OnCorrupt.FAIL
    """A file that cannot be read fails the job, or is rejected whole. A job none of whose files can be read fails."""

    max_corrupt_files: pydantic.NonNegativeInt | None = None
    """With `on_corrupt: reject`: more files than this that nobody knows the rows of (text, or Parquet without its
    footer) fail the job, exit code 2. When not set, one is past `max_rejected` and past any `max_rejected_share` below
    1."""

    sample: pydantic.PositiveInt | None = None
    """Score this many rows only. The run is published beside the others; `current.json` does not name it."""

    file_rows: pydantic.PositiveInt | None = None
    """Rows in a file of predictions at most; what a unit gives is one file if not set."""

    unit_rows: pydantic.PositiveInt = 500_000
    """Rows in a unit at most, where the file's row groups allow it: a larger file becomes several units."""

    batch_rows: pydantic.PositiveInt = 32_768
    """Rows in memory at once in each task."""

    in_process_s: pydantic.NonNegativeFloat = 2.0
    """A job that one core does in so many seconds, by the pre-flight's estimate, is done in this process: Ray takes
    longer to start. 0 always uses Ray."""

    ray_data_s: pydantic.NonNegativeFloat = 600.0
    """A job that would keep one core busy for so many seconds is carried by Ray Data, whose progress Ray's dashboard
    shows; a shorter one by plain Ray tasks, which start some seconds sooner, and one with files that are a unit however
    large, as text is. 0 always uses Ray Data where it can."""

    cpus_per_task: float = pydantic.Field(default=0.5, gt=0.0)
    """What a task reserves of Ray's CPUs. Half of one leaves room beside a server's replicas."""

    max_tasks: pydantic.PositiveInt | None = None
    """Tasks at the same time at most; the cluster's number of CPUs when not set."""

    retries: pydantic.NonNegativeInt = 3
    """How often a unit is done again after its process or node died."""

    stall_timeout_s: pydantic.PositiveInt = 900
    """The job fails when no unit has finished, or got a batch of rows further, for so long; that may take twice as long
    to see. Ray Data counts finished units only."""

    progress_interval_s: pydantic.PositiveFloat = 5.0
    """Seconds between two lines of progress where the output is no terminal."""

    report: Path | None = None
    """Where to write a report with pictures, .html; with `truth` the offline validation's report is put beside it."""

    gate: Path = Path("configs/validation.yaml")
    """The rules of that validation; the defaults where there is no such file."""

    ray_env: Path = Path("configs/ray.env")
    """Ray's environment, for a job that starts its own Ray."""

    @pydantic.model_validator(mode="after")
    def _check_together(self) -> BatchSettings:
        for setting in ("partition_by", "upsert_by"):
            strange = [name for name in getattr(self, setting) if name not in self.keep]
            if strange:
                raise ValueError(f"Expected {setting} among keep {list(self.keep)}, got {strange}")
        if self.incremental and not self.upsert_by and (self.delta is not None or self.sql is not None):
            raise ValueError(
                "Expected upsert_by with incremental and a table to deliver to, got none: rows would double"
            )
        return self

    @pydantic.field_validator("keep")
    @classmethod
    def _check_keep(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        doubles = sorted({name for name in keep if keep.count(name) > 1})
        if doubles:
            raise ValueError(f"Expected column names that differ, got {doubles} twice")
        return keep


def from_home(uri: str, home: Path) -> str:
    """An address as it is; a path, also that of `sqlite:///<path>`, made absolute from the home."""
    if uri.startswith(_SQLITE):
        return f"{_SQLITE}{home / uri.removeprefix(_SQLITE)}"
    return uri if "://" in uri else str(home / uri)
