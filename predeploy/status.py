"""What is applied and what is pending, told without changing anything."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from predeploy.apply.drift import has_changed
from predeploy.apply.migrations_table import read_rows

if TYPE_CHECKING:
    from datetime import datetime

    from predeploy.connection.connect import Connection
    from predeploy.migrations.directory import MigrationFiles

log = logging.getLogger(__name__)

STATES = ("applied", "pending", "changed", "missing")
_MOST_NAMES = 5


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
        state = "pending" if row is None else "changed" if has_changed(migration, row.checksum) else "applied"
        found[migration.name] = MigrationStatus(migration.name, state, row.applied_at if row else None)
    for name in rows.keys() - found.keys():
        found[name] = MigrationStatus(name, "missing", rows[name].applied_at)
    return [found[name] for name in sorted(found)]


def tell_status(rows: list[MigrationStatus]) -> dict[str, int]:
    """Log each row, and return how many there are of each state."""
    for row in rows:
        applied_at = row.applied_at.isoformat() if row.applied_at else None
        fields = {"migration": row.name, "state": row.state, "applied_at": applied_at}
        log.info("%-7s %s", row.state, row.name, extra={"event": "migration.status", **fields})
    counts = Counter(row.state for row in rows)
    return {state: counts[state] for state in STATES}


def describe_pending(names: list[str]) -> str:
    """Return one line that names the first few."""
    if not names:
        return "Nothing is pending"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{len(names)} pending: {', '.join(names[:_MOST_NAMES])}{more}"
