"""Joins an experiment's predictions with their outcomes, on disk, and adds them up for each entity.

Files of the log are taken in once, into a DuckDB database of this reader's own: the columns that the plan needs. A look
adds up what is there; memory is bounded by DuckDB's limit and by one position an entity. What counts does not depend on
which file was read first: a reader that watched and one that begins now find the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from zaphod.experiment.logged import outcome_tables, prediction_tables
from zaphod.experiment.plan import Plan
from zaphod.experiment.samples import PhaseData
from zaphod.experiment.spec import Experiment
from zaphod.experiment.sums import PhaseQuery
from zaphod.monitoring.encode import LOG
from zaphod.monitoring.files import LogFiles
from zaphod.monitoring.outcomes import OUTCOMES
from zaphod.storage import open_storage

# The square of a difference of two such numbers, added up over entities and squared again, is still finite.
_LARGEST = 1e70

_TABLES = """
CREATE TABLE predictions (
    id VARCHAR, served DOUBLE, phase INTEGER, challenger BOOLEAN, entity VARCHAR, named BOOLEAN, failed BOOLEAN,
    latency DOUBLE, label VARCHAR, class DOUBLE, value DOUBLE, unusable BOOLEAN,
    key VARCHAR{extras}, counts BOOLEAN
);
CREATE TABLE others (id VARCHAR);
CREATE TABLE outcomes (id VARCHAR, field VARCHAR, value DOUBLE, text VARCHAR, moment DOUBLE, received TIMESTAMPTZ);
CREATE TABLE doubled (id VARCHAR);
CREATE TABLE unusable (id VARCHAR);
"""


class Joined:
    """One reader's view of one experiment. Not for several threads."""

    def __init__(self, experiment: Experiment, plan: Plan, *, log_uri: str, memory_limit: str = "1GB") -> None:
        """log_uri: as the arms' `monitoring.uri`. Raises: ConfigError."""
        self._experiment = experiment
        self._plan = plan
        self._folder = tempfile.TemporaryDirectory(prefix="zaphod-join-")
        self._db = duckdb.connect(str(Path(self._folder.name) / "join.duckdb"))
        self._db.execute(f"SET memory_limit = '{memory_limit}'")
        self._db.execute("SET preserve_insertion_order = false")
        self._covariates = list(dict.fromkeys(metric.covariate for metric in plan.metrics if metric.covariate))
        self._segments = list(plan.segments)
        covariates = "".join(f", covariate_{i} DOUBLE" for i in range(len(self._covariates)))
        segments = "".join(f", segment_{i} VARCHAR" for i in range(len(self._segments)))
        self._db.execute(_TABLES.format(extras=covariates + segments))
        storage, started = open_storage(log_uri), experiment.phases[0].started_s
        # Outcomes may come for predictions from before the experiment: those are no orphans.
        since = started - plan.outcome_window_s
        self._logs = LogFiles(storage, f"{LOG}/{experiment.model}", since_s=since)
        self._outcomes = LogFiles(storage, OUTCOMES, since_s=started)

    def close(self) -> None:
        self._db.close()
        self._folder.cleanup()

    def refresh(self, experiment: Experiment) -> None:
        """Takes in what is new, all of it or nothing. experiment: as it is now, perhaps in a later phase.

        Raises: StorageUnavailableError; duckdb.Error or pyarrow.ArrowException when a file cannot be read.
        """
        self._experiment = experiment
        # Outcomes first: their predictions were logged before them, and are all found then.
        told = self._outcomes.fresh()
        logged = self._logs.fresh()
        self._db.begin()
        try:
            for table in outcome_tables(told):
                self._take_outcomes(table)
            self._take_predictions(logged)
        except BaseException:
            self._db.rollback()
            raise
        self._db.commit()
        self._outcomes.take(told)
        self._logs.take(logged)

    def look(self, *, now_s: float) -> list[PhaseData]:
        """Every phase of the experiment, as far as it goes."""
        query = PhaseQuery(self._db, self._plan, mode=self._experiment.mode, now_s=now_s, covariates=self._covariates)
        return [query.phase(phase) for phase in self._experiment.phases]

    def glance(self, *, now_s: float) -> PhaseData:
        """The phase that runs, without outcomes: what guardrails and the check of the split need, sooner."""
        query = PhaseQuery(
            self._db, self._plan, mode=self._experiment.mode, now_s=now_s, covariates=self._covariates,
            with_outcomes=False,
        )  # fmt: skip
        return query.phase(self._experiment.phase)

    def _take_outcomes(self, fresh: pa.Table) -> None:
        self._db.register("fresh", fresh)
        self._db.execute("INSERT INTO unusable SELECT prediction_id FROM fresh WHERE abs(value) > ?", [_LARGEST])
        self._db.execute(
            """CREATE OR REPLACE TEMP TABLE taken AS
            SELECT prediction_id AS id, field, value, text, epoch_us(time) / 1e6 AS moment, received
            FROM fresh WHERE value IS NULL OR abs(value) <= ?""",
            [_LARGEST],
        )
        self._db.execute(
            """CREATE OR REPLACE TEMP TABLE again AS
            SELECT id, field FROM taken GROUP BY ALL HAVING count(*) > 1
            UNION SELECT id, field FROM taken SEMI JOIN outcomes USING (id, field)"""
        )
        # The one that arrived first counts, and of an import the one that happened first.
        self._db.execute(
            """CREATE OR REPLACE TEMP TABLE candidates AS
            SELECT *, row_number() OVER (PARTITION BY id, field ORDER BY received, moment, text) AS place
            FROM (
                SELECT * FROM outcomes SEMI JOIN again USING (id, field)
                UNION ALL SELECT * FROM taken SEMI JOIN again USING (id, field)
            )"""
        )
        self._db.execute(
            "DELETE FROM outcomes USING again WHERE outcomes.id = again.id AND outcomes.field = again.field"
        )
        self._db.execute("INSERT INTO outcomes SELECT * FROM taken ANTI JOIN again USING (id, field)")
        self._db.execute("INSERT INTO outcomes SELECT * EXCLUDE (place) FROM candidates WHERE place = 1")
        self._db.execute("INSERT INTO doubled SELECT id FROM candidates WHERE place > 1")
        self._db.unregister("fresh")

    def _take_predictions(self, paths: Sequence[Path]) -> None:
        extras = "".join(f", {_usable(f'covariate_{i}')}" for i in range(len(self._covariates)))
        extras += "".join(f", segment_{i}" for i in range(len(self._segments)))
        for table in prediction_tables(paths, covariates=self._covariates, segments=self._segments):
            self._db.register("fresh", table)
            self._db.execute(
                f"""CREATE OR REPLACE TEMP TABLE taken AS
                SELECT * REPLACE (
                    failed OR unusable AS failed, CASE WHEN NOT unusable THEN label END AS label,
                    CASE WHEN NOT unusable THEN class END AS class,
                    CASE WHEN NOT unusable THEN value END AS value
                )
                FROM (SELECT *, coalesce(abs(value) > {_LARGEST!r}, false) AS unusable FROM (SELECT
                    CASE WHEN "row" IS NULL THEN "call" ELSE "call" || '-' || "row" END AS id,
                    epoch_us(time) / 1e6 AS served, phase, variant = 'challenger' AS challenger,
                    coalesce(entity, id) AS entity, entity IS NOT NULL AS named,
                    status = 'failed' AS failed, latency_s AS latency, label, class, value, key,
                    experiment IS NOT DISTINCT FROM ? AS mine{extras}
                FROM fresh
                WHERE status <> 'refused' AND reason IS DISTINCT FROM 'fallback'))""",
                [self._experiment.id],
            )
            self._db.execute("INSERT INTO others SELECT id FROM taken WHERE NOT mine")
            self._add_predictions()
            self._db.unregister("fresh")

    def _add_predictions(self) -> None:
        """From `taken`. A row that is scored again has the same id: as a replay does, perhaps in a later phase.

        An id belongs to the phase, and but where both score to the variant, of its first record. Of the records there
        (of each variant) the first that succeeded counts, else the first. The others stay, for a still earlier one.
        """
        paired = self._experiment.mode.paired
        several, known = "count(*) > 1", "true"
        if paired:
            several = "count_if(challenger) > 1 OR count_if(NOT challenger) > 1 OR min(phase) <> max(phase)"
            known = "(p.challenger = t.challenger OR p.phase <> t.phase)"
        columns = (
            "id, served, phase, challenger, entity, named, failed, latency, label, class, value, unusable, key"
            + self._extra_names()
        )
        self._db.execute(
            f"""CREATE OR REPLACE TEMP TABLE again AS
            SELECT id FROM taken WHERE mine GROUP BY id HAVING {several}
            UNION SELECT t.id FROM taken t JOIN predictions p ON p.id = t.id AND {known} WHERE t.mine"""
        )
        self._db.execute(
            f"""CREATE OR REPLACE TEMP TABLE candidates AS
            SELECT {columns} FROM predictions SEMI JOIN again USING (id)
            UNION ALL SELECT {columns} FROM taken SEMI JOIN again USING (id) WHERE mine"""
        )
        self._db.execute("DELETE FROM predictions WHERE id IN (SELECT id FROM again)")
        self._db.execute(
            f"INSERT INTO predictions SELECT {columns}, true FROM taken ANTI JOIN again USING (id) WHERE mine"
        )
        self._db.execute(
            f"""INSERT INTO predictions
            SELECT {columns}, belongs AND row_number() OVER (
                PARTITION BY id, challenger, belongs ORDER BY failed, served
            ) = 1
            FROM (
                SELECT *, phase = first_value(phase) OVER ids
                    AND ({paired} OR challenger = first_value(challenger) OVER ids) AS belongs
                FROM candidates WINDOW ids AS (PARTITION BY id ORDER BY served, challenger, phase)
            )"""
        )

    def _extra_names(self) -> str:
        covariates = "".join(f", covariate_{i}" for i in range(len(self._covariates)))
        return covariates + "".join(f", segment_{i}" for i in range(len(self._segments)))


def _usable(column: str) -> str:
    """A number that can be calculated with, else null. DuckDB holds NaN for the largest of all."""
    return f"CASE WHEN abs({column}) <= {_LARGEST!r} THEN {column} END AS {column}"
