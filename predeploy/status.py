"""What is applied and what is pending, told without changing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from predeploy.drift import has_changed
from predeploy.table import read_rows

if TYPE_CHECKING:
    from datetime import datetime

    from predeploy.migrations import MigrationFiles
    from predeploy.postgres import Connection


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """One name and its state: `applied`, `pending`, `changed` since it was applied, or `missing` on disk."""

    name: str
    state: str
    applied_at: datetime | None = None


def migration_status(conn: Connection, files: MigrationFiles) -> list[MigrationStatus]:
    """Return the state of every file and of every row without one, in order of the names."""
    rows = read_rows(conn) or {}
    found = {}
    for migration in files.migrations:
        row = rows.get(migration.name)
        state = "pending" if row is None else "changed" if has_changed(migration, row) else "applied"
        found[migration.name] = MigrationStatus(migration.name, state, row.applied_at if row else None)
    for name in rows.keys() - found.keys():
        found[name] = MigrationStatus(name, "missing", rows[name].applied_at)
    return [found[name] for name in sorted(found)]
