"""What an incremental run takes over from the run before: the results of units whose files have not changed."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from batch.commit import MANIFEST, UNITS, Receipt, Staging
from batch.manifest import Input, Manifest
from batch.plan import Plan, Unit


def carry_over(plan: Plan, staging: Staging, receipts: dict[str, Receipt]) -> int:
    """Adds the receipts of unchanged units, their files in place, and returns how many.

    A run of another recipe (model, settings) gives nothing: its results would not be those of this run.
    """
    base = staging.current()
    if base is None:
        return 0
    try:
        manifest = msgspec.json.decode(staging.read_published(base, MANIFEST), type=Manifest)
        lines = staging.read_published(base, UNITS).splitlines()
    except (FileNotFoundError, msgspec.MsgspecError):
        return 0
    if manifest.recipe != plan.recipe:
        return 0
    finished = {receipt.unit: receipt for receipt in (msgspec.json.decode(line, type=Receipt) for line in lines)}
    inputs = {file.path: file for file in manifest.inputs}
    carried = 0
    for unit in plan.units:
        receipt = finished.get(unit.id)
        if receipt is None or unit.id in receipts or not _is_same(unit, inputs, receipt):
            continue
        if staging.carry_over(base, receipt.files):
            staging.leave_receipt(receipt)
            receipts[unit.id] = receipt
            carried += 1
    return carried


def _is_same(unit: Unit, inputs: Mapping[str, Input], receipt: Receipt) -> bool:
    """The file is the same, and was scored as far as it is to be scored now."""
    before = inputs.get(unit.path)
    if before is None or (before.size_bytes, before.mtime_ns) != (unit.size_bytes, unit.mtime_ns):
        return False
    return not receipt.corrupt and unit.max_rows is None and unit.num_rows in (None, receipt.rows_in)
