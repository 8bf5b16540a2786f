"""The join counts what a plain loop over the same records counts."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import math
import uuid
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import SecretStr

from zaphod.columns import Columns
from zaphod.errors import InvalidInputError, SchemaMismatchError
from zaphod.experiment.analysis import analyse
from zaphod.experiment.health import health_checks
from zaphod.experiment.joining import Joined
from zaphod.experiment.plan import GuardrailPlan, MetricPlan, Plan
from zaphod.experiment.results import PhaseResult
from zaphod.experiment.samples import Entities, Pairs, PhaseData
from zaphod.experiment.spec import Experiment, Mode, Phase, write_plan
from zaphod.experiment.verdict import Verdict, decide
from zaphod.monitoring.encode import hour_folder
from zaphod.monitoring.log import open_log
from zaphod.monitoring.outcomes import OUTCOMES, Outcome, Outcomes, import_outcomes, open_outcomes
from zaphod.monitoring.record import Arm, Call, Origin, Status
from zaphod.monitoring.settings import LogSettings
from zaphod.predictor import Predictions
from zaphod.schema import DType, Field, LogPolicy, Output, Schema, Task

SCHEMA = Schema(
    fields=(Field(name="age", dtype=DType.FLOAT64), Field(name="country", dtype=DType.STRING)),
    output=Output(task=Task.REGRESSION),
)
BEGAN = 1_700_000_000.0
WINDOW_S, ENTITY_S = 100.0, 30.0
PLAN = Plan(
    metrics=(
        MetricPlan(name="bought", kind="proportion", missing="zero", covariate="age"),
        MetricPlan(name="spent", kind="mean", field="amount"),
        MetricPlan(name="per visit", kind="ratio", field="amount", per="visits"),
        MetricPlan(name="error", kind="mean", measure="absolute_error", higher_is_better=False),
    ),
    guardrails=(
        GuardrailPlan(name="failed", bad="failed"),
        GuardrailPlan(name="slow", bad="slow", objective_ms=50.0),
    ),
    outcome_window_s=WINDOW_S,
    entity_window_s=ENTITY_S,
    segments=("country",),
)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One row of the log, and what came of it: field -> (value, seconds after)."""

    id: str
    served: float
    challenger: bool
    entity: str | None
    failed: bool
    latency: float
    value: float
    age: float
    country: str | None
    outcomes: dict[str, tuple[float, float]]


def traffic(seed: int, count: int) -> list[Prediction]:
    """Entities with several predictions, some crossed, some unnamed, outcomes in time, late and missing."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        entity = f"e{rng.integers(60)}" if rng.random() < 0.9 else None
        challenger = int((entity or f"p{i}")[1:]) % 2 == 0
        if rng.random() < 0.01:
            challenger = not challenger
        outcomes = {}
        if rng.random() < 0.7:
            outcomes["outcome"] = (float(rng.random() < 0.4), float(rng.uniform(0, 1.3 * WINDOW_S)))
        if rng.random() < 0.5:
            outcomes["amount"] = (float(rng.normal(20, 5)), float(rng.uniform(0, WINDOW_S)))
            outcomes["visits"] = (float(rng.integers(1, 4)), float(rng.uniform(0, WINDOW_S)))
        made.append(
            Prediction(
                id=f"p{i}",
                served=BEGAN + float(np.round(rng.uniform(0, 400), 6)),
                challenger=challenger,
                entity=entity,
                failed=bool(rng.random() < 0.05),
                latency=float(rng.exponential(0.03)) if i % 10 else math.nan,
                value=float(rng.normal()),
                age=float(rng.normal(40, 10)),
                country=str(rng.choice(["DE", "FR"])),
                outcomes=outcomes,
            )
        )
    return made


def experiment(mode: Mode = Mode.AB, *, shares: tuple[float, ...] = (0.5,)) -> Experiment:
    """A phase for each share, one every 200 s."""
    return Experiment(
        id="exp", model="shop", mode=mode, champion=1, challenger=2, salt="s",
        phases=tuple(Phase(number=i + 1, share=each, started_s=BEGAN + 200 * i) for i, each in enumerate(shares)),
        plan=write_plan(PLAN),
    )  # fmt: skip


@functools.cache
def origin(variant: str, mode: Mode = Mode.AB, *, experiment_id: str | None = "exp", phase: int = 1) -> Origin:
    """As an arm would make it."""
    return Origin(
        arm=Arm.ONLINE, model="shop", version=2 if variant == "challenger" else 1, bundle_sha256="0" * 64,
        schema=SCHEMA, variant=variant, experiment=experiment_id, phase=phase, mode=mode,
    )  # fmt: skip


def call(prediction: Prediction, by: Origin, *, value: float | None = None) -> Call:
    """The prediction's record."""
    answer = prediction.value if value is None else value
    return Call(
        origin=by, id=prediction.id, served_s=prediction.served, num_rows=1, latency_s=prediction.latency,
        columns=Columns(numbers=np.array([[prediction.age]]), strings=([prediction.country],)),
        predictions=None if prediction.failed else Predictions(values=np.array([[answer]])),
        entities=[prediction.entity], status=Status.FAILED if prediction.failed else Status.OK,
    )  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> LogSettings:
    """A log in the test's folder, entities as they are."""
    return LogSettings.model_validate({"uri": str(tmp_path), "entity": "keep", "flush_s": 600})


