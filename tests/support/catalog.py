"""The contents of a database as one value, to compare two points in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.database import Database

CATALOGS = (
    "pg_class", "pg_attribute", "pg_constraint", "pg_index", "pg_inherits", "pg_namespace", "pg_proc", "pg_rewrite",
    "pg_trigger", "pg_type", "pg_policy", "pg_depend", "pg_description",
)  # fmt: skip


def snapshot(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of the catalogs that describe objects, without statistics, and of the owner's tables."""
    found = {}
    for name in CATALOGS:
        without = " - 'relpages' - 'reltuples' - 'relallvisible' - 'relallfrozen'"
        without += " - 'relfrozenxid' - 'relminmxid'"
        found[name] = database.admin_query(f"SELECT (to_jsonb(c){without})::text FROM {name} c ORDER BY 1")
    tables = database.admin_query("SELECT oid::regclass::text FROM pg_class WHERE oid >= 16384 AND relkind = 'r'")
    for (table,) in tables:
        found[table] = database.admin_query(f"SELECT t::text FROM {table} t ORDER BY 1")
    return found
