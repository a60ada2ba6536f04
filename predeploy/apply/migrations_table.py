"""The migrations table, in which every implementation of the protocol records the applied migrations.

The table is called `_migrations` unless MIGRATE_TABLE sets another name.

The protocol defines `name` and `applied_at`. This implementation adds `checksum`, which is nullable. The column is
missing if another implementation created the table and this role is not allowed to alter it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from predeploy.connection.query_message import run
from predeploy.connection.session import is_lost, join
from predeploy.errors import ConfigurationError
from predeploy.lock.advisory_lock import TRY_IN_TRANSACTION
from predeploy.migrations.migration import normalize
from predeploy.sql.table_name import DEFAULT_TABLE, TableName

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from psycopg.pq.abc import PGresult

    from predeploy.connection.connect import Connection
    from predeploy.connection.session import Sql

log = logging.getLogger(__name__)

# `checksum` is the column of _migrations, or that of the one-row table if _migrations has none.
_READ = """
    SELECT {columns}
    FROM (SELECT NULL::text AS checksum) AS default_values,
         LATERAL (SELECT name, checksum, applied_at FROM {table}) AS t
"""
# JSON has one format for times, whatever DateStyle and TimeZone are.
_TIME = "pg_catalog.to_jsonb(t.applied_at) OPERATOR(pg_catalog.#>>) '{}'"
_LOCATE = """
    SELECT n.nspname,
           EXISTS (SELECT FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attname = 'checksum' AND NOT a.attisdropped),
           c.relhastriggers OR c.relhasrules OR c.relrowsecurity OR NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = c.oid AND a.attname = 'name' AND a.atttypid = 'pg_catalog.text'::pg_catalog.regtype),
           c.relpersistence = 'u'
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass({table});
    SELECT {schema}
"""
# Schema-qualified, because a migration may have changed search_path so that other operators come first. The first
# comparison uses the index. The second ignores the column's collation and type.
_HAS_NAME = (
    "name OPERATOR(pg_catalog.=) {name} AND "
    '(name::pg_catalog.text COLLATE pg_catalog."C") OPERATOR(pg_catalog.=) {name}'
)
_ROW_CHECK = f"SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*) FROM {{table}} WHERE {_HAS_NAME}"  # noqa: S608  only names
_CHECKSUM_OF = f"SELECT {{checksum}} FROM {{table}} WHERE {_HAS_NAME}"  # noqa: S608  only names
_SIMILAR = (
    "SELECT name::pg_catalog.text FROM {table}"
    " WHERE pg_catalog.lower(name::pg_catalog.text) OPERATOR(pg_catalog.=) pg_catalog.lower({name}) LIMIT 1"
)
_CREATE = """
    CREATE TABLE {table} (
        name TEXT PRIMARY KEY,
        applied_at TIMESTAMPTZ NOT NULL DEFAULT now(),
        checksum TEXT
    )
"""
_SCHEMA = "(SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname = {schema})"
# The division fails if no row is updated: the migration has been applied with another checksum in the meantime.
_CLAIM_AGAIN = """
    WITH claimed AS (
        UPDATE {table} SET {values} WHERE name OPERATOR(pg_catalog.=) {name} AND {unchanged} RETURNING 1
    )
    SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*) FROM claimed
"""
_ADD_CHECKSUM = "BEGIN;SET LOCAL lock_timeout='2s';ALTER TABLE {table} ADD COLUMN IF NOT EXISTS checksum TEXT;COMMIT"


def locate(table: TableName) -> str:
    """Return two queries: the existing table's schema and properties, and the schema in which to create the table."""
    schema = _SCHEMA.format(schema=_literal(table.schema)) if table.schema else "current_schema()"
    return _LOCATE.format(table=_literal(table.sql), schema=schema)


def read_rows(conn: Connection, table: TableName = DEFAULT_TABLE) -> dict[str, str | None] | None:
    """Return the checksums of the applied migrations by name, or None if there is no table.

    This takes one round trip and no lock.
    """
    rows = _read(conn, table, "t.name, t.checksum")
    return None if rows is None else {normalize(name): checksum for name, checksum in rows}


def read_times(conn: Connection, table: TableName = DEFAULT_TABLE) -> dict[str, str]:
    """Return when each migration was applied, by name: in UTC (ISO 8601), or as in the table if it is not a time."""
    rows = _read(conn, table, f"t.name, {_TIME}") or []
    return {normalize(name): _utc(time) for name, time in rows}


