"""A SQL database as a destination, through ADBC: one transaction a run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from batch.deliver import Load, check_keys, missing_package, quoted, undelivered
from zaphod.errors import ConfigError

# Of each address: the module of its driver, and the package that has it.
_DRIVERS = {
    "sqlite": ("adbc_driver_sqlite.dbapi", "adbc-driver-sqlite"),
    "postgresql": ("adbc_driver_postgresql.dbapi", "adbc-driver-postgresql"),
}
_RUNS = "zaphod_runs"
_STAGE = "zaphod_stage"


class SqlDestination:
    """Rows are added, or those with the same key replaced (`INSERT … ON CONFLICT`, which SQLite and PostgreSQL share).

    The run's id goes into the table `zaphod_runs` in the same transaction, so a run that has arrived is recognised.
    """

    def __init__(self, connect: Callable[[], Any], *, table: str, name: str) -> None:
        self.name = name
        self._connect = connect
        self._table = table

    @classmethod
    def open(cls, address: str, *, table: str) -> SqlDestination:
        """`sqlite:///<path>` or `postgresql://…`. Touches nothing.

        Raises: ConfigError for another address, and when its driver is not installed. The address is never shown: it
        may hold a password.
        """
        kind, _, rest = address.partition("://")
        if kind not in _DRIVERS:
            raise ConfigError(f"Expected an address that begins with {' or '.join(_DRIVERS)}, got another - at `sql`")
        module, package = _DRIVERS[kind]
        try:
            driver = importlib.import_module(module)
        except ImportError as error:
            raise missing_package(package, needed_for=f"a {kind} database") from error
        target = rest.removeprefix("/") if kind == "sqlite" else address
        return cls(lambda: driver.connect(target), table=table, name=f"the {kind} table {table}")

    def deliver(self, load: Load) -> bool:
        """Raises: BatchError."""
        from adbc_driver_manager import Error

        try:
            with self._connect() as connection, connection.cursor() as cursor:
                cursor.execute(
                    f"CREATE TABLE IF NOT EXISTS {_RUNS} (run_id TEXT, target TEXT, PRIMARY KEY (run_id, target))"
                )
                connection.commit()
                # First, for it takes the lock: of two deliveries of one run the second waits here, and then finds it.
                cursor.execute(
                    f"INSERT INTO {_RUNS} VALUES ({_text(load.run_id)}, {_text(self._table)}) "  # noqa: S608  # quoted
                    "ON CONFLICT DO NOTHING RETURNING run_id"
                )
                if not cursor.fetchall():
                    connection.rollback()
                    return False
                check_keys(load)
                if load.keys:
                    self._replace(cursor, load)
                else:
                    cursor.adbc_ingest(self._table, load.reader(), mode="create_append")
                connection.commit()
        except Error as error:
            raise undelivered(load, self.name, error) from error
        return True

    def _replace(self, cursor: Any, load: Load) -> None:  # ADBC ships no types for its cursors
        # Temporary: it is neither logged nor left behind.
        cursor.adbc_ingest(_STAGE, load.reader(), mode="create", temporary=True)
        columns = ", ".join(quoted(column) for column in load.schema.names)
        keys = ", ".join(quoted(key) for key in load.keys)
        rest = [name for name in load.schema.names if name not in load.keys]
        updates = ", ".join(f"{quoted(name)} = excluded.{quoted(name)}" for name in rest)
        target = quoted(self._table)
        for statement in (
            f"CREATE TABLE IF NOT EXISTS {target} AS SELECT {columns} FROM {_STAGE} WHERE 1 = 0",  # noqa: S608  # quoted
            f"CREATE UNIQUE INDEX IF NOT EXISTS {quoted(self._table + '_key')} ON {target} ({keys})",
            # SQLite takes ON CONFLICT for a join without the WHERE.
            f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {_STAGE} WHERE 1 = 1 "  # noqa: S608  # quoted
            f"ON CONFLICT ({keys}) DO UPDATE SET {updates}",
            f"DROP TABLE {_STAGE}",
        ):
            cursor.execute(statement)


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
