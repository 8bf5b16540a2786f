"""Outcomes are taken as they are meant, and refused with the place that is wrong."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from deployments.identity import identify
from deployments.outcomes import OutcomeInbox
from zaphod.errors import ConfigError, DecodeError, InvalidInputError, LimitExceededError, OverloadedError
from zaphod.monitoring.outcomes import decode_outcomes, open_outcomes
from zaphod.monitoring.settings import LogSettings

ONE = b'{"outcomes": [{"prediction_id": "p", "value": 1}]}'


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (b"{", DecodeError, "Expected JSON"),
        (b'{"outcomes": []}', InvalidInputError, "at least one"),
        (b'{"outcomes": [{"value": 1}]}', InvalidInputError, "prediction_id"),
        (b'{"outcomes": [{"prediction_id": "", "value": 1}]}', InvalidInputError, "empty"),
        (b'{"outcomes": [{"prediction_id": "p", "value": null}]}', InvalidInputError, "value"),
        (b'{"outcomes": [{"prediction_id": "p", "value": 1, "when": 2}]}', InvalidInputError, "when"),
        (
            b'{"outcomes": [{"prediction_id": "p", "value": 1, "time": "2026-01-01T00:00:00"}]}',
            InvalidInputError,
            "zone",
        ),
    ],
)
def test_what_is_no_outcome_is_refused(body: bytes, error: type[InvalidInputError], words: str) -> None:
    """The message names what was expected."""
    with pytest.raises(error, match=words):
        decode_outcomes(body)


def test_the_inbox_takes_and_refuses(tmp_path: Path) -> None:
    """202 for what is in the log soon; too many, no room and no log are told apart."""
    log = open_outcomes(LogSettings(uri=str(tmp_path), flush_s=600, max_rows=1))
    inbox = OutcomeInbox(log, max_rows=2)
    assert log is not None

    answer = inbox.take(ONE)
    with pytest.raises(OverloadedError):
        inbox.take(ONE)
    with pytest.raises(LimitExceededError):
        inbox.take(b'{"outcomes": [' + b",".join([b'{"prediction_id": "p", "value": 1}'] * 3) + b"]}")
    with pytest.raises(ConfigError, match=r"monitoring\.uri"):
        OutcomeInbox(None, max_rows=2).take(ONE)
    log.close()

    assert (answer.status, answer.body) == (202, b'{"accepted":1}')
    (file,) = tmp_path.rglob("*.parquet")
    assert pq.read_table(file).select(["prediction_id", "value", "text"]).to_pylist() == [
        {"prediction_id": "p", "value": 1.0, "text": "1"}
    ]


def test_headers_name_entity_and_prediction() -> None:
    """As text; anything else is refused with the header's name, without its value."""
    named = identify([(b"accept", b"*/*"), (b"x-zaphod-entity", "Zoë".encode()), (b"x-zaphod-prediction-id", b"p-1")])

    assert (named.entity, named.id) == ("Zoë", "p-1")
    for value in (b"", b"x" * 201, b"\xff"):
        with pytest.raises(InvalidInputError, match="x-zaphod-entity") as caught:
            identify([(b"x-zaphod-entity", value)])
        assert "xxx" not in caught.value.message
