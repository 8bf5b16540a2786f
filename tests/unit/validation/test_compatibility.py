"""What callers of a champion notice when another schema answers."""

from __future__ import annotations

import msgspec
import pytest

from zaphod.schema import DType, Field, OutOfDomain, Output, Schema, Task
from zaphod.validation.compatibility import compare_schemas

AGE = Field(name="age", dtype=DType.INT64)
KIND = Field(name="kind", dtype=DType.STRING, nullable=True)
YES_NO = Output(task=Task.CLASSIFICATION, classes=("no", "yes"), has_probabilities=True)


def changed(field: Field, **changes: object) -> tuple[Field, ...]:
    """The two fields, one of them changed."""
    new = msgspec.structs.replace(field, **changes)
    return tuple(new if one is field else one for one in (AGE, KIND))


@pytest.mark.parametrize(
    ("fields", "output", "what", "breaks"),
    [
        ((AGE, KIND), YES_NO, None, False),
        ((AGE,), YES_NO, "removed", True),
        ((AGE, KIND, Field(name="new", dtype=DType.BOOL)), YES_NO, "added, required", True),
        ((AGE, KIND, Field(name="new", dtype=DType.BOOL, default=False)), YES_NO, "added", False),
        (changed(AGE, dtype=DType.FLOAT64), YES_NO, "int64 is now float64", False),
        (changed(AGE, dtype=DType.STRING), YES_NO, "int64 is now string", True),
        (changed(AGE, nullable=True), YES_NO, "no longer required", False),
        (changed(KIND, nullable=False), YES_NO, "now required", True),
        (changed(KIND, nullable=False, default="a"), YES_NO, "may not be null any more", True),
        (changed(AGE, minimum=0.0, out_of_domain=OutOfDomain.REJECT), YES_NO, "refuses values that were taken", True),
        (changed(AGE, minimum=0.0, maximum=9.0), YES_NO, None, False),
        (changed(KIND, categories=("a",), out_of_domain=OutOfDomain.REJECT), YES_NO, "refuses values", True),
        ((AGE, KIND), msgspec.structs.replace(YES_NO, classes=("no", "yes", "maybe")), "other classes", True),
        ((AGE, KIND), msgspec.structs.replace(YES_NO, classes=("no", "maybe")), "classes are missing", True),
        ((AGE, KIND), msgspec.structs.replace(YES_NO, classes=(0, 1)), "of another type", True),
        ((AGE, KIND), msgspec.structs.replace(YES_NO, has_probabilities=False), "no probabilities any more", True),
        ((AGE, KIND), Output(task=Task.REGRESSION, targets=("target",)), "is now regression", True),
    ],
)
def test_a_change_breaks_callers_or_does_not(
    *, fields: tuple[Field, ...], output: Output, what: str | None, breaks: bool
) -> None:
    """Every change is named with its field; only some break a request or a reader of answers."""
    changes = compare_schemas(Schema(fields=(AGE, KIND), output=YES_NO), Schema(fields=fields, output=output))

    if what is None:
        assert changes == ()
    else:
        assert [change for change in changes if what in change.what]
        assert any(change.breaks for change in changes) == breaks


@pytest.mark.parametrize(("low", "high", "narrower"), [(0.0, 9.0, False), (-1.0, 10.0, False), (1.0, 9.0, True)])
def test_a_closed_range_may_grow_but_not_shrink(*, low: float, high: float, narrower: bool) -> None:
    """Only a value that was taken and is refused now breaks a caller."""
    before, after = (
        Schema(
            fields=(Field(name="x", dtype=DType.FLOAT64, minimum=a, maximum=b, out_of_domain=OutOfDomain.REJECT),),
            output=YES_NO,
        )
        for a, b in ((0.0, 9.0), (low, high))
    )

    assert any(change.breaks for change in compare_schemas(before, after)) == narrower
