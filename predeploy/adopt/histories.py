"""Find and read the history tables of other migration tools, and never write to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import sql

from predeploy.adopt.known_tools import TOOLS, Tool
from predeploy.connection.query_message import run
from predeploy.errors import PostgresRefused
from predeploy.migrations.migration import normalize
from predeploy.sql.table_name import DEFAULT_TABLE, TableName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from predeploy.connection.connect import Connection

# The second statement counts the tables in the schema, except those that belong to an extension such as PostGIS.
# The third finds tables named `_migrations` in other schemas, if the search path that the role, the database or the
# server sets contains none. A search path in the connection string is a choice, so nothing is looked up.
_LOOK = """
    SELECT n.nspname, c.relname, pg_catalog.row_security_active(c.oid),
           pg_catalog.string_agg(a.attname || ' ' || pg_catalog.format_type(a.atttypid, NULL), ',')
    FROM pg_catalog.pg_class c
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind IN ('r', 'p')
    AND (c.relname = ANY ({tables}::name[]) AND n.nspname = ANY ({schemas}::name[] || ({own})::name)
         OR n.nspname = ({own}) AND EXISTS (SELECT FROM pg_catalog.pg_attribute m
                                            WHERE m.attrelid = c.oid AND m.attname = ANY ({markers}::name[])))
    GROUP BY c.oid, n.nspname, c.relname;
    SELECT ({own}), pg_catalog.count(*)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname = ({own}) AND c.relname <> {table}
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e');
    SELECT n.nspname, EXISTS (SELECT FROM pg_catalog.pg_attribute a
                              WHERE a.attrelid = c.oid AND a.attname = 'checksum' AND NOT a.attisdropped)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relname = {table} AND c.relkind IN ('r', 'p', 'v', 'f') AND c.relpersistence <> 't'
    AND {is_elsewhere} AND to_regclass({located}) IS NULL
    AND (SELECT s.source NOT IN ('client', 'session') FROM pg_catalog.pg_settings s WHERE s.name = 'search_path')
    AND pg_catalog.pg_has_role(c.relowner, 'MEMBER') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
    AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
    AND 2 = (SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attname IN ('name', 'applied_at') AND NOT a.attisdropped)
    ORDER BY n.nspname
"""
# The schema that contains _migrations, or in which it would be created.
_OWN_SCHEMA = """
    COALESCE((SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              WHERE c.oid = to_regclass({table})), current_schema())
"""


class History(NamedTuple):
    """The history table of a tool.

    `is_filtered` is True if row-level security may hide rows from the current role.
    """

    tool: Tool
    schema: str
    name: str
    is_filtered: bool = False

    @property
    def table(self) -> str:
        """The table's name with its schema, for messages."""
        return f"{self.schema}.{self.name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The table's name as SQL."""
        return sql.Identifier(self.schema, self.name)


class Surroundings(NamedTuple):
    """The histories of other tools, and the number of tables other than `_migrations` in its schema.

    `elsewhere` contains the tables named `_migrations` in other schemas, each with whether it has a checksum column, if
    the search path does not find such a table.
    """

    schema: str
    histories: tuple[History, ...]
    tables: int
    elsewhere: tuple[tuple[TableName, bool], ...] = ()


def look_around(conn: Connection, table: TableName = DEFAULT_TABLE) -> Surroundings:
    """Find the histories of all known tools and count the tables in the schema of `table`, in one round trip.

    If `table` does not exist, use the schema in which it would be created.
    """
    located = sql.SQL(_OWN_SCHEMA).format(table=sql.Literal(table.sql))
    own = sql.Literal(table.schema) if table.schema else located
    values = {
        "tables": sql.Literal([*{tool.table for tool in TOOLS}, *{tool.next_to for tool in TOOLS}]),
        "markers": sql.Literal([*{tool.marker for tool in TOOLS if tool.marker}]),
        "schemas": sql.Literal([*{schema for tool in TOOLS for schema in tool.schemas}]),
        "own": own,
        "table": sql.Literal(table.name),
        "located": sql.Literal(table.sql),
        "is_elsewhere": sql.Literal(table.schema is None),
    }
    found, counted, elsewhere = run(conn, sql.SQL(_LOOK).format(**values).as_string(conn))
    rows = [[(found.get_value(row, column) or b"").decode() for column in range(4)] for row in range(found.ntuples)]
    columns = {(schema, name): _columns(text) for schema, name, _, text in rows}
    own_schema = (counted.get_value(0, 0) or b"").decode()
    histories = [
        History(tool, schema, name, is_filtered == "t")
        for schema, name, is_filtered, _ in rows
        if (tool := _tool_of(schema, name, columns, own_schema))
    ]
    return Surroundings(
        own_schema,
        tuple(sorted(histories, key=lambda history: history.table)),
        int(counted.get_value(0, 1) or 0),
        tuple(
            (TableName(table.name, (elsewhere.get_value(row, 0) or b"").decode()), elsewhere.get_value(row, 1) == b"t")
            for row in range(elsewhere.ntuples)
        ),
    )


def read_checksums(conn: Connection, table: TableName, *, has_checksum: bool) -> dict[str, str | None]:
    """Return the checksums in a table named `_migrations` by name."""
    columns = sql.SQL("name::text, checksum::text" if has_checksum else "name::text, NULL")
    query = sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(table.schema or "", table.name))
    return {normalize(name): checksum for name, checksum in conn.execute(query).fetchall()}


def with_rows(conn: Connection, histories: Iterable[History]) -> list[History]:
    """Return the histories that have rows. Raise `PostgresRefused` if the role cannot read one of them."""
    return [history for history in histories if _select(conn, history, "1", "LIMIT 1")]


def read_history(conn: Connection, history: History) -> list[tuple[Any, ...]]:
    """Return the rows in the order in which the tool created them. Raise `PostgresRefused` if they cannot be read."""
    return _select(conn, history, history.tool.select, f"ORDER BY {history.tool.order}")


def _select(conn: Connection, history: History, columns: str, rest: str) -> list[tuple[Any, ...]]:
    query = sql.SQL("SELECT {columns} FROM {table} t WHERE {where} {rest}").format(
        columns=sql.SQL(columns), table=history.identifier, where=sql.SQL(history.tool.where), rest=sql.SQL(rest)
    )
    try:
        rows = conn.execute(query).fetchall()
    except psycopg.errors.InsufficientPrivilege:
        raise _unreadable(history, "The role cannot read") from None
    if not rows and history.is_filtered:
        raise _unreadable(history, "Row-level security may hide the rows of")
    return rows


def _unreadable(history: History, problem: str) -> PostgresRefused:
    return PostgresRefused(
        f"{problem} {history.table}, which seems to be the {history.tool.title} history. "
        f"Run GRANT USAGE ON SCHEMA {history.schema} and GRANT SELECT ON {history.table} for the role, "
        "or connect as the owner of the table. If the table belongs to another application, set "
        "MIGRATE_FOREIGN_HISTORY=ignore.",
        "privilege",
    )


def _tool_of(
    schema: str, table: str, columns: Mapping[tuple[str, str], Mapping[str, str]], own_schema: str
) -> Tool | None:
    for tool in TOOLS:
        schemas = {own_schema if name == "" else name for name in tool.schemas}
        has_name = tool.table == table and schema in schemas
        has_marker = tool.marker in columns[schema, table] and schema == own_schema
        if not (has_name or has_marker) or not tool.fits(columns[schema, table]):
            continue
        if not tool.next_to or (schema, tool.next_to) in columns:
            return tool
    return None


def _columns(text: str) -> dict[str, str]:
    return dict(column.partition(" ")[::2] for column in text.split(","))