def _read(conn: Connection, table: TableName, columns: str) -> list[tuple[Any, ...]] | None:
    try:
        return conn.execute(_READ.format(columns=columns, table=table.sql).encode()).fetchall()
    except psycopg.errors.UndefinedTable:
        return None
    except psycopg.errors.UndefinedColumn:
        raise ConfigurationError(
            f"A table named {table} exists but has no name or applied_at column. Set MIGRATE_TABLE to another name. "
            "If another tool records its applied migrations in that table, run pg-predeploy baseline before migrate."
        ) from None
    except psycopg.errors.InsufficientPrivilege as error:
        from predeploy.apply.table_facts import refused_read  # only needed after a failure

        raise refused_read(conn, table, error) from None


def _utc(time: str) -> str:
    from datetime import UTC, datetime  # only needed by status

    try:
        return datetime.fromisoformat(time).astimezone(UTC).isoformat()
    except (ValueError, OverflowError):  # infinity, or a year that Python cannot represent
        return time


class MigrationsTable:
    """The table in the schema where it was found or created, even if a migration changes search_path.

    `is_new` is True if this run created the table. `may_lose_row` is True if the table has triggers or rules, or if a
    migration of this run mentions the table, because any of these may remove a row. It then stays True until the run
    ends. `condition` is SQL that a claim can require.
    """

    def __init__(
        self, name: TableName, *, has_checksum: bool, may_lose_row: bool = False, is_new: bool = False
    ) -> None:
        self.name = name
        self.has_checksum = has_checksum
        self.may_lose_row = may_lose_row
        self.is_new = is_new
        self.condition = "true"
        self._recorded: Mapping[str, str | None] = {}

    def rows(self, conn: Connection) -> dict[str, str | None]:
        """Return the checksums by name, and keep them for the claims of repeatable migrations."""
        rows = read_rows(conn, self.name) or {}
        self._recorded = rows
        return rows

    def requirement(self, *, conditional: bool) -> str:
        """Return the SQL condition of a claim: the lock is free and, if `conditional`, `condition` is true."""
        return f"{TRY_IN_TRANSACTION} AND {self.condition}" if conditional else TRY_IN_TRANSACTION

    def claim(
        self, conn: Connection, name: str, checksum: str | None, *, fenced: bool = True, conditional: bool = False
    ) -> str:
        """Return the statement that marks a migration as applied; the primary key lets only one runner succeed.

        It is an INSERT, or an UPDATE of the row with the old checksum if a repeatable migration runs again. If
        `fenced`, it also takes the advisory lock until its transaction ends, without waiting. If another session holds
        the lock, or if the claim is `conditional` and the condition is false, the name becomes NULL, which the primary
        key rejects.
        """
        quote = pq.Escaping(conn.pgconn).escape_literal  # ten times as fast as psycopg.sql; matters with 1,000 files
        literal = quote(name.encode()).decode()
        values = {
            "name": f"CASE WHEN {self.requirement(conditional=conditional)} THEN {literal} END" if fenced else literal,
            "applied_at": "pg_catalog.clock_timestamp()",  # now() would be the time when the message arrived
        }
        if self.has_checksum:
            values["checksum"] = quote(checksum.encode()).decode() if checksum else "NULL"
        if name in self._recorded:
            old = self._recorded[name]
            unchanged = f"checksum OPERATOR(pg_catalog.=) {quote(old.encode()).decode()}" if old else "checksum IS NULL"
            return _CLAIM_AGAIN.format(
                table=self.name.sql,
                values=", ".join(f"{column} = {value}" for column, value in values.items()),
                name=literal,
                unchanged=unchanged,
            )
        return f"INSERT INTO {self.name.sql} ({', '.join(values)}) VALUES ({', '.join(values.values())})"  # noqa: S608  quoted above; replaced by tests/faults/planted.py

    def is_recorded(self, name: str) -> bool:
        """Return whether this migration had a row when the table was read; if so, the claim updates the row."""
        return name in self._recorded

    def is_claimed_by_another(self, conn: Connection, name: str) -> bool:
        """Return whether another runner has written the row of exactly this name.

        If the row already existed when the table was read, its checksum must have changed since then.
        """
        checksum = "checksum" if self.has_checksum else "NULL"
        query = _CHECKSUM_OF.format(checksum=checksum, table=self.name.sql, name=_quote(conn, name))
        row = conn.execute(query.encode()).fetchone()
        return row is not None and (name not in self._recorded or row[0] != self._recorded[name])

    def similar_name(self, conn: Connection, name: str) -> str | None:
        """Return a recorded name that equals `name` if case is ignored, or None."""
        row = conn.execute(_SIMILAR.format(table=self.name.sql, name=_quote(conn, name)).encode()).fetchone()
        return row[0] if row else None

    def row_check(self, conn: Connection, name: str) -> Sql:
        """Return two statements; the second fails if the migration's row, or the whole table, is missing.

        The check runs as the role that logged in, even if the migration has set another role.
        """
        query = _ROW_CHECK.format(table=self.name.sql, name=_quote(conn, name))
        return join("SET SESSION AUTHORIZATION DEFAULT", query)

    def note_text(self, text: str) -> None:
        """Set `may_lose_row` if the text of a migration mentions the table: the migration may add a trigger to it."""
        self.may_lose_row = self.may_lose_row or self.name.name in text


