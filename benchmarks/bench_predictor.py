"""How long one row and 10,000 rows take in the compiled engine and in scikit-learn, on one thread.

python -m benchmarks.bench_predictor

Ten pipelines over the twelve fields of the demo transactions: eight numbers imputed and scaled, four categories one-hot
encoded, nulls among both. The eleventh is where scikit-learn is strongest: shallow trees on the eight numbers as they
are, so that it spends nothing on preparing them. The two sides take turns within one run; the figures are the best of
the turns, in processor time of the one thread: what else a machine does adds to a turn and takes nothing away.

Measured for one row: `run` is the bare `session.run` with its input ready; `request` is what a server does, JSON to
columns (decoded and checked against the schema), strings looked up, `session.run`, labels; `sklearn` is one call of
`predict_proba` (`predict` for regressors, `decision_function` for detectors) on a DataFrame that is ready. For 10,000
rows: `compiled` is predicting from columns with Arrow strings, `sklearn` the same call as above on a ready DataFrame.

Not measured: HTTP, and scikit-learn's own cost of making a DataFrame, which is on its side of the scale.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Annotated

import msgspec
import numpy as np
import pandas as pd
import threadpoolctl
import typer
from rich.console import Console
from rich.table import Table
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from examples import transactions
from zaphod.columns import Columns, RowDecoder, to_arrow
from zaphod.compiler import compile_model
from zaphod.compiler.engine import OnnxPredictor
from zaphod.packaging import infer_schema, sample_columns

TRAIN_ROWS = 10_000
BATCH_ROWS = 10_000
PLAIN = "shallow forest, plain"
NULLABLE = ("distance_km", "balance", "seconds_since_last", "device")


def prepared(model: BaseEstimator) -> Pipeline:
    """The mixed pipeline, unfitted."""
    columns = ColumnTransformer(
        [
            (
                "numbers",
                make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
                list(transactions.NUMBERS),
            ),
            (
                "categories",
                make_pipeline(
                    SimpleImputer(strategy="constant", fill_value="missing"),
                    OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                ),
                list(transactions.CATEGORIES),
            ),
        ]
    )
    return Pipeline([("columns", columns), ("model", model)])


def pipelines() -> list[tuple[str, BaseEstimator, str]]:
    """Name, pipeline and what it learns: fraud, a part of three, an amount or nothing."""
    models = [
        ("logistic, 2 classes", LogisticRegression(max_iter=300), "fraud"),
        ("logistic, 3 classes", LogisticRegression(max_iter=300), "part"),
        ("ridge", Ridge(), "amount"),
        ("boosting, 100 trees", HistGradientBoostingClassifier(early_stopping=False, random_state=0), "fraud"),
        ("boosting, regression", HistGradientBoostingRegressor(early_stopping=False, random_state=0), "amount"),
        ("classic boosting", GradientBoostingClassifier(random_state=0), "fraud"),
        ("forest, 100 trees", RandomForestClassifier(min_samples_leaf=5, random_state=0), "fraud"),
        ("forest, regression", RandomForestRegressor(min_samples_leaf=5, random_state=0), "amount"),
        ("perceptron (50, 20)", MLPClassifier((50, 20), max_iter=30, random_state=0), "part"),
        ("isolation forest", IsolationForest(random_state=0), "nothing"),
    ]
    plain = RandomForestClassifier(20, max_depth=6, random_state=0)
    return [*((name, prepared(model), learnt) for name, model, learnt in models), (PLAIN, plain, "part")]


def target(name: str, frame: pd.DataFrame) -> np.ndarray | None:
    """What a pipeline learns from these rows."""
    amount = np.log1p(frame["amount"] + frame["distance_km"].fillna(0.0)).to_numpy()
    match name:
        case "fraud":
            return frame[transactions.TARGET].to_numpy()
        case "part":
            return np.digitize(amount, np.quantile(amount, [0.4, 0.8]))
        case "amount":
            return amount
        case _:
            return None


def take_turns(calls: dict[str, tuple[Callable[[], object], int]], *, turns: int) -> dict[str, float]:
    """Least seconds a call of each over the turns; within a turn, each is called its number of times."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call, _ in calls.values():
        call()
    for _ in range(turns):
        for name, (call, times) in calls.items():
            start = time.thread_time()
            for _ in range(times):
                call()
            taken[name].append((time.thread_time() - start) / times)
    return {name: min(values) for name, values in taken.items()}


class Sides:
    """Both engines of one fitted pipeline and the rows they are asked about."""

    def __init__(
        self, model: BaseEstimator, learnt: str, train: pd.DataFrame, batch: pd.DataFrame, features: list[str]
    ) -> None:
        self.model = model.fit(train[features], target(learnt, train))
        schema = infer_schema(self.model, train[features], nullable=[name for name in NULLABLE if name in features])
        self.compiled = OnnxPredictor(compile_model(self.model, schema).model, schema)
        self.decoder = RowDecoder(schema)
        self.batch = sample_columns(schema, batch[features])
        self.batch_frame = batch[features]
        self.row_frame = batch[features].iloc[[7]]
        self.body = msgspec.json.encode(to_arrow(schema, self.batch.take(np.array([7]))).to_pylist()[0])
        self.x = self.compiled.encode(self.row())
        methods = ("predict_proba", "decision_function", "predict")
        self.method = getattr(self.model, next(name for name in methods if hasattr(self.model, name)))
        self.session, self.outputs = self.compiled._session, self.compiled._outputs

    def row(self) -> Columns:
        return self.decoder.columns(self.decoder.decode_request(self.body))

    def one(self, *, turns: int) -> dict[str, float]:
        return take_turns(
            {
                "run": (lambda: self.session.run(self.outputs, {"x": self.x}), 20),
                "request": (lambda: self.compiled.predict(self.row()), 20),
                "sklearn": (lambda: self.method(self.row_frame), 1),
            },
            turns=turns,
        )

    def many(self, *, turns: int) -> dict[str, float]:
        return take_turns(
            {
                "compiled": (lambda: self.compiled.predict(self.batch), 1),
                "sklearn": (lambda: self.method(self.batch_frame), 1),
            },
            turns=turns,
        )


def main(
    turns: Annotated[int, typer.Option(help="turns of the two sides for one row", min=1)] = 60,
    batch_turns: Annotated[int, typer.Option(help="turns of the two sides for 10,000 rows", min=1)] = 9,
) -> None:
    """Prints the table."""
    train = transactions.generate(TRAIN_ROWS, seed=1)
    batch = transactions.generate(BATCH_ROWS, seed=2)
    table = Table(
        "pipeline", "run us", "request us", "over run us", "sklearn us", "faster", "10k ms", "sklearn ms", "faster"
    )
    for column in table.columns[1:]:
        column.justify = "right"
    with warnings.catch_warnings(), threadpoolctl.threadpool_limits(1):
        warnings.simplefilter("ignore")  # few iterations: convergence is not what is measured
        for name, model, learnt in pipelines():
            fields = transactions.NUMBERS if name == PLAIN else transactions.FEATURES
            sides = Sides(model, learnt, train, batch, list(fields))
            one, many = sides.one(turns=turns), sides.many(turns=batch_turns)
            table.add_row(
                name,
                *(f"{one[side] * 1e6:.1f}" for side in ("run", "request")),
                f"{(one['request'] - one['run']) * 1e6:.1f}",
                f"{one['sklearn'] * 1e6:.0f}",
                f"{one['sklearn'] / one['request']:.0f}x",
                *(f"{many[side] * 1e3:.1f}" for side in ("compiled", "sklearn")),
                f"{many['sklearn'] / many['compiled']:.1f}x",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
