"""How long one row takes, from JSON to prediction, on the machine that validates."""

from __future__ import annotations

import platform
import time

import msgspec
import numpy as np

from zaphod.columns import Columns, RowDecoder, to_arrow
from zaphod.predictor import Predictor
from zaphod.schema import Schema

_WARM_UP_CALLS = 5


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds for one row: decode, check, predict. Without network and server."""

    p50_ms: float
    p99_ms: float
    num_calls: int
    engine: str
    machine: str


def measure_latency(predictor: Predictor, schema: Schema, rows: Columns, *, max_calls: int, limit_s: float) -> Latency:
    """Times the rows one at a time, round and round, until either limit. rows: at least one."""
    decoder = RowDecoder(schema)
    bodies = [msgspec.json.encode(row) for row in to_arrow(schema, rows).to_pylist()]
    for body in bodies[:_WARM_UP_CALLS]:
        predictor.predict(decoder.columns([decoder.decode_row(body)]))
    times_ns: list[int] = []
    deadline = time.perf_counter() + limit_s
    while len(times_ns) < max_calls and (time.perf_counter() < deadline or not times_ns):
        body = bodies[len(times_ns) % len(bodies)]
        start = time.perf_counter_ns()
        predictor.predict(decoder.columns([decoder.decode_row(body)]))
        times_ns.append(time.perf_counter_ns() - start)
    p50, p99 = np.quantile(np.array(times_ns) / 1e6, (0.5, 0.99))
    return Latency(
        p50_ms=float(p50),
        p99_ms=float(p99),
        num_calls=len(times_ns),
        engine=predictor.engine,
        machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )
