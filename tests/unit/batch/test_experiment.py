"""A batch run logs what it predicts and takes part in the running experiment, as the other arms do."""

from __future__ import annotations

import io
import secrets
import time
from pathlib import Path

import duckdb
import msgspec
import pandas as pd
import pytest
from rich.console import Console

from batch.__main__ import show_outcome, show_plan
from batch.commit import Staging
from batch.preflight import preflight
from batch.score import score_unit
from batch.settings import BatchSettings
from tests import models
from tests.batch import tables
from zaphod.bundle import Bundle
from zaphod.columns import Columns
from zaphod.errors import BatchError, ConfigError, PredictionError
from zaphod.experiment.assignment import Splitter, threshold_of
from zaphod.experiment.plan import MetricPlan, Plan
from zaphod.experiment.spec import Experiment, Mode, Phase, write_plan
from zaphod.predictor import Predictions
from zaphod.registry import Registry
from zaphod.sklearn_predictor import SklearnPredictor

NUM_ROWS = 3 * 200


@pytest.fixture
def constants(constant_models: Registry, tmp_path: Path) -> Registry:
    """Version 1 says 1 and is champion, version 2 says 2."""
    return models.copy(constant_models, tmp_path)


def begin(registry: Registry, mode: Mode) -> None:
    """Half of the entities, where it splits."""
    experiment = Experiment(
        id=f"exp-{secrets.token_hex(2)}", model="constant", mode=mode, champion=1, challenger=2, salt="salt",
        phases=(Phase(number=1, share=0.5, started_s=time.time()),),
        plan=write_plan(Plan(metrics=(MetricPlan(name="m", measure="correct"),))),
    )  # fmt: skip
    before = registry.state("constant")
    registry.append("constant", before=before, experiment=experiment, action="test", why="test")


def score(home: Path, registry: Registry, **changes: object) -> pd.DataFrame:
    """The predictions of a whole job, by id."""
    if not (home / "input").exists():
        tables.write_input(home / "input")
    values = {"model": "constant", "monitoring": {"uri": str(home / "monitoring"), "features": False}, **changes}
    outcome = tables.run(tables.make_settings(home, registry, **values))
    return pd.read_parquet(outcome.predictions).set_index("id").sort_index()


def logged(home: Path) -> pd.DataFrame:
    """Every record."""
    return duckdb.read_parquet(f"{home}/monitoring/log/**/*.parquet", union_by_name=True).to_arrow_table().to_pandas()


def test_every_prediction_and_reject_is_logged(tmp_path: Path, constants: Registry) -> None:
    """With an id that leads to its row in the input, and without what was asked; a job done again adds no other ids."""
    paths = tables.write_input(tmp_path / "input")
    bad = pd.read_parquet(paths[0])
    bad.loc[7, "amount"] = float("inf")
    tables.write_file(paths[0], bad)

    score(tmp_path, constants, entity="id")

    records = logged(tmp_path)
    assert len(records) == NUM_ROWS
    (refused,) = records[records["status"] == "refused"].to_dict("records")
    assert (refused["row"], refused["error"], refused["error_field"]) == (7, "invalid_input", "amount")
    scored = records[records["status"] == "ok"]
    assert scored["entity"].nunique() == NUM_ROWS - 1
    assert set(scored["output.value"]) == {1.0}
    assert set(scored["arm"]) == {"batch"}
    assert not [name for name in records if name.startswith("feature.")]
    assert len(set(zip(records["call"], records["row"], strict=True))) == NUM_ROWS


def test_rows_that_the_log_has_no_room_for_are_told(tmp_path: Path, constants: Registry) -> None:
    """In the manifest and to people: with the others they are all rows, and every row has its prediction."""
    tables.write_input(tmp_path / "input")
    log = {"uri": str(tmp_path / "monitoring"), "max_rows": 50, "flush_s": 3600.0}

    outcome = tables.run(tables.make_settings(tmp_path, constants, model="constant", monitoring=log))

    unlogged = outcome.manifest.timing.rows_unlogged
    assert unlogged > 0
    assert len(logged(tmp_path)) == NUM_ROWS - unlogged
    assert outcome.manifest.rows_out == NUM_ROWS
    said = io.StringIO()
    show_outcome(Console(file=said, width=200), outcome)
    assert f"not logged   {unlogged} rows" in said.getvalue()


