"""What a replica counts, as Prometheus reads it."""

from __future__ import annotations

import collections
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deployments.export import RayExport
from deployments.metrics import BOUNDS_S, Labels, Meter
from deployments.scaling import Busyness
from zaphod.monitoring.segments import LogCounts
from zaphod.predictor import Predictions
from zaphod.served import Scored, Stamp
from zaphod.shadow import ShadowCounts

LABELS = Labels(model="fraud", version=3, variant="champion", protocol="plain", outcome="ok")


@pytest.fixture
def meter() -> Meter:
    """Of a replica that is half busy."""
    busyness = Busyness(clock=iter([0.0, 10.0]).__next__, used=iter([0.0, 5.0]).__next__)
    busyness.measure()
    return Meter(replica="abc", busyness=busyness)


def samples(meter: Meter) -> dict[tuple[str, str], float]:
    """Value by name and `le`, of what Prometheus' own parser makes of the text."""
    return {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in text_string_to_metric_families(meter.text().decode())
        for sample in family.samples
    }


def test_requests_rows_and_durations_are_counted(meter: Meter) -> None:
    """Counters add up, and a histogram's buckets are cumulative, 100 us apart where it matters."""
    for duration_s in (0.00015, 0.00025, 0.3, 100.0):
        meter.count(LABELS, duration_s=duration_s, num_rows=2)

    got = samples(meter)

    assert got["zaphod_requests_total", ""] == 4
    assert got["zaphod_rows_total", ""] == 8
    name = "zaphod_request_duration_seconds"
    assert [got[f"{name}_bucket", le] for le in ("0.0001", "0.0002", "0.0003", "0.5", "30", "+Inf")] == [
        0,
        1,
        2,
        3,
        3,
        4,
    ]
    assert got[f"{name}_count", ""] == 4
    assert got[f"{name}_sum", ""] == pytest.approx(100.3004)
    assert got["zaphod_replica_busy_ratio", ""] == 0.5


def test_every_label_is_there(meter: Meter) -> None:
    """A sample says which model, version, variant, protocol, outcome and replica it is of."""
    meter.count(LABELS._replace(model='odd "name"\\\n'), duration_s=0.1, num_rows=1)

    (family,) = [each for each in text_string_to_metric_families(meter.text().decode()) if each.name == "zaphod_rows"]

    assert family.samples[0].labels == {
        "model": 'odd "name"\\\n', "version": "3", "variant": "champion",
        "protocol": "plain", "outcome": "ok", "replica": "abc",
    }  # fmt: skip


def test_buckets_resolve_a_tenth_of_a_millisecond() -> None:
    """Up to half a millisecond, no bucket is wider than 100 us."""
    small = [0.0, *(bound for bound in BOUNDS_S if bound <= 0.0005)]

    assert max(high - low for low, high in pairwise(small)) <= 0.0001 + 1e-12


def test_each_answer_counts_for_who_gave_it(meter: Meter) -> None:
    """However often, in whatever order: by the stamp of the answer, and of whom was asked when there is none."""
    old, new = (Stamp(model="fraud", version=version, variant="champion", bundle_sha256="x") for version in (1, 2))
    answers = [
        (Scored(Predictions(), (old,)), 200, "1", "champion", "ok"),
        (Scored(Predictions(), (new,)), 200, "2", "champion", "ok"),
        (Scored(Predictions(), (old, new), [0, 1]), 200, "1", "mixed", "ok"),
        (None, 422, "2", "champion", "unprocessable"),
        (Scored(Predictions(), (old,)), 500, "1", "champion", "failed"),
    ]
    for _ in range(3):
        for scored, status, *_ in answers:
            meter.answered(scored, stamp=new, protocol="plain", status=status, began=0.0, num_rows=2)

    text = meter.text().decode()
    for _, _, version, variant, outcome in answers:
        labels = f'version="{version}",variant="{variant}",protocol="plain",outcome="{outcome}"'
        assert f'zaphod_requests_total{{model="fraud",{labels},replica="abc"}} 3' in text
        assert f'zaphod_rows_total{{model="fraud",{labels},replica="abc"}} 6' in text


def test_what_the_log_and_the_shadow_left_out_is_shown() -> None:
    """Rows that were dropped, for want of room or of time, and how often a challenger died."""
    meter = Meter(
        replica="abc",
        busyness=Busyness(),
        logged=lambda: LogCounts(written=90, dropped=7, waiting=3),
        shadows=lambda: {"fraud": ShadowCounts(offered=100, dropped=20, scored=70, lost=10, deaths=2)},
    )

    found = {
        (sample.name, sample.labels.get("state", "")): sample.value
        for family in text_string_to_metric_families(meter.text().decode())
        for sample in family.samples
        if sample.labels["replica"] == "abc" and sample.labels.get("model", "fraud") == "fraud"
    }

    assert (found["zaphod_log_rows_total", "written"], found["zaphod_log_rows_total", "dropped"]) == (90, 7)
    assert found["zaphod_log_waiting_rows", ""] == 3
    assert [found["zaphod_shadow_rows_total", state] for state in ("scored", "dropped", "lost")] == [70, 20, 10]
    assert found["zaphod_shadow_deaths_total", ""] == 2


@dataclass
class Counters:
    """Stands in for Ray's exporter: the sums by name and labels."""

    sums: collections.defaultdict[tuple[str, ...], float] = field(
        default_factory=lambda: collections.defaultdict(float)
    )

    def __call__(self, name: str, _text: str, keys: tuple[str, ...]) -> RayCounter:
        return RayCounter(self, name, keys)


@dataclass
class RayCounter:
    """As Ray's, which refuses to add nothing and labels that it was not told of."""

    counters: Counters
    name: str
    keys: tuple[str, ...]

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert value > 0
        assert set(tags) == set(self.keys)
        self.counters.sums[self.name, *tags.values()] += value


def test_rays_exporter_is_told_what_is_new() -> None:
    """Of requests, of the log and of a shadow whose next phase counts anew."""
    counters, logged, shadows = Counters(), LogCounts(90, 7, 3), {"fraud": ShadowCounts(100, 20, 70, 10, 2)}
    meter = Meter(replica="abc", busyness=Busyness(), logged=lambda: logged, shadows=lambda: shadows)
    export = RayExport(meter, new_counter=counters)  # type: ignore[arg-type]  # see there
    meter.count(LABELS, duration_s=0.1, num_rows=2)

    export.export()
    export.export()
    logged, shadows = LogCounts(95, 7, 0), {"fraud": ShadowCounts(9, 1, 5, 3, 0)}
    export.export()

    sums = counters.sums
    assert (sums["zaphod_log_rows", "written"], sums["zaphod_log_rows", "dropped"]) == (95, 7)
    assert [sums["zaphod_shadow_rows", "fraud", state] for state in ("scored", "dropped", "lost")] == [75, 21, 13]
    assert sums["zaphod_shadow_deaths", "fraud"] == 2
    labels = list(map(str, LABELS))
    assert sums["zaphod_rows", *labels] == 2
    name = "zaphod_request_duration_seconds"
    assert [sums[f"{name}_bucket", *labels, le] for le in ("0.05", "0.1", "0.5", "+Inf")] == [0, 1, 1, 1]
    assert (sums[f"{name}_count", *labels], sums[f"{name}_sum", *labels]) == (1, pytest.approx(0.1))
