"""Read the migrations table's privileges, triggers, rules, row security and name column from the catalog.

They are read only after an attempt to read, create or write the table has failed, to find the cause.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from predeploy.connection.login_errors import classify_statement_error
from predeploy.connection.query_message import run
from predeploy.connection.session import is_in_transaction
from predeploy.errors import PostgresRefused
from predeploy.redaction.server_message import redact_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    from predeploy.connection.connect import Connection
    from predeploy.errors import StorageError
    from predeploy.sql.table_name import TableName

_FACTS = """
    SELECT n.nspname, pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
           pg_catalog.has_table_privilege(c.oid, 'SELECT'), pg_catalog.has_table_privilege(c.oid, 'INSERT'),
           pg_catalog.has_table_privilege(c.oid, 'UPDATE'), pg_catalog.row_security_active(c.oid),
           ARRAY(SELECT t.tgname::text FROM pg_catalog.pg_trigger t
                 WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY 1),
           ARRAY(SELECT r.rulename::text FROM pg_catalog.pg_rewrite r
                 WHERE r.ev_class = c.oid AND r.ev_type <> '1' AND r.ev_enabled <> 'D' ORDER BY 1),
           a.atttypid::pg_catalog.regtype::text, a.atttypmod,
           (SELECT CASE WHEN i.indexprs IS NOT NULL THEN 'expression' WHEN a.attnum = i.indkey[0] THEN 'name' END
            FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND x.relname = {index})
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'name' AND NOT a.attisdropped
    WHERE c.relname = {table} AND {here}
"""
_EVENT_TRIGGERS = "SELECT evtname::text FROM pg_catalog.pg_event_trigger WHERE evtenabled <> 'D' ORDER BY 1"
_CAN_CREATE = "SELECT pg_catalog.has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = %s"
_PATH = "SELECT pg_catalog.current_setting('search_path'), current_user::text"
_EXISTING = "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname = ANY(%s) ORDER BY 1"
_SCHEMA_NAME = re.compile(r'"((?:[^"]|"")+)"|([^\s,"]+)')
_NAME_BYTES = 63  # the limit of the type `name`, which truncates longer values
_HEADER_CHARS = 4  # atttypmod of varchar(20) is 24


class TableFacts(NamedTuple):
    """The properties of the migrations table.

    `index_on` is what the violated index covers: `name`, an `expression`, or None for anything else.
    """

    schema: str
    is_usable: bool
    can_select: bool
    can_insert: bool
    can_update: bool
    has_row_security: bool
    triggers: Sequence[str]
    rules: Sequence[str]
    name_type: str | None
    name_modifier: int | None
    index_on: str | None

    @property
    def interceptors(self) -> str:
        """The triggers and rules as text, such as "trigger audit", or ""."""
        kinds = (("trigger", self.triggers), ("rule", self.rules))
        return " and ".join(f"{kind}{'s' * (len(names) > 1)} {', '.join(names)}" for kind, names in kinds if names)

    def limit_for(self, name: str) -> str | None:
        """Return the column's length limit as text if this name exceeds it, or None."""
        if self.name_type == "name" and len(name.encode()) > _NAME_BYTES:
            return f"{_NAME_BYTES} bytes, but this name has {len(name.encode())}"
        limit = (self.name_modifier or 0) - _HEADER_CHARS
        if self.name_type in {"character varying", "character"} and 0 < limit < len(name):
            return f"{limit} characters, but this name has {len(name)}"
        return None


def read_facts(conn: Connection, table: TableName, index: str | None = None) -> TableFacts | None:
    """Return the facts about the table and its `index`, or None if the table is missing."""
    here = "n.nspname = {}" if table.schema else "pg_catalog.pg_table_is_visible(c.oid)"
    query = _FACTS.format(
        table=_literal(table.name), index=_literal(index or ""), here=here.format(_literal(table.schema or ""))
    )
    row = conn.execute(query.encode()).fetchone()
    return TableFacts(*row) if row else None


def refused_read(conn: Connection, table: TableName, error: psycopg.Error) -> PostgresRefused:
    """Return the error to raise if the role cannot read the table, with a GRANT if that helps."""
    roll_back_failed(conn)
    remedy = remedy_for_privilege(read_facts(conn, table), table)
    return PostgresRefused(f"The role cannot read {table}: {sentence_of(error)}.{remedy}", "privilege")


def refused_creation(conn: Connection, table: TableName, error: psycopg.Error) -> StorageError:
    """Return the error to raise if the table cannot be created; `table` includes its schema."""
    classified = classify_statement_error(error)
    if not isinstance(classified, PostgresRefused):
        return classified
    roll_back_failed(conn)
    remedy = ""
    (can_create,) = conn.execute(_CAN_CREATE, [table.schema]).fetchone() or (True,)
    event_triggers = [name for (name,) in conn.execute(_EVENT_TRIGGERS).fetchall()]
    if not can_create:
        remedy = f' Run GRANT CREATE ON SCHEMA "{table.schema}" for the role, or create the table first.'
    elif event_triggers:
        names = f"event trigger{'s' * (len(event_triggers) > 1)} {', '.join(event_triggers)}"
        remedy = f" Change the {names} to allow CREATE TABLE, or create the table first."
    return PostgresRefused(f"The role cannot create {table.name}: {sentence_of(error)}.{remedy}", "privilege")


def no_usable_schema(conn: Connection) -> PostgresRefused:
    """Return the error to raise if the role can use none of the schemas in search_path."""
    path, role = conn.execute(_PATH).fetchone() or ("", "")
    names = [(quoted.replace('""', '"') or plain) for quoted, plain in _SCHEMA_NAME.findall(path)]
    names = [role if name == "$user" else name for name in names]
    unusable = [name for (name,) in conn.execute(_EXISTING, [names]).fetchall()]
    if not unusable:
        return PostgresRefused(
            f"No schema in search_path exists (it is set to {path or 'nothing'}). Create one, or change search_path.",
            "privilege",
        )
    return PostgresRefused(
        f"The role lacks USAGE on schema {unusable[0]} in search_path. "
        f'Run GRANT USAGE, CREATE ON SCHEMA "{unusable[0]}" for the role, or change search_path.',
        "privilege",
    )


def remedy_for_privilege(facts: TableFacts | None, table: TableName, *, updates: bool = False) -> str:
    """Return a GRANT with a leading space if the role lacks a privilege on the table or its schema, or "".

    `updates` is True if the role also needs to update rows, because a repeatable migration runs again.
    """
    if not facts:
        return ""
    if not facts.is_usable:
        return f' Run GRANT USAGE ON SCHEMA "{facts.schema}" for the role.'
    if not (facts.can_select and facts.can_insert):
        return f" Run GRANT SELECT, INSERT ON {table.sql} for the role (and UPDATE if there are repeatable migrations)."
    if updates and not facts.can_update:
        return f" Run GRANT UPDATE ON {table.sql} for the role: a repeatable migration that runs again updates its row."
    return ""


def sentence_of(error: psycopg.Error) -> str:
    """Return the server's message, redacted, with its SQLSTATE."""
    return f"{redact_message(error.diag)} (SQLSTATE {error.sqlstate})"


def roll_back_failed(conn: Connection) -> None:
    """Roll back a failed transaction, in which the server rejects every query."""
    if is_in_transaction(conn):
        run(conn, "ROLLBACK")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
