"""A log in a bucket: written by several, read while it grows."""

from __future__ import annotations

import dataclasses
import uuid

import pytest

from tests.unit.experiment.test_joining import BEGAN, NOW, PLAN, call, experiment, origin, traffic
from zaphod.experiment.joining import Joined
from zaphod.monitoring.log import open_log
from zaphod.monitoring.outcomes import Outcome, Outcomes, open_outcomes
from zaphod.monitoring.settings import LogSettings


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_predictions_and_outcomes_of_a_bucket_are_joined(request: pytest.FixtureRequest, kind: str) -> None:
    """Two writers that hash alike, and what comes between two looks; nothing is counted twice."""
    uri = f"{request.getfixturevalue(kind)}/{uuid.uuid4().hex}"
    # One entity: that it is one shows that both writers hash alike.
    predictions = [dataclasses.replace(each, entity="one and only", challenger=False) for each in traffic(1, 40)]
    joined = Joined(experiment(), PLAN, log_uri=uri)
    counts = []
    for part in (predictions[:20], predictions[20:]):
        log, outcomes = open_log(LogSettings(uri=uri)), open_outcomes(LogSettings(uri=uri))
        assert log is not None
        assert outcomes is not None
        for each in part:
            log.put(call(each, origin("champion")))
            outcomes.put(Outcomes([Outcome(each.id, 1.0)], BEGAN + 1000))
        log.close()
        outcomes.close()
        assert (log.counts.written, outcomes.counts.written) == (20, 20)
        joined.refresh(experiment())
        (phase,) = joined.look(now_s=NOW + 1000)
        counts.append((phase.guarded[0].champion.entities, phase.guarded[0].champion.count, phase.outcomes.orphan))
    joined.close()

    assert counts == [(1, 20.0, 0), (1, 40.0, 0)]
