"""Card transactions: a generated table with numbers, categories, missing values and a drift over time.

python -m examples.transactions --rows 200000 --files 4 var/data/transactions
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich.progress import track

NUMBERS = (
    "amount",
    "hour",
    "age_days",
    "num_day",
    "distance_km",
    "credit_limit",
    "balance",
    "seconds_since_last",
)
CATEGORIES = ("merchant", "country", "channel", "device")
FEATURES = (*NUMBERS, *CATEGORIES)
TARGET = "fraud"

_MERCHANTS = ("grocery", "fuel", "travel", "online", "electronics", "restaurant", "jewelry", "cash")
_MERCHANT_WEIGHTS = (0.28, 0.12, 0.06, 0.2, 0.08, 0.18, 0.02, 0.06)
_COUNTRIES = ("DE", "FR", "GB", "US", "ES", "IT", "NL", "PL", "BR", "IN")
_CHANNELS = ("chip", "contactless", "web", "phone")
_DEVICES = ("ios", "android", "browser")


def generate(num_rows: int, *, seed: int = 0, start: float = 0.0, end: float = 1.0) -> pd.DataFrame:
    """Rows in time order, with `transaction_id`, `ts` (UTC), the features and `fraud` (0 or 1, about 4 %).

    start, end: the part of the time line to draw from. Amounts rise, trade moves online and fraud follows along it,
    so a model trained on the beginning grows stale. Nulls: about 4 % of three numbers and 5 % of `device`.
    """
    rng = np.random.default_rng(seed)
    t = np.linspace(start, end, num_rows)
    frame = pd.DataFrame(
        {
            "transaction_id": [f"t{seed:03d}-{i:09d}" for i in range(num_rows)],
            "ts": pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(t * 180, unit="D").floor("ms"),
            "amount": np.round(rng.lognormal(3.4 + 0.4 * t, 1.1), 2),
            "hour": rng.integers(0, 24, num_rows),
            "age_days": rng.integers(1, 6000, num_rows),
            "num_day": rng.poisson(2.2 + t, num_rows),
            "distance_km": np.round(rng.exponential(30.0, num_rows), 1),
            "credit_limit": np.round(rng.choice([500.0, 1000, 2500, 5000, 10000], num_rows), 0),
            "balance": np.round(rng.normal(900.0, 700.0, num_rows), 2),
            "seconds_since_last": np.round(rng.exponential(20000.0, num_rows), 0),
            "merchant": _draw(rng, _MERCHANTS, num_rows, weights=_MERCHANT_WEIGHTS),
            "country": _draw(rng, _COUNTRIES, num_rows),
            "channel": np.where(rng.random(num_rows) < 0.2 + 0.3 * t, "web", _draw(rng, _CHANNELS, num_rows)),
            "device": _draw(rng, _DEVICES, num_rows),
        }
    )
    frame[TARGET] = (rng.random(num_rows) < _fraud_probability(frame, t)).astype(np.int64)
    for name in ("distance_km", "balance", "seconds_since_last"):
        frame.loc[rng.random(num_rows) < 0.04, name] = np.nan
    frame.loc[rng.random(num_rows) < 0.05, "device"] = None
    for name in CATEGORIES:
        frame[name] = frame[name].astype("str")
    return frame


def _draw(
    rng: np.random.Generator, names: tuple[str, ...], size: int, *, weights: tuple[float, ...] | None = None
) -> np.ndarray:
    return rng.choice(np.array(names, dtype=object), size, p=weights)


def _fraud_probability(frame: pd.DataFrame, t: np.ndarray) -> np.ndarray:
    night = frame["hour"].between(1, 5)
    risky = frame["merchant"].isin(["jewelry", "electronics", "cash"])
    logit = (
        -5.6
        + 0.55 * np.log1p(frame["amount"] / 50)
        + 0.9 * night
        + 0.8 * risky
        + (0.5 + 0.8 * t) * (frame["channel"] == "web")
        + 0.015 * frame["distance_km"]
        + 0.12 * frame["num_day"]
        - 0.0001 * frame["age_days"]
        + 1.2 * (frame["seconds_since_last"] < 600)
    )
    return np.asarray(1 / (1 + np.exp(-logit)))


def write(folder: Path, *, num_rows: int, num_files: int, seed: int = 100) -> None:
    """Parquet files of the same size, in time order, readable one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    size = num_rows // num_files
    for i in track(range(num_files), description="writing transactions"):
        part = generate(size, seed=seed + i, start=i / num_files, end=(i + 1) / num_files)
        staged = folder / f".part-{i:04d}.parquet"
        part.drop(columns=TARGET).to_parquet(staged, index=False)
        staged.replace(folder / f"part-{i:04d}.parquet")


def main(
    folder: Annotated[Path, typer.Argument(help="where the Parquet files go")],
    rows: Annotated[int, typer.Option(help="rows in all", min=1)] = 200_000,
    files: Annotated[int, typer.Option(help="number of files", min=1)] = 4,
) -> None:
    """Writes a table of card transactions."""
    write(folder, num_rows=rows, num_files=files)


if __name__ == "__main__":
    typer.run(main)
