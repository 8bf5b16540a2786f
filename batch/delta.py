"""A Delta table as a destination: one commit a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batch.deliver import Load, check_keys, missing_package, undelivered

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable


_NEWEST = "zaphod"
# Of runs that were added, and of those from before there were numbers.
_UNNUMBERED = 1


class DeltaDestination:
    """Rows are added, or those with the same key replaced. The commit carries the run's id as Delta's own mark of an
    application's transaction, so that a run that has arrived is recognised, and of two at once one fails. With a key
    the mark has a number, and another mark the newest one: it says whose rows the table got last.
    """

    def __init__(self, address: str) -> None:
        self.name = f"the Delta table {address}"
        self._address = address

    @classmethod
    def open(cls, address: str) -> DeltaDestination:
        """Touches nothing. Raises: ConfigError when deltalake is not installed."""
        try:
            import deltalake  # noqa: F401  # looked for now, used when there is a run to deliver
        except ImportError as error:
            raise missing_package("deltalake", needed_for="a Delta table") from error
        return cls(address)

    def deliver(self, load: Load) -> bool:
        """Raises: BatchError."""
        from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
        from deltalake.exceptions import DeltaError

        mark = f"zaphod-{load.run_id}"
        try:
            table = DeltaTable(self._address) if DeltaTable.is_deltatable(self._address) else None
            arrived = None if table is None else table.transaction_version(mark)
            newest = None if table is None else table.transaction_version(_NEWEST)
            if arrived is not None and (not load.keys or arrived == newest):
                return False
            marks = [Transaction(app_id=mark, version=_UNNUMBERED)]
            if load.keys:
                number = (newest or _UNNUMBERED) + 1
                marks = [Transaction(app_id=name, version=number) for name in (mark, _NEWEST)]
            properties = CommitProperties(custom_metadata={"zaphod_run_id": load.run_id}, app_transactions=marks)
            check_keys(load)
            if table is None:
                write_deltalake(self._address, load.reader(), mode="error", commit_properties=properties)
            elif load.keys:
                _merge(table, load, properties)
            else:
                write_deltalake(table, load.reader(), mode="append", commit_properties=properties)
        except (DeltaError, OSError, ValueError) as error:
            raise undelivered(load, self.name, error) from error
        return True


def _merge(table: DeltaTable, load: Load, properties: CommitProperties) -> None:
    predicate = " AND ".join(f"old.`{key}` = new.`{key}`" for key in load.keys)
    (
        table.merge(
            load.reader(),
            predicate=predicate,
            source_alias="new",
            target_alias="old",
            commit_properties=properties,
        )
        .when_matched_update_all()
        .when_not_matched_insert_all()
        .execute()
    )
