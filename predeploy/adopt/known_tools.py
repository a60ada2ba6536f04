"""The history tables of other migration tools: their names and columns, as the tools create them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_KINDS = {  # types that are treated as equivalent
    "text": ("text", "character varying", "character"),
    "number": ("smallint", "integer", "bigint", "numeric"),
    "boolean": ("boolean",),
    "bytea": ("bytea",),
    "time": ("timestamp without time zone", "timestamp with time zone"),
}


class Tool(NamedTuple):
    """A tool and its history table.

    `columns` maps the columns that identify the table to keys of `_KINDS`. If `is_exact`, the table has no other
    columns. If `next_to` is set, the same schema must contain a table with that name. In `schemas`, "" stands for the
    schema of `_migrations`. `select` lists the columns to read, or is "" if the rows do not identify files. `where`
    excludes rows that the tool creates for its own use.

    Some tools let users choose the name of the table. If `marker` is set to one of the columns, a table with any name
    in the schema of `_migrations` is recognized if all columns match.
    """

    title: str
    table: str
    columns: Mapping[str, str]
    select: str = ""
    where: str = "true"
    order: str = "1"
    schemas: tuple[str, ...] = ("",)
    is_exact: bool = False
    next_to: str = ""
    marker: str = ""

    @property
    def name(self) -> str:
        """The argument of `--from`."""
        return self.title.lower()

    @property
    def is_importable(self) -> bool:
        """Whether the rows name files or their versions."""
        return bool(self.select)

    def fits(self, columns: Mapping[str, str]) -> bool:
        """Return whether a table is this tool's history; `columns` maps the names of its columns to their types."""
        if self.is_exact and columns.keys() != self.columns.keys():
            return False
        return all(columns.get(name) in _KINDS[kind] for name, kind in self.columns.items())


_VERSION = {"version": "text"}
_FLYWAY = {
    "installed_rank": "number",
    "version": "text",
    "type": "text",
    "script": "text",
    "checksum": "number",
    "success": "boolean",
}

# If a table matches two tools, the first tool wins.
TOOLS = (
    Tool("Rails", "schema_migrations", _VERSION, is_exact=True, next_to="ar_internal_metadata"),
    Tool("dbmate", "schema_migrations", _VERSION, "version", is_exact=True),
    Tool(
        "golang-migrate",
        "schema_migrations",
        {"version": "number", "dirty": "boolean"},
        "version::bigint, dirty",
        is_exact=True,
        marker="dirty",
    ),
    Tool(
        "goose",
        "goose_db_version",
        {"id": "number", "version_id": "number", "is_applied": "boolean", "tstamp": "time"},
        "version_id::bigint, is_applied",
        where="version_id <> 0",  # goose creates this row together with the table
        order="id",
        is_exact=True,
        marker="version_id",
    ),
    Tool(
        "Flyway",
        "flyway_schema_history",
        _FLYWAY,
        "version, type, script, success, checksum",
        where="type <> 'SCHEMA'",
        order="installed_rank",
        marker="installed_rank",
    ),
    Tool(
        "Prisma",
        "_prisma_migrations",
        {"checksum": "text", "finished_at": "time", "migration_name": "text", "rolled_back_at": "time"},
        "migration_name, checksum, finished_at IS NOT NULL",
        where="rolled_back_at IS NULL",
        order="started_at",
    ),
    Tool(
        "sqlx",
        "_sqlx_migrations",
        {"version": "number", "success": "boolean", "checksum": "bytea"},
        "version::bigint, success, pg_catalog.encode(checksum, 'hex')",
    ),
    Tool("Supabase", "schema_migrations", _VERSION, "version", schemas=("supabase_migrations",)),
    Tool(
        "Drizzle",
        "__drizzle_migrations",
        {"id": "number", "hash": "text", "created_at": "number"},
        "hash, pg_catalog.to_jsonb(t) ->> 'name'",  # since 1.0
        order="id",
        schemas=("", "drizzle"),
    ),
    Tool(
        "node-pg-migrate",
        "pgmigrations",
        {"id": "number", "name": "text", "run_on": "time"},
        "name",
        order="id",
        is_exact=True,
        marker="run_on",
    ),
    Tool(
        "sql-migrate",
        "gorp_migrations",
        {"id": "text", "applied_at": "time"},
        "id, pg_catalog.to_jsonb(t) ->> 'checksum'",  # in newer versions
    ),
    Tool("yoyo", "_yoyo_migration", {"migration_hash": "text", "migration_id": "text"}, "migration_id"),
    Tool("yoyo", "_yoyo_migration", {"id": "text", "ctime": "time"}, "id"),  # before version 6
    Tool("diesel", "__diesel_schema_migrations", {"version": "text", "run_on": "time"}, "version"),
    Tool("Alembic", "alembic_version", {"version_num": "text"}),
    Tool("Django", "django_migrations", {"app": "text", "name": "text", "applied": "time"}),
    Tool("Sqitch", "changes", {"change_id": "text", "change": "text", "project": "text"}, schemas=("sqitch",)),
)
TOOL_NAMES = tuple(dict.fromkeys(tool.name for tool in TOOLS))