def test_rows_that_wait_for_the_logs_storage_are_told(
    tmp_path: Path, constants: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may still be lost with their process: those of each unit once."""
    tables.write_input(tmp_path / "input")
    log = {"uri": str(tmp_path / "monitoring"), "flush_s": 3600.0}
    monkeypatch.setattr("zaphod.monitoring.segments.SegmentWriter.flush", lambda _: False)
    monkeypatch.setattr("zaphod.monitoring.segments.SegmentWriter.hurry", lambda _: None)

    outcome = tables.run(tables.make_settings(tmp_path, constants, model="constant", monitoring=log))

    assert outcome.manifest.timing.rows_unlogged == NUM_ROWS


def test_rows_are_split_as_online(tmp_path: Path, constants: Registry) -> None:
    """Each entity has the variant that the assignment gives it anywhere; the files say who answered."""
    begin(constants, Mode.AB)

    got = score(tmp_path, constants, entity="id")

    mine = [Splitter("salt").bucket(entity) < threshold_of(0.5) for entity in got.index]
    assert got["value"].tolist() == [2.0 if challenger else 1.0 for challenger in mine]
    assert got["model_version"].tolist() == [2 if challenger else 1 for challenger in mine]
    assert got["variant"].tolist() == ["challenger" if challenger else "champion" for challenger in mine]
    records = logged(tmp_path)
    assert len(records) == NUM_ROWS
    assert (records["variant"] == "challenger").sum() == sum(mine)
    assert set(records["reason"]) == {"entity"}


def test_without_an_entity_a_row_goes_by_its_id(tmp_path: Path, constants: Registry) -> None:
    """The split is about half, marked, and the same when the job is done again elsewhere."""
    begin(constants, Mode.AB)

    first = score(tmp_path, constants)
    again = score(tmp_path, constants, output=str(tmp_path / "elsewhere"))

    assert 0.4 < (first["variant"] == "challenger").mean() < 0.6
    assert first["variant"].equals(again["variant"])
    assert set(logged(tmp_path)["reason"]) == {"prediction_id"}


def test_without_an_entity_carried_rows_stay_where_they_are(tmp_path: Path, constants: Registry) -> None:
    """An incremental run is that which scores everything: its rows have the same variant and the same id in the log."""
    begin(constants, Mode.AB)
    score(tmp_path, constants)
    first = logged(tmp_path)
    tables.write_file(tmp_path / "input" / "part-9.parquet", tables.frame(100, seed=9))

    carried = tables.run(tables.make_settings(tmp_path, constants, model="constant", incremental=True))
    whole = tables.run(
        tables.make_settings(
            tmp_path, constants, model="constant", output=str(tmp_path / "whole"),
            monitoring={"uri": str(tmp_path / "again"), "features": False},
        )
    )  # fmt: skip

    assert carried.manifest.timing.carried_units == 6
    folders = [Path(outcome.predictions).parent for outcome in (carried, whole)]
    assert tables.content(folders[0]) == tables.content(folders[1])
    again = duckdb.read_parquet(f"{tmp_path}/again/log/**/*.parquet").to_arrow_table().to_pandas()
    names = [set(zip(records["call"], records["row"], strict=True)) for records in (first, again)]
    assert names[0] < names[1]


def ids(records: pd.DataFrame) -> set[str]:
    """The prediction ids of the log."""
    return {f"{call}-{row}" for call, row in zip(records["call"], records["row"], strict=True)}


@pytest.mark.parametrize("mode", [None, *Mode])
def test_predictions_carry_the_id_of_the_log(tmp_path: Path, constants: Registry, mode: Mode | None) -> None:
    """By the setting, and always while an experiment runs: every row's own, past rejected rows, in folders by a column,
    and in what an incremental run carries over.
    """
    paths = tables.write_input(tmp_path / "input")
    bad = pd.read_parquet(paths[0])
    bad.loc[7, "amount"] = float("inf")
    tables.write_file(paths[0], bad)
    if mode is not None:
        begin(constants, mode)
    changes: dict[str, object] = {"prediction_id": mode is None, "keep": ["id", "count"], "partition_by": ["count"]}
    score(tmp_path, constants, **changes)
    tables.write_file(tmp_path / "input" / "part-9.parquet", tables.frame(100, seed=9))

    got = score(tmp_path, constants, incremental=True, **changes)

    records = logged(tmp_path).query("status == 'ok'")
    assert len(got) == NUM_ROWS + 100 - 1
    assert set(got["prediction_id"]) == ids(records)
    position = got["prediction_id"].str.rsplit("-", n=1).str[1]
    assert (position == got.index.str.split("-").str[1]).all()
    names = {path.stem: i for i, path in enumerate(paths)} | {"part-9": 9}
    assert (got["prediction_id"].str[:6].map(names).astype(str) == got.index.str.split("-").str[0]).all()


def test_predictions_have_no_id_unasked(tmp_path: Path, constants: Registry) -> None:
    """It takes room, and without an experiment outcomes are no matter."""
    assert "prediction_id" not in score(tmp_path, constants)
    with pytest.raises(ConfigError, match="prediction_id"):
        score(tmp_path, constants, keep=["id", "prediction_id"], prediction_id=True)


def test_both_score_every_row_when_interleaved(tmp_path: Path, constants: Registry) -> None:
    """The champion's answer is the prediction; the challenger's stands beside it, in the files and in the log."""
    begin(constants, Mode.INTERLEAVE)

    got = score(tmp_path, constants, entity="id")

    assert set(got["value"]) == {1.0}
    assert set(got["challenger_value"]) == {2.0}
    records = logged(tmp_path).groupby("variant")
    assert records.size().to_dict() == {"champion": NUM_ROWS, "challenger": NUM_ROWS}
    assert records["answered"].first().to_dict() == {"champion": True, "challenger": False}


def test_a_job_may_stay_out(tmp_path: Path, constants: Registry) -> None:
    """With `experiment: false`, with a pinned version, and with another challenger of its own."""
    begin(constants, Mode.AB)

    for changes in ({"experiment": False}, {"model": "constant@1"}):
        assert set(score(tmp_path, constants, **changes)["value"]) == {1.0}


def test_a_phase_is_a_run_of_its_own(tmp_path: Path, constants: Registry) -> None:
    """The same job after a ramp is not taken for one that is done."""
    begin(constants, Mode.AB)
    before = score(tmp_path, constants, entity="id")
    state = constants.state("constant")
    assert state.experiment is not None
    later = msgspec.structs.replace(
        state.experiment, phases=(*state.experiment.phases, Phase(number=2, share=1.0, started_s=time.time()))
    )
    constants.append("constant", before=state, experiment=later, action="test", why="test")

    after = score(tmp_path, constants, entity="id")

    assert set(before["value"]) == {1.0, 2.0}
    assert set(after["value"]) == {2.0}


def test_an_entity_nobody_reads_is_refused(tmp_path: Path, constants: Registry) -> None:
    """A column that is neither kept nor a field would be missing in every file."""
    with pytest.raises(ConfigError, match="Name it in keep"):
        score(tmp_path, constants, entity="customer")


def test_a_challenger_in_the_shadow_is_recorded_and_nothing_else(tmp_path: Path, constants: Registry) -> None:
    """The files are those of a job without it; the log has what it says of its share of the entities."""
    before = score(tmp_path, constants, entity="id", output=str(tmp_path / "before"))
    begin(constants, Mode.SHADOW)

    got = score(tmp_path, constants, entity="id")

    pd.testing.assert_frame_equal(got.drop(columns="prediction_id"), before)
    records = logged(tmp_path)
    shadow = records[records["variant"] == "challenger"]
    mine = {entity for entity in got.index if Splitter("salt").bucket(entity) < threshold_of(0.5)}
    assert set(shadow["mode"]) == {"shadow"}
    assert len(shadow) == len(mine)
    assert set(shadow["output.value"]) == {2.0}
    assert not shadow["answered"].any()
    assert (records["variant"] == "champion").sum() == 2 * NUM_ROWS


def test_a_shadow_that_fails_costs_nothing(
    tmp_path: Path, constants: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its failure stands in the log; every row has the champion's answer."""
    begin(constants, Mode.SHADOW)
    predict = SklearnPredictor.predict

    def refuse(self: SklearnPredictor, columns: Columns) -> Predictions:
        answer = predict(self, columns)
        if answer.values is not None and (answer.values == 2.0).any():
            raise PredictionError("Cannot predict: it is broken.")
        return answer

    monkeypatch.setattr(SklearnPredictor, "predict", refuse)
    monkeypatch.setattr(Bundle, "load_predictor", Bundle.load_reference)

    got = score(tmp_path, constants, entity="id")

    assert set(got["value"]) == {1.0}
    shadow = logged(tmp_path).query("variant == 'challenger'")
    assert set(shadow["status"]) == {"failed"}


@pytest.mark.parametrize("mode", [Mode.AB, Mode.SHADOW])
def test_a_row_on_which_the_challenger_fails_is_alone_in_it(
    tmp_path: Path, constants: Registry, monkeypatch: pytest.MonkeyPatch, mode: Mode
) -> None:
    """Its neighbours keep the challenger's answers, and it has the champion's."""
    begin(constants, mode)
    bad = next(row for row in range(200) if Splitter("salt").bucket(f"0-{row}") < threshold_of(0.5))
    paths = tables.write_input(tmp_path / "input")
    rows = pd.read_parquet(paths[0])
    rows.loc[bad, "amount"] = 98_765.0
    tables.write_file(paths[0], rows)
    predict = SklearnPredictor.predict

    def refuse(self: SklearnPredictor, columns: Columns) -> Predictions:
        answer = predict(self, columns)
        if answer.values is not None and (answer.values == 2.0).any() and (columns.numbers == 98_765.0).any():
            raise PredictionError("Cannot predict: it is broken.")
        return answer

    monkeypatch.setattr(SklearnPredictor, "predict", refuse)
    monkeypatch.setattr(Bundle, "load_predictor", Bundle.load_reference)

    got = score(tmp_path, constants, entity="id")

    mine = {entity for entity in got.index if Splitter("salt").bucket(entity) < threshold_of(0.5)}
    records = logged(tmp_path).query("variant == 'challenger'")
    assert len(records) == len(mine)
    assert records.query("status != 'ok'")["row"].tolist() == [bad]
    answered = mine - {f"0-{bad}"} if mode is Mode.AB else set()
    assert set(got.index[got["value"] == 2.0]) == answered


def test_a_champion_that_fails_ends_the_job(
    tmp_path: Path, constants: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are no fault of the data: they are not rejected, and the file is named."""
    paths = tables.write_input(tmp_path / "input")
    rows = pd.read_parquet(paths[1])
    rows.loc[70, "amount"] = 98_765.0
    tables.write_file(paths[1], rows)
    predict = SklearnPredictor.predict

    def refuse(self: SklearnPredictor, columns: Columns) -> Predictions:
        if (columns.numbers == 98_765.0).any():
            raise PredictionError("Cannot predict: it is broken.")
        return predict(self, columns)

    monkeypatch.setattr(SklearnPredictor, "predict", refuse)
    monkeypatch.setattr(Bundle, "load_predictor", Bundle.load_reference)

    with pytest.raises(BatchError, match=r"it is broken\. \(in part-1\.parquet\)"):
        score(tmp_path, constants)

    assert not (tmp_path / "output" / "runs").exists()


def test_a_unit_whose_process_died_is_done_without_the_shadow(tmp_path: Path, constants: Registry) -> None:
    """It may have died of it."""
    begin(constants, Mode.SHADOW)
    tables.write_input(tmp_path / "input")
    settings = tables.make_settings(
        tmp_path, constants, model="constant", monitoring={"uri": str(tmp_path / "monitoring"), "features": False}
    )
    ready = preflight(settings)
    unit = ready.plan.units[0]
    Staging.open(settings.output, ready.plan.run_id).note_attempt(unit.id)

    assert score_unit(unit, ready.work).error is None

    assert set(logged(tmp_path)["variant"]) == {"champion"}


def said(settings: BatchSettings) -> str:
    """What the command tells before the work."""
    output = io.StringIO()
    show_plan(Console(file=output, width=200), preflight(settings), settings)
    return output.getvalue()


def test_a_shadow_that_cannot_be_asked_is_left_out(tmp_path: Path, constants: Registry) -> None:
    """Without a log there is nowhere to record it; a broken bundle does not end the job."""
    begin(constants, Mode.SHADOW)
    tables.write_input(tmp_path / "input")
    without_log = tables.make_settings(tmp_path, constants, model="constant")
    with_log = tables.make_settings(
        tmp_path, constants, model="constant", monitoring={"uri": str(tmp_path / "monitoring"), "features": False}
    )
    assert "constant@2 in the shadow scores 50% of the rows too" in said(with_log)
    assert "without the challenger in the shadow: there is no prediction log" in said(without_log)

    (tmp_path / "registry/constant/2/model.skops").write_bytes(b"broken")

    ready = preflight(with_log)
    assert ready.left_out is not None
    assert ready.work.entry is None
