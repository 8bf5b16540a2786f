"""`POST /v1/outcomes`: what came of predictions."""

from __future__ import annotations

import msgspec

from deployments.protocols.base import Response
from zaphod.errors import ConfigError, LimitExceededError, OverloadedError
from zaphod.monitoring.outcomes import OutcomeLog, decode_outcomes

PATH = "/v1/outcomes"


class OutcomeInbox:
    """Takes outcomes into the log; answers before they are in a file, which they are within `monitoring.flush_s`."""

    def __init__(self, log: OutcomeLog | None, *, max_rows: int) -> None:
        self._log = log
        self._max_rows = max_rows

    def take(self, body: bytes) -> Response:
        """202.

        Raises: InvalidInputError, DecodeError; OverloadedError, LogFullError when there is no room; ConfigError when
            nothing is logged here.
        """
        if self._log is None:
            raise ConfigError("Cannot take outcomes: this server has no prediction log. Set monitoring.uri.")
        outcomes = decode_outcomes(body)
        if outcomes.num_rows > self._max_rows:
            raise LimitExceededError(
                f"Expected at most {self._max_rows} outcomes (max_rows), got {outcomes.num_rows} - at `$.outcomes`"
            )
        if not self._log.put(outcomes):
            raise OverloadedError("Cannot take more outcomes: the log's storage is too slow. Send them again later.")
        return Response(202, msgspec.json.encode({"accepted": outcomes.num_rows}))
