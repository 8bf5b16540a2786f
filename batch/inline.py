"""Units to receipts in this very process: for a job that is done before Ray would have started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from batch.commit import Receipt
from batch.job import Execute
from batch.plan import Unit
from batch.score import Work, score_unit


@contextlib.contextmanager
def inline_executor() -> Iterator[Execute]:
    """One unit after the other, on one core."""

    def execute(units: Sequence[Unit], work: Work) -> Iterator[Receipt]:
        for unit in units:
            yield score_unit(unit, work)

    yield execute
