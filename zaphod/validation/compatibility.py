"""Would callers of one schema notice another? Pure: two schemas in, what changed out."""

from __future__ import annotations

import msgspec

from zaphod.schema import DType, Field, OutOfDomain, Output, Schema


class SchemaChange(msgspec.Struct, frozen=True, kw_only=True):
    """One difference. breaks: a request or a reader of answers that was right before is not any more."""

    where: str
    what: str
    breaks: bool


def compare_schemas(before: Schema, after: Schema) -> tuple[SchemaChange, ...]:
    """What callers of `before` meet when `after` answers."""
    old = {field.name: field for field in before.fields}
    new = {field.name: field for field in after.fields}
    changes: list[SchemaChange] = []
    # The decoder refuses a field it does not know: leaving one out is as hard on a caller as adding a required one.
    changes += [_change(name, "removed", breaks=True) for name in old if name not in new]
    for name, field in new.items():
        if name not in old:
            changes.append(_change(name, "added, required" if field.required else "added", breaks=field.required))
        else:
            changes += _compare_fields(old[name], field)
    return (*changes, *_compare_outputs(before.output, after.output))


def _compare_fields(old: Field, new: Field) -> list[SchemaChange]:
    name = old.name
    changes: list[SchemaChange] = []
    if old.dtype is not new.dtype:
        widens = old.dtype is DType.INT64 and new.dtype is DType.FLOAT64
        changes.append(_change(name, f"{old.dtype} is now {new.dtype}", breaks=not widens))
    if new.required and not old.required:
        changes.append(_change(name, "now required", breaks=True))
    elif old.nullable and not new.nullable:
        changes.append(_change(name, "may not be null any more", breaks=True))
    elif old.required and not new.required:
        changes.append(_change(name, "no longer required", breaks=False))
    if new.out_of_domain is OutOfDomain.REJECT and _narrower(old, new):
        changes.append(_change(name, "refuses values that were taken", breaks=True))
    if old.default != new.default and old.default is not None and new.default is not None:
        changes.append(_change(name, "another default", breaks=False))
    return changes


def _narrower(old: Field, new: Field) -> bool:
    if new.categories is not None:
        closed = old.out_of_domain is OutOfDomain.REJECT and old.categories is not None
        return not closed or not set(old.categories or ()) <= set(new.categories)
    bounded = old.out_of_domain is OutOfDomain.REJECT
    below = new.minimum is not None and (not bounded or old.minimum is None or old.minimum < new.minimum)
    above = new.maximum is not None and (not bounded or old.maximum is None or old.maximum > new.maximum)
    return below or above


def _compare_outputs(old: Output, new: Output) -> list[SchemaChange]:
    changes: list[SchemaChange] = []
    if old.task is not new.task:
        changes.append(_change("output", f"{old.task} is now {new.task}", breaks=True))
    before, after = _typed_classes(old), _typed_classes(new)
    if before != after:
        gone = not set(before) <= set(after)
        what = "classes are missing or of another type" if gone else "other classes, or another order"
        changes.append(_change("output", what, breaks=True))
    if old.has_probabilities and not new.has_probabilities:
        changes.append(_change("output", "no probabilities any more", breaks=True))
    if old.targets != new.targets:
        changes.append(_change("output", "other targets", breaks=True))
    return changes


def _typed_classes(output: Output) -> list[tuple[int, type, object]]:
    """1, 1.0 and true are equal, but not the same to a reader of JSON."""
    by_target = enumerate(output.classes_by_target)
    return [(target, type(label), label) for target, classes in by_target for label in classes]


def _change(where: str, what: str, *, breaks: bool) -> SchemaChange:
    return SchemaChange(where=where, what=what, breaks=breaks)
