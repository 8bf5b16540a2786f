"""One look at one phase: what the statistics are computed from, added up by DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import duckdb
import numpy as np
from numpy.typing import NDArray

from zaphod.experiment.plan import GuardrailPlan, MetricPlan, Plan
from zaphod.experiment.samples import (
    BadShare,
    Coverage,
    Entities,
    Exposed,
    Guarded,
    Outcomes,
    Pairs,
    PhaseData,
    Segmentation,
    Sums,
)
from zaphod.experiment.spec import Mode, Phase

_POINTS = 200
_MAX_SEGMENTS = 50
# By so much the clock of who tells an outcome may be behind.
_CLOCK_SLACK_S = 5.0

Column: TypeAlias = NDArray[np.float64]


class PhaseQuery:
    """now_s: the moment of the look, seconds since the epoch. Tables: see `joining`."""

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        plan: Plan,
        *,
        mode: Mode,
        now_s: float,
        covariates: Sequence[str],
        with_outcomes: bool = True,
    ) -> None:
        """with_outcomes: also what came of predictions, which takes most of the time; else no entity is complete."""
        self._db = db
        self._plan = plan
        self._mode = mode
        self._now_s = now_s
        self._covariates = list(covariates)
        self._with_outcomes = with_outcomes
        per = [metric.per for metric in plan.metrics if metric.per is not None]
        self._fields = list(dict.fromkeys([*(metric.field for metric in plan.metrics), *per]))

    def phase(self, phase: Phase) -> PhaseData:
        """Predictions served after the moment of the look are not in it."""
        self._db.execute(
            "CREATE OR REPLACE TEMP VIEW phase AS SELECT * FROM predictions "
            f"WHERE counts AND phase = {int(phase.number)} AND served <= {float(self._now_s)!r}"
        )
        self._make_firsts()
        return PhaseData(
            number=phase.number,
            share=phase.share,
            started_s=phase.started_s,
            exposure=self._exposure(phase),
            crossed=0 if self._mode.paired else self._number("SELECT count(*) FROM firsts WHERE both_answered"),
            guarded=tuple(self._guarded(guardrail) for guardrail in self._plan.guardrails),
            outcomes=self._outcomes() if self._with_outcomes else Outcomes(Coverage(0, 0, 0), Coverage(0, 0, 0)),
            observed=self._pairs() if self._mode.paired else self._entities(),
            unnamed=self._number("SELECT count(*) FROM firsts WHERE NOT named"),
            unusable=self._number("SELECT count(*) FROM phase WHERE unusable"),
            keys=self._number("SELECT count(DISTINCT key) FROM phase WHERE named"),
        )

    def _make_firsts(self) -> None:
        """Each entity with its first prediction of the phase, and of that one what may be null as well."""
        firsts = [f"arg_min_null(covariate_{i}, (served, id)) AS covariate_{i}" for i in range(len(self._covariates))]
        firsts += [f"arg_min_null(segment_{i}, (served, id)) AS segment_{i}" for i in range(len(self._plan.segments))]
        self._db.execute(
            "CREATE OR REPLACE TEMP TABLE firsts AS SELECT entity, min(served) AS first, "
            "arg_min(id, (served, id)) AS first_id, arg_min(challenger, (served, id)) AS challenger, "
            "bool_or(named) AS named, bool_or(challenger) <> bool_and(challenger) AS both_answered"
            f"{''.join(', ' + each for each in firsts)} FROM phase GROUP BY entity"
        )

    def _exposure(self, phase: Phase) -> tuple[Exposed, ...]:
        width = max((self._now_s - phase.started_s) / _POINTS, 1e-3)
        source = "firsts"
        if self._mode.paired:
            source = "(SELECT entity, challenger, min(served) AS first FROM phase GROUP BY ALL)"
        rows = self._rows(
            f"SELECT greatest(0, floor((first - {phase.started_s!r}) / {width!r})) AS bin, "
            "count(*) FILTER (NOT challenger), count(*) FILTER (challenger) "
            f"FROM {source} GROUP BY bin ORDER BY bin"
        )
        exposed: list[Exposed] = []
        champion = challenger = 0
        for position, mine, theirs in rows:
            champion, challenger = champion + int(mine), challenger + int(theirs)
            at_s = min(phase.started_s + (position + 1) * width, self._now_s)
            exposed.append(Exposed(at_s=at_s, champion=champion, challenger=challenger))
        if not exposed or exposed[-1].at_s < self._now_s:
            exposed.append(Exposed(at_s=self._now_s, champion=champion, challenger=challenger))
        return tuple(exposed)

    def _guarded(self, guardrail: GuardrailPlan) -> Guarded:
        bad, judged = "failed", "true"
        if guardrail.bad == "slow":
            assert guardrail.objective_ms is not None  # the plan has checked it
            # Of calls that a shadow scores together one is timed.
            bad, judged = f"(latency > {guardrail.objective_ms / 1000!r})", "latency IS NOT NULL"
        rows = self._rows(
            "SELECT challenger, count(*), sum(n), sum(b), sum(n * n), sum(b * b), sum(n * b) FROM ("
            f"SELECT challenger, entity, count(*)::DOUBLE AS n, sum({bad}::INTEGER)::DOUBLE AS b "
            f"FROM phase WHERE {judged} GROUP BY challenger, entity) GROUP BY challenger"
        )
        shares = {bool(row[0]): BadShare(int(row[1]), *(float(value) for value in row[2:])) for row in rows}
        nothing = BadShare(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        return Guarded(champion=shares.get(False, nothing), challenger=shares.get(True, nothing))

    def _outcomes(self) -> Outcomes:
        mature = f"p.served + {self._plan.outcome_window_s!r} <= {self._now_s!r}"
        all_of = self._counts("SELECT challenger, count(*) FROM phase GROUP BY challenger")
        mature_of = self._counts(f"SELECT challenger, count(*) FROM phase p WHERE {mature} GROUP BY challenger")
        told_of = self._counts(
            f"SELECT challenger, count(*) FROM phase p SEMI JOIN outcomes o ON o.id = p.id AND {self._in_time('o')} "
            f"WHERE {mature} GROUP BY challenger"
        )
        ((late, early),) = self._rows(
            f"SELECT count(*) FILTER (o.moment > p.served + {self._plan.outcome_window_s!r}), "
            f"count(*) FILTER ({self._early('o')}) "
            f"FROM outcomes o JOIN phase p USING (id) WHERE NOT (p.challenger AND {self._mode.paired})"
        )
        return Outcomes(
            champion=Coverage(all_of[False], mature_of[False], told_of[False]),
            challenger=Coverage(all_of[True], mature_of[True], told_of[True]),
            late=int(late),
            early=int(early),
            doubled=self._number("SELECT count(*) FROM doubled WHERE id IN (SELECT id FROM phase)"),
            unusable=self._number("SELECT count(*) FROM unusable WHERE id IN (SELECT id FROM phase)"),
            orphan=self._number(
                "SELECT count(*) FROM outcomes WHERE id NOT IN (SELECT id FROM predictions) "
                "AND id NOT IN (SELECT id FROM others)"
            ),
        )

    def _entities(self) -> Entities:
        sums = ", ".join(self._sums_of(i, metric, "p") for i, metric in enumerate(self._plan.metrics))
        columns = self._columns(
            f"SELECT {self._complete_s()} AS complete_s, any_value(f.challenger) AS challenger, {sums}{self._firsts()} "
            f"FROM phase p JOIN firsts f USING (entity) {self._outcome_joins()} "
            f"WHERE NOT f.both_answered AND {self._counted()} GROUP BY entity ORDER BY complete_s, entity"
        )
        return Entities(
            complete_s=columns["complete_s"].astype(np.float64),
            challenger=columns["challenger"].astype(bool),
            sums=self._sums(columns, "p"),
            segments=self._segmentations(columns),
        )

    def _pairs(self) -> Pairs:
        sums = ", ".join(
            self._sums_of(i, metric, side) for side in ("p", "q") for i, metric in enumerate(self._plan.metrics)
        )
        columns = self._columns(
            f"SELECT {self._complete_s()} AS complete_s, {sums}{self._firsts()} "
            "FROM (SELECT * FROM phase WHERE NOT challenger) p JOIN firsts f USING (entity) "
            "JOIN (SELECT id, label, class, value FROM phase WHERE challenger) q ON q.id = p.id "
            f"{self._outcome_joins()} WHERE {self._counted()} GROUP BY entity ORDER BY complete_s, entity"
        )
        return Pairs(
            complete_s=columns["complete_s"].astype(np.float64),
            champion=self._sums(columns, "p"),
            challenger=self._sums(columns, "q"),
            segments=self._segmentations(columns),
        )

    def _complete_s(self) -> str:
        return f"any_value(f.first) + {self._plan.entity_window_s + self._plan.outcome_window_s!r}"

    def _counted(self) -> str:
        """Complete entities alone, and of those the predictions that are their observation."""
        if not self._with_outcomes:
            return "false"
        whole = self._plan.entity_window_s + self._plan.outcome_window_s
        mine = "p.id = f.first_id"
        if self._plan.entity_window_s > 0:
            mine = f"p.served < f.first + {self._plan.entity_window_s!r}"
        return f"f.first + {whole!r} <= {self._now_s!r} AND {mine}"

    def _in_time(self, outcome: str) -> str:
        return f"{outcome}.moment <= p.served + {self._plan.outcome_window_s!r} AND NOT {self._early(outcome)}"

    def _early(self, outcome: str) -> str:
        """What was told before the prediction did not come of it. Where both score, it is compared and not credited."""
        return "false" if self._mode.paired else f"{outcome}.moment < p.served - {_CLOCK_SLACK_S!r}"

    def _outcome_joins(self) -> str:
        return " ".join(
            f"LEFT JOIN (SELECT id, value, text, moment FROM outcomes WHERE field = {_quoted(field)}) o{i} "
            f"ON o{i}.id = p.id AND {self._in_time(f'o{i}')}"
            for i, field in enumerate(self._fields)
        )

    def _sums_of(self, position: int, metric: MetricPlan, side: str) -> str:
        """Columns `<side>_total_<position>` and `<side>_count_<position>`. side: p, or q for the paired challenger."""
        outcome = f"o{self._fields.index(metric.field)}"
        match metric.measure:
            case "outcome":
                measured = f"{outcome}.value"
            case "correct":
                # 1, 1.0 and true are the same where a number or a truth value was told; words are what they are.
                same = f"{side}.label = {outcome}.text OR {side}.class = {outcome}.value"
                measured = f"CASE WHEN {outcome}.text IS NOT NULL THEN coalesce({same}, false)::DOUBLE END"
            case "absolute_error":
                measured = f"abs({side}.value - {outcome}.value)"
            case "squared_error":
                measured = f"({side}.value - {outcome}.value) * ({side}.value - {outcome}.value)"
        total = f"coalesce(sum({measured}), 0.0)"
        if metric.per is not None:
            count = f"coalesce(sum(o{self._fields.index(metric.per)}.value), 0.0)"
        else:
            count = "count(*)" if metric.missing == "zero" else f"count({measured})"
        return f"{total} AS {side}_total_{position}, {count}::DOUBLE AS {side}_count_{position}"

    def _firsts(self) -> str:
        names = [f"covariate_{i}" for i in range(len(self._covariates))]
        names += [f"segment_{i}" for i in range(len(self._plan.segments))]
        return "".join(f", any_value(f.{name}) AS {name}" for name in names)

    def _sums(self, columns: dict[str, NDArray[np.generic]], side: str) -> tuple[Sums, ...]:
        made: list[Sums] = []
        for i, metric in enumerate(self._plan.metrics):
            covariate = None
            if metric.covariate is not None:
                covariate = _numbers(columns[f"covariate_{self._covariates.index(metric.covariate)}"])
            made.append(Sums(_numbers(columns[f"{side}_total_{i}"]), _numbers(columns[f"{side}_count_{i}"]), covariate))
        return tuple(made)

    def _segmentations(self, columns: dict[str, NDArray[np.generic]]) -> tuple[Segmentation, ...]:
        made: list[Segmentation] = []
        for i, field in enumerate(self._plan.segments):
            values: np.ma.MaskedArray = np.ma.asarray(columns[f"segment_{i}"], dtype=object)
            known = ~np.ma.getmaskarray(values)
            labels, counts = np.unique(values.data[known].astype(str), return_counts=True)
            common = labels[np.sort(np.argsort(-counts, kind="stable")[:_MAX_SEGMENTS])]
            place = {label: position for position, label in enumerate(common.tolist())}
            codes = np.full(len(values), -1, dtype=np.int32)
            codes[known] = [place.get(value, -1) for value in values.data[known]]
            made.append(Segmentation(field=field, labels=tuple(place), codes=codes))
        return tuple(made)

    def _rows(self, query: str) -> list[tuple[float, ...]]:
        return self._db.execute(query).fetchall()

    def _counts(self, query: str) -> dict[bool, int]:
        """By variant."""
        return {False: 0, True: 0} | {bool(challenger): int(count) for challenger, count in self._rows(query)}

    def _number(self, query: str) -> int:
        ((count,),) = self._rows(query)
        return int(count)

    def _columns(self, query: str) -> dict[str, NDArray[np.generic]]:
        found: dict[str, NDArray[np.generic]] = self._db.execute(query).fetchnumpy()
        return found


def _numbers(values: NDArray[np.generic]) -> Column:
    """NaN for null."""
    return np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