def ensure_table(
    conn: Connection,
    name: TableName = DEFAULT_TABLE,
    answers: Sequence[PGresult] = (),
    *,
    alter: bool = True,
) -> MigrationsTable:
    """Find the table, or create it in its schema, by default the first schema of the search path.

    Call this function under the lock: concurrent CREATE TABLE IF NOT EXISTS statements can cause a unique violation in
    pg_type. The table is looked up first, because IF NOT EXISTS requires the CREATE privilege on the schema even if the
    table exists. `answers` are the two results of `locate`, if the caller has already sent it. If `alter` is False, do
    not add a missing column, and do not begin or end a transaction.
    """
    found, current = answers or run(conn, locate(name))
    if found.ntuples:
        table = TableName(name.name, _text(found, 0))
        if found.get_value(0, 3) == b"t":
            log.warning(
                "%s is UNLOGGED, so a crash of the server empties it: run ALTER TABLE %s SET LOGGED",
                table,
                table.quoted,
                extra={"event": "table.unlogged"},
            )
        has_checksum = found.get_value(0, 1) == b"t" or (alter and _add_checksum(conn, table))
        return MigrationsTable(table, has_checksum=has_checksum, may_lose_row=found.get_value(0, 2) == b"t")
    schema = _text(current, 0)
    if not schema and name.schema:
        raise ConfigurationError(f"MIGRATE_TABLE names schema {name.schema}, which does not exist. Create it first.")
    if not schema:
        from predeploy.apply.table_facts import no_usable_schema  # only needed after a failure

        raise no_usable_schema(conn)
    table = TableName(name.name, schema)
    try:
        conn.execute(_CREATE.format(table=table.sql).encode())
    except psycopg.Error as error:
        if is_lost(conn):
            raise
        is_duplicate = isinstance(error, (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable))
        if is_duplicate and (answers := run(conn, locate(name)))[0].ntuples:
            return ensure_table(conn, name, answers)  # another implementation, which does not lock first, created it
        from predeploy.apply.table_facts import refused_creation  # only needed after a failure

        raise refused_creation(conn, table, error) from None
    return MigrationsTable(table, has_checksum=True, is_new=True)


def warn_if_hidden(conn: Connection, wanted: TableName, table: TableName) -> None:
    """Warn if a changed search_path keeps a new session from finding `table` under the name `wanted`."""
    if wanted.schema or not table.schema:
        return
    same = f"to_regclass({_literal(wanted.sql)}) IS NOT DISTINCT FROM to_regclass({_literal(table.quoted)})"
    if run(conn, f"SELECT {same}")[0].get_value(0, 0) != b"t":
        log.warning(
            "%s can no longer be found through search_path: set MIGRATE_TABLE=%s before the next run",
            table,
            table.setting,
            extra={"event": "table.hidden"},
        )


def _text(result: PGresult, column: int) -> str:
    return (result.get_value(0, column) or b"").decode()


def _quote(conn: Connection, text: str) -> str:
    return pq.Escaping(conn.pgconn).escape_literal(text.encode()).decode()


def _literal(text: str | None) -> str:
    return "'" + (text or "").replace("'", "''") + "'"


def _add_checksum(conn: Connection, table: TableName) -> bool:
    try:
        conn.execute(_ADD_CHECKSUM.format(table=table.sql).encode())
    except (
        psycopg.errors.InsufficientPrivilege,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.RaiseException,  # by an event trigger
    ):
        conn.execute("ROLLBACK")
        log.info(
            "Could not add the checksum column to %s; changed files will not be detected",
            table.name,
            extra={"event": "table.unaltered"},
        )
        return False
    return True
