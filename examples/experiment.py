"""An A/B test from start to verdict in one process: two fraud models, generated customers, outcomes that come later.

python -m examples.experiment

What an arm does, this does without a server: it scores through a served model that follows the registry, logs, and
tells the outcomes by prediction id. It then prints what `zaphod experiment status` prints and writes the page.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import shutil
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import typer
from rich.console import Console
from rich.progress import track

from examples import transactions
from examples.train import fraud_pipeline
from zaphod.columns import from_table
from zaphod.commands.experiments import report
from zaphod.experiment.lifecycle import start
from zaphod.experiment.plan import GuardrailPlan, MetricPlan, Plan
from zaphod.monitoring.log import open_log
from zaphod.monitoring.outcomes import import_outcomes
from zaphod.monitoring.record import Arm
from zaphod.monitoring.settings import LogSettings
from zaphod.packaging import package
from zaphod.promotion import promote
from zaphod.registry import Registry
from zaphod.served import Recording, ServedModel
from zaphod.validation.command import validate

NAME = "fraud"
ROWS_AT_ONCE = 100
NULLABLE = ("distance_km", "balance", "seconds_since_last", "device")
PLAN = Plan(
    metrics=(
        MetricPlan(name="error of the probability", kind="ratio", measure="squared_error", higher_is_better=False),
        MetricPlan(name="right answers", kind="ratio", measure="correct", margin=0.005),
    ),
    guardrails=(
        GuardrailPlan(name="failed predictions"),
        GuardrailPlan(name="slow predictions", bad="slow", objective_ms=50.0, worse_by_at_most=0.01),
    ),
    segments=("channel",),
    outcome_window_s=1.0,
    entity_window_s=0.0,
)


def prepare(registry: Registry, home: Path, *, rows: int) -> None:
    """A champion whose probabilities are too high, as balanced classes make them, and a challenger without that."""
    frame = transactions.generate(rows, seed=1, end=0.5)
    X, y = frame[list(transactions.FEATURES)], frame[transactions.TARGET]
    champion = fraud_pipeline().set_params(model__class_weight="balanced")
    for model in (champion, fraud_pipeline()):
        package(model.fit(X, y), name=NAME, sample=X, registry=registry, nullable=NULLABLE)
    promote(registry, NAME, version=1, why="demo", override="it serves a demo")
    holdout = home / "holdout.parquet"
    transactions.generate(rows * 5 // 8, seed=2, end=0.5).to_parquet(holdout)
    # The demo goes on whatever the gate says; its figures stand in the report.
    with contextlib.suppress(typer.Exit), contextlib.redirect_stdout(io.StringIO()):
        validate(f"{NAME}@2", data=holdout, target=[transactions.TARGET], registry=registry.uri)


def ask(registry: Registry, log_uri: str, frame: pd.DataFrame) -> pa.Table:
    """Scores every row, logged; returns prediction ids, with the truth and when it was known."""
    settings = LogSettings(uri=log_uri, flush_s=0.2)
    log = open_log(settings)
    assert log is not None
    served = ServedModel.open(registry, NAME, recording=Recording(log, Arm.ONLINE, settings))
    snapshot = served.snapshot()
    ids: list[str] = []
    times: list[datetime.datetime] = []
    try:
        for first in track(range(0, len(frame), ROWS_AT_ONCE), description="customers ask"):
            part = frame.iloc[first : first + ROWS_AT_ONCE]
            table = pa.Table.from_pandas(part[list(transactions.FEATURES)], preserve_index=False)
            asked = [f"demo-{i}" for i in range(first, first + len(part))]
            snapshot.score(
                from_table(snapshot.schema, table).columns, entities=part["transaction_id"].tolist(), ids=asked
            )
            ids += asked
            times += [datetime.datetime.now(datetime.UTC)] * len(asked)
    finally:
        served.close()
        log.close()
    return pa.table({"prediction_id": ids, "outcome": frame[transactions.TARGET].to_numpy(), "at": times})


def main(
    customers: Annotated[int, typer.Option(help="how many ask, once each")] = 8_000,
    rows: Annotated[int, typer.Option(help="how many both models learn from")] = 8_000,
    home: Annotated[Path, typer.Option(help="a folder of its own; what is in it is removed")] = Path("var/experiment"),
) -> None:
    """Runs it all."""
    console = Console()
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    registry, log_uri = Registry.open(str(home / "registry")), str(home / "monitoring")
    with console.status("training, packaging and validating two models"):
        prepare(registry, home, rows=rows)
    experiment = start(registry, NAME, challenger=2, plan=PLAN, why="demo", share=0.5)
    console.print(f"experiment {experiment.id} is on", highlight=False)
    outcomes = ask(registry, log_uri, transactions.generate(customers, seed=3, end=0.5))
    pq.write_table(outcomes, home / "outcomes.parquet")
    import_outcomes(
        log_uri, home / "outcomes.parquet", id_column="prediction_id", value_column="outcome", time_column="at"
    )
    time.sleep(PLAN.outcome_window_s)
    page = home / "experiment.html"
    report(NAME, out=page, log=log_uri, registry=registry.uri)


if __name__ == "__main__":
    typer.run(main)
