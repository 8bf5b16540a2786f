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
_NEWEST = "zaphod_newest"
_STAGE = "zaphod_stage"


class SqlDestination:
    """Rows are added, or those with the same key replaced (`INSERT … ON CONFLICT`, which SQLite and PostgreSQL share).

    The run's id goes into the table `zaphod_runs` in the same transaction, so a run that has arrived is recognised;
    with a key also into `zaphod_newest`, which says whose rows a table got last.
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
                for table, key in ((_RUNS, "run_id, target"), (_NEWEST, "target")):
                    cursor.execute(
                        f"CREATE TABLE IF NOT EXISTS {table} (run_id TEXT, target TEXT, PRIMARY KEY ({key}))"
                    )
                connection.commit()
                if not self._note(cursor, load):
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

    def _note(self, cursor: Any, load: Load) -> bool:  # as below
        """Whether there is something to deliver.

        Before the rows, for it takes a lock: of two deliveries of one run the second waits here, and then finds it.
        """
        row = f"(run_id, target) VALUES ({_text(load.run_id)}, {_text(self._table)})"
        cursor.execute(f"INSERT INTO {_RUNS} {row} ON CONFLICT DO NOTHING RETURNING run_id")
        is_first = bool(cursor.fetchall())
        if not load.keys:
            return is_first
        cursor.execute(
            f"INSERT INTO {_NEWEST} {row} ON CONFLICT (target) DO UPDATE SET run_id = excluded.run_id "
            f"WHERE {_NEWEST}.run_id <> excluded.run_id RETURNING run_id"
        )
        return bool(cursor.fetchall()) or is_first

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