def write(settings: LogSettings, calls: list[Call], told: list[tuple[Prediction, str]]) -> None:
    """Into several files each."""
    for part in range(3):
        log, outcomes = open_log(settings), open_outcomes(settings)
        assert log is not None
        assert outcomes is not None
        for one in calls[part::3]:
            log.put(one)
        for prediction, field in told[part::3]:
            value, after = prediction.outcomes[field]
            moment = datetime.datetime.fromtimestamp(prediction.served + after, tz=datetime.UTC)
            outcomes.put(Outcomes([Outcome(prediction.id, value, field, moment)], BEGAN + 1000))
        log.close()
        outcomes.close()


def store_outcomes(settings: LogSettings, columns: dict[str, object]) -> None:
    """A file of outcomes as it stands in the log, whoever wrote it. time: microseconds since the epoch."""
    table = pa.table(columns)
    moments = table["time"].cast(pa.timestamp("us", tz="UTC"))
    table = table.set_column(table.column_names.index("time"), "time", moments)
    table = table.append_column("field", pa.array(["outcome"] * len(table)))
    table = table.append_column("received", moments)
    folder = Path(settings.uri or "", OUTCOMES, hour_folder(int(BEGAN // 3600)))
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / f"{uuid.uuid4().hex}.parquet")


def told(predictions: list[Prediction]) -> list[tuple[Prediction, str]]:
    """Every outcome once."""
    return [(prediction, field) for prediction in predictions for field in prediction.outcomes]


def look(settings: LogSettings, now_s: float, mode: Mode = Mode.AB) -> PhaseData:
    """What one look finds of the phase."""
    joined = Joined(experiment(mode), PLAN, log_uri=settings.uri or "")
    joined.refresh(experiment(mode))
    (phase,) = joined.look(now_s=now_s)
    joined.close()
    return phase


def whom(prediction: Prediction) -> str:
    """An unnamed prediction is an entity of its own."""
    return prediction.entity or prediction.id


def in_time(prediction: Prediction, field: str) -> float | None:
    """The outcome, if it came within the window."""
    value, after = prediction.outcomes.get(field, (0.0, np.inf))
    return value if after <= WINDOW_S else None


def by_entity(predictions: list[Prediction], now_s: float) -> dict[str, list[Prediction]]:
    """Of each entity that is complete and not crossed, the predictions that count."""
    groups: dict[str, list[Prediction]] = defaultdict(list)
    for prediction in sorted(predictions, key=lambda one: one.served):
        if prediction.served <= now_s:
            groups[whom(prediction)].append(prediction)
    return {
        entity: [one for one in several if one.served < several[0].served + ENTITY_S]
        for entity, several in groups.items()
        if len({one.challenger for one in several}) == 1 and several[0].served + ENTITY_S + WINDOW_S <= now_s
    }


NOW = BEGAN + 350.0


@pytest.mark.parametrize("mode", [Mode.AB, Mode.SHADOW])
def test_a_glance_is_a_look_without_outcomes(settings: LogSettings, mode: Mode) -> None:
    """What guardrails and the check of the split are computed from is the same; no entity is complete."""
    predictions = traffic(1, 300)
    write(settings, [call(p, origin("challenger" if p.challenger else "champion", mode)) for p in predictions],
          told(predictions))  # fmt: skip
    joined = Joined(experiment(mode), PLAN, log_uri=settings.uri or "")
    joined.refresh(experiment(mode))

    (whole,), glance = joined.look(now_s=NOW), joined.glance(now_s=NOW)
    joined.close()

    assert whole.outcomes.champion.predictions > 0
    assert dataclasses.replace(whole, observed=glance.observed, outcomes=glance.outcomes) == glance
    assert len(glance.observed.complete_s) == 0


def test_entities_are_added_up(settings: LogSettings) -> None:
    """Totals, counts, covariates, segments and order of the complete entities are those of a plain loop."""
    predictions = traffic(1, 600)
    write(settings, [call(p, origin("challenger" if p.challenger else "champion")) for p in predictions],
          told(predictions))  # fmt: skip

    observed = look(settings, NOW).observed

    assert isinstance(observed, Entities)
    expected = by_entity(predictions, NOW)
    order = sorted(expected, key=lambda entity: (expected[entity][0].served, entity))
    assert 20 < len(order) < len({whom(p) for p in predictions})
    np.testing.assert_allclose(
        observed.complete_s, [expected[e][0].served + ENTITY_S + WINDOW_S for e in order], atol=1e-5
    )
    assert observed.challenger.tolist() == [expected[e][0].challenger for e in order]
    bought, spent, per_visit, error = observed.sums
    assert bought.total.tolist() == [sum(in_time(p, "outcome") or 0.0 for p in expected[e]) for e in order]
    assert bought.count.tolist() == [len(expected[e]) for e in order]
    assert bought.covariate is not None
    np.testing.assert_allclose(bought.covariate, [expected[e][0].age for e in order])
    np.testing.assert_allclose(spent.total, [sum(in_time(p, "amount") or 0.0 for p in expected[e]) for e in order])
    assert spent.count.tolist() == [sum(in_time(p, "amount") is not None for p in expected[e]) for e in order]
    visits = [sum(in_time(p, "visits") or 0.0 for p in expected[e]) for e in order]
    assert per_visit.count.tolist() == visits
    told_ones = [
        [abs(p.value - (in_time(p, "outcome") or 0.0)) for p in expected[e]
         if in_time(p, "outcome") is not None and not p.failed]
        for e in order
    ]  # fmt: skip
    np.testing.assert_allclose(error.total, [sum(each) for each in told_ones])
    assert error.count.tolist() == [len(each) for each in told_ones]
    (segments,) = observed.segments
    assert [segments.labels[code] for code in segments.codes] == [expected[e][0].country for e in order]


def test_guardrails_exposure_and_crossings_are_counted(settings: LogSettings) -> None:
    """Over all predictions so far, complete or not."""
    predictions = traffic(2, 500)
    write(settings, [call(p, origin("challenger" if p.challenger else "champion")) for p in predictions], [])

    phase = look(settings, NOW)

    seen = [p for p in sorted(predictions, key=lambda p: p.served) if p.served <= NOW]
    first: dict[str, bool] = {}
    arms: dict[str, set[bool]] = defaultdict(set)
    for p in seen:
        first.setdefault(whom(p), p.challenger)
        arms[whom(p)].add(p.challenger)
    assert phase.crossed == sum(len(each) == 2 for each in arms.values()) > 0
    assert (phase.exposure[-1].champion, phase.exposure[-1].challenger) == (
        sum(not one for one in first.values()),
        sum(first.values()),
    )
    assert phase.exposure[-1].at_s == NOW
    assert all(a.at_s < b.at_s and a.champion <= b.champion for a, b in itertools.pairwise(phase.exposure))
    assert phase.unnamed == sum(p.entity is None for p in seen)
    failed, slow = phase.guarded
    mine = [p for p in seen if p.challenger]
    assert (failed.challenger.count, failed.challenger.bad) == (len(mine), sum(p.failed for p in mine))
    timed = [p for p in mine if not math.isnan(p.latency)]
    assert slow.challenger.count == len(timed) < len(mine)
    assert slow.challenger.bad == sum(p.latency > 0.05 for p in timed)
    per_entity: dict[str, int] = defaultdict(int)
    for p in mine:
        per_entity[whom(p)] += 1
    assert failed.challenger.entities == len(per_entity)
    assert failed.challenger.count_squared == sum(n * n for n in per_entity.values())


def test_outcomes_late_doubled_and_orphan_are_counted(settings: LogSettings) -> None:
    """And nothing of them is added up."""
    predictions = traffic(3, 300)
    stranger = dataclasses.replace(predictions[0], id="nobody", outcomes={"outcome": (1.0, 1.0)})
    before = dataclasses.replace(predictions[1], id="outside", outcomes={"outcome": (1.0, 1.0)})
    outcomes = told(predictions)
    write(settings, [*(call(p, origin("challenger" if p.challenger else "champion")) for p in predictions),
                     call(before, origin("champion", experiment_id=None))],
          [*outcomes, *outcomes[:7], (stranger, "outcome"), (before, "outcome")])  # fmt: skip

    found = look(settings, BEGAN + 2000).outcomes

    assert (found.doubled, found.orphan) == (7, 1)
    assert found.late == sum(in_time(p, "outcome") is None for p in predictions if "outcome" in p.outcomes) > 0
    mine = [p for p in predictions if p.challenger]
    assert (found.challenger.predictions, found.challenger.mature) == (len(mine), len(mine))
    in_window = [p for p in mine if any(in_time(p, field) is not None for field in p.outcomes)]
    assert found.challenger.with_outcome == len(in_window)


def test_a_record_that_comes_twice_counts_once(settings: LogSettings) -> None:
    """As after a crash before a commit; what the champion answered for a failed challenger is not its own."""
    predictions = traffic(4, 200)
    calls = [call(p, origin("challenger" if p.challenger else "champion")) for p in predictions]
    fallback = dataclasses.replace(origin("champion"), fallback=True)
    write(settings, calls, told(predictions))
    once = look(settings, NOW)
    write(settings, [*calls, *(call(p, fallback) for p in predictions if p.challenger)], [])

    twice = look(settings, NOW)

    assert twice.guarded == once.guarded
    assert twice.crossed == once.crossed
    assert isinstance(twice.observed, Entities)
    assert isinstance(once.observed, Entities)
    assert twice.observed.sums[0].total.tolist() == once.observed.sums[0].total.tolist()


def test_a_replay_after_a_ramp_changes_nothing(settings: LogSettings) -> None:
    """Rows that are scored again stay with the phase and the variant of their first record, also new challengers'."""
    predictions = [
        dataclasses.replace(p, challenger=i % 20 == 0, entity=f"e{i}") for i, p in enumerate(traffic(4, 200))
    ]
    first = [call(p, origin("challenger" if p.challenger else "champion")) for p in predictions]
    again = [
        call(dataclasses.replace(p, served=p.served + 500), origin("challenger" if i % 2 else "champion", phase=2))
        for i, p in enumerate(predictions)
    ]
    ramped = experiment(shares=(0.05, 0.5))
    phases = []
    for calls, outcomes in ((first, told(predictions)), (again, [])):
        write(settings, calls, outcomes)
        joined = Joined(ramped, PLAN, log_uri=settings.uri or "")
        joined.refresh(ramped)
        phases.append(joined.look(now_s=BEGAN + 2000))
        joined.close()

    before, after = phases
    assert (after[1].exposure[-1].champion, after[1].exposure[-1].challenger) == (0, 0)
    assert (after[0].exposure, after[0].guarded) == (before[0].exposure, before[0].guarded)
    assert after[0].outcomes == before[0].outcomes
    assert after[0].outcomes.champion.with_outcome > 0


def test_what_was_told_before_a_prediction_is_not_credited_to_it(settings: LogSettings) -> None:
    """But for a clock that is a little behind; where both score, the truth is the truth whenever it was known."""
    behind = {"a": 0.0, "b": -4.9, "c": -5.1, "d": -200.0}
    predictions = [
        dataclasses.replace(traffic(1, 1)[0], id=name, entity=name, failed=False, served=BEGAN,
                            outcomes={"outcome": (1.0, after)})
        for name, after in behind.items()
    ]  # fmt: skip
    write(settings, [call(p, origin("champion")) for p in predictions], told(predictions))

    phase, paired = look(settings, BEGAN + 1000), look(settings, BEGAN + 1000, Mode.SHADOW)

    assert isinstance(phase.observed, Entities)
    assert phase.observed.sums[0].total.tolist() == [1.0, 1.0, 0.0, 0.0]
    assert (phase.outcomes.early, phase.outcomes.late, phase.outcomes.champion.with_outcome) == (2, 0, 2)
    assert (paired.outcomes.early, paired.outcomes.champion.with_outcome) == (0, 4)


@pytest.mark.parametrize("mode", [Mode.AB, Mode.SHADOW])
def test_which_record_counts_does_not_depend_on_when_it_was_read(settings: LogSettings, mode: Mode) -> None:
    """Of each id: where it was first, the first success. For a reader of each file as it comes, and of all at once."""
    rng = np.random.default_rng(9)
    records = [
        (dataclasses.replace(p, id=f"p{rng.integers(30)}", served=BEGAN + i, failed=bool(rng.random() < 0.5), value=i),
         int(rng.integers(1, 3)))
        for i, p in enumerate(traffic(9, 150))
    ]  # fmt: skip
    running = experiment(mode, shares=(0.5, 0.5))
    watching = Joined(running, PLAN, log_uri=settings.uri or "")
    for one in rng.permutation(len(records)):
        prediction, phase = records[one]
        log = open_log(settings)
        assert log is not None
        log.put(call(prediction, origin("challenger" if prediction.challenger else "champion", mode, phase=phase)))
        log.close()
        watching.refresh(running)
    beginning = Joined(running, PLAN, log_uri=settings.uri or "")
    beginning.refresh(running)
    query = "SELECT id, challenger, phase, failed, served - {} FROM predictions WHERE counts ORDER BY ALL"
    found = [reader._db.execute(query.format(BEGAN)).fetchall() for reader in (watching, beginning)]
    watching.close()
    beginning.close()

    home: dict[str, tuple[int, bool]] = {}
    best: dict[tuple[str, bool], tuple[bool, float, int]] = {}
    for p, phase in records:
        place = home.setdefault(p.id, (phase, p.challenger))
        if phase == place[0] and (mode.paired or p.challenger == place[1]):
            key = (p.id, p.challenger)
            best[key] = min(best.get(key, (True, math.inf, 0)), (p.failed, p.served - BEGAN, phase))
    expected = sorted((*key, phase, failed, served) for key, (failed, served, phase) in best.items())
    assert found == [expected, expected]


@pytest.mark.parametrize("answer", [math.nan, math.inf, -math.inf, 1e200])
def test_an_answer_that_is_no_finite_number_is_a_failed_one(settings: LogSettings, answer: float) -> None:
    """It counts for the guardrail, is left out of the metric, and is spoken of; what was sure before stays sure."""
    rng = np.random.default_rng(0)
    predictions = [
        dataclasses.replace(p, id=f"p{i}", entity=f"e{i}", challenger=i % 2 == 1, failed=False, served=BEGAN + i / 10,
                            value=answer if i == 999 else float(rng.normal(0, 1 + 2 * (i % 2))),
                            age=answer if i == 998 else p.age, outcomes={"outcome": (0.0, 1.0)})
        for i, p in enumerate(traffic(1, 1000))
    ]  # fmt: skip
    write(settings, [call(p, origin("challenger" if p.challenger else "champion")) for p in predictions],
          told(predictions))  # fmt: skip

    phase = look(settings, BEGAN + 2000)
    analysis = analyse(PLAN, Mode.AB, [phase], now_s=BEGAN + 2000)

    assert (phase.unusable, phase.guarded[0].challenger.bad, phase.guarded[0].champion.bad) == (1, 1, 0)
    assert isinstance(phase.observed, Entities)
    assert phase.observed.sums[3].count.sum() == 999
    assert np.isnan(phase.observed.sums[0].covariate).sum() == 1
    assert all(np.isfinite(sums.total).all() for sums in phase.observed.sums)
    assert analysis.current.effects[3].p_value < 0.001
    assert decide(PLAN, analysis).verdict is Verdict.ROLL_BACK
    (found,) = [check for check in health_checks(PLAN, analysis.current) if check.name == "numbers"]
    assert found.detail.startswith("1 predictions were no finite number")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_an_outcome_that_is_no_finite_number_does_not_count(settings: LogSettings, value: float) -> None:
    """Neither for nor against a variant: it is counted as unusable, and another of the same prediction counts."""
    predictions = [dataclasses.replace(p, entity=p.id, failed=False, outcomes={}) for p in traffic(1, 2)]
    write(settings, [call(p, origin("champion")) for p in predictions], [])
    store_outcomes(
        settings,
        {
            "prediction_id": [p.id for p in predictions],
            "value": [value, value],
            "text": ["", ""],
            "time": pa.array([p.served * 1e6 for p in predictions]).cast(pa.int64()),
        },
    )

    phase = look(settings, BEGAN + 2000)

    assert phase.outcomes.unusable == 2
    assert phase.outcomes.champion.with_outcome == 0
    assert phase.guarded[0].champion.bad == 0


def test_files_of_versions_whose_columns_differ_are_read_together(settings: LogSettings) -> None:
    """Labels and features as numbers, words and hashes, each where it has a meaning; the last class's probability."""
    schemas = [
        Schema(
            fields=(Field(name="age", dtype=DType.FLOAT64), Field(name="country", dtype=DType.INT64)),
            output=Output(task=Task.CLASSIFICATION, classes=(0, 1)),
        ),
        Schema(
            fields=(
                Field(name="age", dtype=DType.FLOAT64, log=LogPolicy.HASH),
                Field(name="country", dtype=DType.STRING),
            ),
            output=Output(task=Task.CLASSIFICATION, classes=("no", "yes")),
        ),
        Schema(
            fields=(Field(name="age", dtype=DType.STRING), Field(name="country", dtype=DType.BOOL)),
            output=Output(task=Task.CLASSIFICATION, classes=(0.5, 1.0)),
        ),
    ]
    columns = [
        Columns(numbers=np.array([[40.0, 7.0]]), strings=()),
        Columns(numbers=np.array([[40.0]]), strings=(["DE"],)),
        Columns(numbers=np.array([[1.0]]), strings=(["41"],)),
    ]
    labels = [np.array([1]), np.array(["yes"], dtype=object), np.array([1.0])]
    for i, (schema, row, label) in enumerate(zip(schemas, columns, labels, strict=True)):
        log = open_log(settings)
        assert log is not None
        by = dataclasses.replace(origin("champion"), schema=schema)
        answer = Predictions(labels=label, probabilities=np.array([[0.4, 0.6]]))
        log.put(
            Call(origin=by, id=f"p{i}", served_s=BEGAN + i, num_rows=1, columns=row, predictions=answer, entities=["e"])
        )
        log.close()

    joined = Joined(experiment(), PLAN, log_uri=settings.uri or "")
    joined.refresh(experiment())
    query = "SELECT label, value, covariate_0, segment_0 FROM predictions ORDER BY id"
    found = joined._db.execute(query).fetchall()
    joined.close()

    assert found == [("1", 0.6, 40.0, "7"), ("yes", 0.6, None, "DE"), ("1", 0.6, 41.0, "true")]


def test_which_outcome_counts_does_not_depend_on_when_it_was_read(settings: LogSettings) -> None:
    """The one that arrived first, and of one import the one that happened first: also when a later file brings it."""
    first = dataclasses.replace(traffic(1, 1)[0], id="p", entity="e", failed=False, served=BEGAN)
    write(settings, [call(first, origin("champion"))], [])
    watching = Joined(experiment(), PLAN, log_uri=settings.uri or "")
    told = [(99.0, 500, 600), (5.0, 3, 20), (7.0, 2, 30), (6.0, 2, 20), (8.0, 2, 20), (4.0, 1, 700)]
    for value, after, received in told:
        outcomes = open_outcomes(settings)
        assert outcomes is not None
        moment = datetime.datetime.fromtimestamp(BEGAN + after, tz=datetime.UTC)
        outcomes.put(Outcomes([Outcome("p", value, "amount", moment)], BEGAN + received))
        outcomes.close()
        watching.refresh(experiment())
    (watched,) = watching.look(now_s=BEGAN + 2000)
    watching.close()

    begun = look(settings, BEGAN + 2000)

    assert watched.outcomes == begun.outcomes
    assert (begun.outcomes.doubled, begun.outcomes.late) == (5, 0)
    for phase in (watched, begun):
        assert isinstance(phase.observed, Entities)
        assert phase.observed.sums[1].total.tolist() == [6.0]


def test_an_entity_is_where_its_first_prediction_was_also_without_a_value(settings: LogSettings) -> None:
    """No covariate of a later prediction, on which the variant may act already; of two at once the same for ever."""
    one = dataclasses.replace(traffic(1, 1)[0], entity="e", failed=False, outcomes={})
    predictions = [
        dataclasses.replace(one, id="p0", served=BEGAN, age=math.nan, country=None),
        dataclasses.replace(one, id="p1", served=BEGAN + 1, age=40.0, country="DE"),
        dataclasses.replace(one, id="q1", entity="f", served=BEGAN, age=50.0, country="FR"),
        dataclasses.replace(one, id="q0", entity="f", served=BEGAN, age=60.0, country="DE"),
    ]
    write(settings, [call(p, origin("champion")) for p in predictions], [])

    observed = look(settings, BEGAN + 2000).observed

    assert isinstance(observed, Entities)
    np.testing.assert_array_equal(observed.sums[0].covariate, [math.nan, 60.0])
    (segments,) = observed.segments
    assert [segments.labels[code] if code >= 0 else None for code in segments.codes] == [None, "DE"]


def test_a_log_of_several_keys_is_in_doubt(settings: LogSettings) -> None:
    """An entity that is hashed by two of them counts as two; of unnamed predictions none is hashed."""
    hashed = settings.model_copy(update={"entity": LogPolicy.HASH})
    named = dataclasses.replace(traffic(1, 1)[0], entity="e", failed=False)
    unnamed = dataclasses.replace(named, id="q", entity=None)

    def write_with(key: str, prediction: Prediction) -> PhaseResult:
        write(hashed.model_copy(update={"hash_key": SecretStr(key * 4)}), [call(prediction, origin("champion"))], [])
        return analyse(PLAN, Mode.AB, [look(settings, NOW)], now_s=NOW).current

    first, second = write_with("first", named), write_with("second", unnamed)
    third = write_with("third", dataclasses.replace(named, id="r"))

    assert [phase.keys for phase in (first, second, third)] == [1, 1, 2]
    assert third.exposure[-1].champion == 3  # two for one, and the unnamed one
    assert "hash keys" in {check.name for check in health_checks(PLAN, third)}
    assert "hash keys" not in {check.name for check in health_checks(PLAN, second)}


def test_new_files_are_taken_in(settings: LogSettings) -> None:
    """A reader that looks again sees what came meanwhile, also outcomes that were not there."""
    predictions = traffic(5, 300)
    calls = [call(p, origin("challenger" if p.challenger else "champion")) for p in predictions]
    write(settings, calls[:100], [])
    joined = Joined(experiment(), PLAN, log_uri=settings.uri or "")
    joined.refresh(experiment())
    (before,) = joined.look(now_s=NOW)
    write(settings, calls[100:], told(predictions))

    joined.refresh(experiment())
    (after,) = joined.look(now_s=NOW)
    joined.close()

    assert before.exposure[-1].champion < after.exposure[-1].champion
    fresh = look(settings, NOW)
    assert after.guarded == fresh.guarded
    assert after.outcomes == fresh.outcomes


def test_pairs_are_of_the_same_predictions(settings: LogSettings) -> None:
    """In the shadow both variants' errors on the same rows stand side by side; rows of one alone are left out."""
    predictions = [dataclasses.replace(p, failed=False) for p in traffic(6, 300)]
    calls = [call(p, origin("champion", Mode.SHADOW)) for p in predictions]
    copied = [p for i, p in enumerate(predictions) if i % 3]
    calls += [call(p, origin("challenger", Mode.SHADOW), value=p.value + 1.0) for p in copied]
    write(settings, calls, told(predictions))

    observed = look(settings, NOW, Mode.SHADOW).observed

    assert isinstance(observed, Pairs)
    counted: dict[str, list[Prediction]] = defaultdict(list)
    start: dict[str, float] = {}
    for p in sorted(predictions, key=lambda p: p.served):
        start.setdefault(whom(p), p.served)
    for p in copied:
        if p.served < start[whom(p)] + ENTITY_S and start[whom(p)] + ENTITY_S + WINDOW_S <= NOW:
            counted[whom(p)].append(p)
    order = sorted(counted, key=lambda e: (start[e], e))

    def errors(shift: float) -> list[float]:
        return [
            sum(abs(p.value + shift - (in_time(p, "outcome") or 0)) for p in counted[e]
                if in_time(p, "outcome") is not None)
            for e in order
        ]  # fmt: skip

    np.testing.assert_allclose(observed.champion[3].total, errors(0.0))
    np.testing.assert_allclose(observed.challenger[3].total, errors(1.0))


@pytest.mark.parametrize(
    ("answer", "right", "wrong"),
    [
        (1, [1, 1.0, "1", True], [0, 0.0, "0", "x", False, 1.5]),
        (1.0, [1, 1.0, "1", True], [0, "0", False, 0.5]),
        (0.5, [0.5, "0.5"], [1, 0, "1", True]),
        (True, [True, "true", 1, 1.0], [False, "false", 0, "yes"]),
        (False, [False, "false", 0], [True, "true", 1]),
        ("True", ["True", True, 1], ["true", "1", False, 0]),
        ("1.0", ["1.0", 1, True], ["1", 0, False]),
        ("yes", ["yes"], ["no", 1, True]),
    ],
)
def test_labels_are_compared_by_what_they_mean(
    settings: LogSettings, answer: float | str, right: list[float | str], wrong: list[float | str]
) -> None:
    """Whole numbers and truth values in whatever type they were told; words only as they were written."""
    other: float | str = "no" if isinstance(answer, str) else type(answer)(0 if answer else 1)
    output = Output(task=Task.CLASSIFICATION, classes=tuple(sorted((answer, other))), has_probabilities=False)
    by = dataclasses.replace(origin("champion"), schema=Schema(fields=SCHEMA.fields, output=output))
    labels = np.array([answer], dtype=object if isinstance(answer, str) else None)
    log, outcomes = open_log(settings), open_outcomes(settings)
    assert log is not None
    assert outcomes is not None
    values = [*right, *wrong]
    moment = datetime.datetime.fromtimestamp(BEGAN, tz=datetime.UTC)
    for i in range(len(values)):
        log.put(
            Call(origin=by, id=f"p{i}", served_s=BEGAN, num_rows=1, entities=[f"e{i:02d}"],
                 predictions=Predictions(labels=labels))
        )  # fmt: skip
    outcomes.put(Outcomes([Outcome(f"p{i}", value, time=moment) for i, value in enumerate(values)], BEGAN + 500))
    log.close()
    outcomes.close()
    plan = Plan(metrics=(MetricPlan(name="right", measure="correct"),), outcome_window_s=10.0, entity_window_s=0.0)
    joined = Joined(experiment(), plan, log_uri=settings.uri or "")
    joined.refresh(experiment())
    (phase,) = joined.look(now_s=BEGAN + 1000)
    joined.close()

    assert isinstance(phase.observed, Entities)
    assert phase.observed.sums[0].total.tolist() == [1.0] * len(right) + [0.0] * len(wrong)


def test_no_answer_of_several_targets_is_compared(settings: LogSettings) -> None:
    """One outcome does not say of which target it is: neither a label nor a probability is held against it."""
    output = Output(
        task=Task.CLASSIFICATION, targets=("a", "b"), target_classes=((0, 1), (0, 1)), has_probabilities=True
    )
    by = dataclasses.replace(origin("champion"), schema=Schema(fields=SCHEMA.fields, output=output))
    predictions = Predictions(labels=np.array([[0, 1]]), probabilities=np.array([[0.6, 0.4, 0.3, 0.7]]))
    log = open_log(settings)
    assert log is not None
    log.put(Call(origin=by, id="p", served_s=BEGAN, num_rows=1, entities=["e"], predictions=predictions))
    log.close()

    joined = Joined(experiment(), PLAN, log_uri=settings.uri or "")
    joined.refresh(experiment())
    found = joined._db.execute("SELECT label, value FROM predictions").fetchall()
    joined.close()

    assert found == [(None, None)]


def test_a_table_of_outcomes_is_the_same_as_messages(settings: LogSettings, tmp_path: Path) -> None:
    """Imported from Parquet, with times, nulls left out."""
    predictions = [p for p in traffic(8, 200) if "outcome" in p.outcomes]
    write(settings, [call(p, origin("challenger" if p.challenger else "champion")) for p in predictions], [])
    frame = pd.DataFrame(
        {
            "prediction_id": [p.id for p in predictions] + ["p0"],
            "bought": [p.outcomes["outcome"][0] for p in predictions] + [None],
            "at": pd.to_datetime([p.served + p.outcomes["outcome"][1] for p in predictions] + [BEGAN], unit="s",
                                 utc=True),
        }
    )  # fmt: skip
    frame.to_parquet(tmp_path / "told.parquet", index=False)

    added = import_outcomes(
        settings.uri or "", tmp_path / "told.parquet", id_column="prediction_id", value_column="bought",
        time_column="at",
    )  # fmt: skip

    assert added == len(predictions)
    observed = look(settings, NOW).observed
    assert isinstance(observed, Entities)
    expected = by_entity(predictions, NOW)
    order = sorted(expected, key=lambda e: (expected[e][0].served, e))
    assert observed.sums[0].total.tolist() == [sum(in_time(p, "outcome") or 0 for p in expected[e]) for e in order]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"outcome": [1.0, float("inf")]}, InvalidInputError, "finite numbers, got infinity - at column `outcome`"),
        ({"at": [1_760_000_000, 1_760_000_001]}, SchemaMismatchError, "with their zone, got `int64` - at column `at`"),
        ({"at": pd.to_datetime([1, 2], unit="s")}, SchemaMismatchError, "with their zone"),
        ({"outcome": [[1.0], [2.0]]}, SchemaMismatchError, "Expected numbers, booleans or text"),
        ({"prediction_id": [1.5, 2.5]}, SchemaMismatchError, "Expected ids of text or whole numbers, got `double`"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_outcomes_adds_none(
    settings: LogSettings, tmp_path: Path, columns: dict[str, object], error: type[Exception], message: str
) -> None:
    """Not even of its files that could be."""
    good = {
        "prediction_id": ["a", "b"], "outcome": [1.0, float("nan")], "at": pd.to_datetime([1, 2], unit="s", utc=True)
    }  # fmt: skip
    (tmp_path / "told").mkdir()
    pd.DataFrame(good).to_parquet(tmp_path / "told/1.parquet", index=False)
    uri = settings.uri or ""
    pd.DataFrame(good | columns).to_parquet(tmp_path / "told/0.parquet", index=False)

    with pytest.raises(error, match=message):
        import_outcomes(uri, tmp_path / "told", id_column="prediction_id", value_column="outcome", time_column="at")

    assert not (Path(uri) / "outcomes").exists()
    (tmp_path / "told/0.parquet").unlink()
    added = import_outcomes(uri, tmp_path / "told", id_column="prediction_id", value_column="outcome", time_column="at")
    assert added == 1


def test_what_could_not_be_read_is_read_later(settings: LogSettings) -> None:
    """Outcomes are in when a file of predictions proves to be none: nothing is forgotten, nothing counted twice."""
    predictions = traffic(4, 300)
    told = [(p, field) for p in predictions for field in p.outcomes]
    write(settings, [call(p, origin("challenger" if p.challenger else "champion")) for p in predictions], told)
    assert settings.uri is not None
    whole = look(settings, NOW)
    log = next(Path(settings.uri, "log").rglob("*.parquet")).parent

    joined = Joined(experiment(), PLAN, log_uri=settings.uri)
    (log / "broken.parquet").write_bytes(b"PAR1")
    for _ in range(2):
        with pytest.raises(pa.ArrowInvalid):
            joined.refresh(experiment())
    (log / "broken.parquet").unlink()
    joined.refresh(experiment())
    (phase,) = joined.look(now_s=NOW)
    joined.close()

    assert (phase.exposure, phase.guarded, phase.outcomes) == (whole.exposure, whole.guarded, whole.outcomes)
