"""The `_migrations` table, in which every implementation of the protocol records the applied migrations.

The protocol defines `name` and `applied_at`. This implementation adds `checksum`, which is nullable. The column is
missing if another implementation created the table and this role is not allowed to alter it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import pq, sql

from predeploy.connection.query_message import run
from predeploy.connection.session import join
from predeploy.errors import ConfigurationError, PostgresRefused
from predeploy.lock.advisory_lock import TRY_IN_TRANSACTION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from psycopg.pq.abc import PGresult

    from predeploy.connection.connect import Connection
    from predeploy.connection.session import Sql

log = logging.getLogger(__name__)

# `checksum` is the column of _migrations, or that of the one-row table if _migrations has none.
_READ = """
    SELECT t.name, t.checksum, t.applied_at
    FROM (SELECT NULL::text AS checksum) AS default_values,
         LATERAL (SELECT name, checksum, applied_at FROM {table}) AS t
"""
LOCATE = """
    SELECT n.nspname,
           EXISTS (SELECT FROM pg_catalog.pg_attribute a
                   WHERE a.attrelid = c.oid AND a.attname = 'checksum' AND NOT a.attisdropped),
           c.relhastriggers OR c.relhasrules
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass('_migrations');
    SELECT current_schema()
"""
# Schema-qualified, because a migration may have changed search_path so that other operators come first.
_ROW_CHECK = "SELECT 1 OPERATOR(pg_catalog./) pg_catalog.count(*) FROM {table} WHERE name OPERATOR(pg_catalog.=) {name}"
_CREATE = """
    CREATE TABLE {table} (
        name TEXT PRIMARY KEY,
        applied_at TIMESTAMPTZ NOT NULL DEFAULT now(),
        checksum TEXT
    )
"""
_ADD_CHECKSUM = "BEGIN;SET LOCAL lock_timeout='2s';ALTER TABLE {table} ADD COLUMN IF NOT EXISTS checksum TEXT;COMMIT"


class Row(NamedTuple):
    """One applied migration."""

    name: str
    checksum: str | None
    applied_at: datetime


def read_rows(conn: Connection, table: sql.Composable = sql.Identifier("_migrations")) -> dict[str, Row] | None:  # noqa: B008
    """Return the applied migrations by name, or None if there is no table. Takes one round trip."""
    try:
        found = conn.execute(sql.SQL(_READ).format(table=table)).fetchall()
    except psycopg.errors.UndefinedTable:
        return None
    except psycopg.errors.UndefinedColumn:
        raise ConfigurationError(
            "A table named _migrations exists but has no name or applied_at column. "
            "Rename it, or put another schema first in search_path."
        ) from None
    except psycopg.errors.InsufficientPrivilege:
        raise PostgresRefused(
            "The role cannot read _migrations. Run GRANT SELECT, INSERT ON _migrations for it "
            "(and GRANT USAGE on its schema).",
            "privilege",
        ) from None
    return {name: Row(name, checksum, applied_at) for name, checksum, applied_at in found}


class MigrationsTable:
    """`_migrations` in the schema where it was found or created, even if a migration changes search_path.

    `is_new` is True if this run created the table. `may_lose_row` is True if the table has triggers or rules, or if a
    migration of this run mentions the table, so a row may be removed; once True, it stays True until the run ends.
    """

    def __init__(self, schema: str, *, has_checksum: bool, may_lose_row: bool = False, is_new: bool = False) -> None:
        self.may_lose_row = may_lose_row
        self.is_new = is_new
        self.identifier = sql.Identifier(schema, "_migrations")
        self._has_checksum = has_checksum
        self._name = ""  # the identifier as SQL

    def rows(self, conn: Connection) -> dict[str, Row]:
        """Return the applied migrations by name."""
        return read_rows(conn, self.identifier) or {}

    def claim(self, conn: Connection, name: str, checksum: str | None, *, fenced: bool = True) -> str:
        """Return the INSERT that marks a migration as applied; the primary key lets only one runner succeed.

        If `fenced`, the INSERT also takes the advisory lock until its transaction ends, without waiting. If another
        session holds the lock, the inserted name is NULL, which the primary key rejects.
        """
        quote = pq.Escaping(conn.pgconn).escape_literal  # ten times as fast as psycopg.sql; matters with 1,000 files
        literal = quote(name.encode()).decode()
        values = {
            "name": f"CASE WHEN {TRY_IN_TRANSACTION} THEN {literal} END" if fenced else literal,
            "applied_at": "pg_catalog.clock_timestamp()",  # now() would be the time when the message arrived
        }
        if self._has_checksum:
            values["checksum"] = quote(checksum.encode()).decode() if checksum else "NULL"
        table = self._name = self._name or self.identifier.as_string(conn)
        return f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})"  # noqa: S608  quoted above; replaced by tests/faults/planted.py

    def row_check(self, conn: Connection, name: str) -> Sql:
        """Return two statements; the second fails if the migration's row, or the whole table, is missing.

        The check runs as the role that logged in, even if the migration has set another role.
        """
        query = sql.SQL(_ROW_CHECK).format(table=self.identifier, name=sql.Literal(name)).as_string(conn)
        return join("SET SESSION AUTHORIZATION DEFAULT", query)

    def note_text(self, text: str) -> None:
        """Set `may_lose_row` if the text of a migration mentions the table: the migration may add a trigger to it."""
        self.may_lose_row = self.may_lose_row or "_migrations" in text


def ensure_table(conn: Connection, answers: Sequence[PGresult] = (), *, alter: bool = True) -> MigrationsTable:
    """Find `_migrations` on the search path, or create it in the path's first schema.

    Call this function under the lock: concurrent CREATE TABLE IF NOT EXISTS statements can cause a unique violation in
    pg_type. The table is looked up first, because IF NOT EXISTS requires the CREATE privilege on the schema even if the
    table exists. `answers` are the two results of LOCATE, if the caller has already sent it. If `alter` is False, do
    not add a missing column, and do not begin or end a transaction.
    """
    found, current = answers or run(conn, LOCATE)
    if found.ntuples:
        schema = _text(found, 0)
        has_checksum = found.get_value(0, 1) == b"t" or (alter and _add_checksum(conn, schema))
        return MigrationsTable(schema, has_checksum=has_checksum, may_lose_row=found.get_value(0, 2) == b"t")
    schema = _text(current, 0)
    if not schema:
        raise PostgresRefused("No schema in search_path exists. Create one, or change search_path.", "privilege")
    try:
        conn.execute(sql.SQL(_CREATE).format(table=sql.Identifier(schema, "_migrations")))
    except (psycopg.errors.UniqueViolation, psycopg.errors.DuplicateTable):
        return ensure_table(conn)  # another implementation, which does not lock first, has just created the table
    except psycopg.errors.InsufficientPrivilege:
        raise PostgresRefused(
            f'The role cannot create _migrations. Run GRANT CREATE ON SCHEMA "{schema}" for it, '
            "or create the table first.",
            "privilege",
        ) from None
    return MigrationsTable(schema, has_checksum=True, is_new=True)


def _text(result: PGresult, column: int) -> str:
    return (result.get_value(0, column) or b"").decode()


def _add_checksum(conn: Connection, schema: str) -> bool:
    try:
        conn.execute(sql.SQL(_ADD_CHECKSUM).format(table=sql.Identifier(schema, "_migrations")))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable):
        conn.execute("ROLLBACK")
        log.info(
            "Could not add the checksum column to _migrations; changed files will not be detected",
            extra={"event": "table.unaltered"},
        )
        return False
    return True
