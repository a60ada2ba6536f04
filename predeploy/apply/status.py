"""The state of every migration: applied, pending, changed since it was applied, or missing on disk."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from predeploy.apply.drift import find_drift
from predeploy.apply.migrations_table import read_times
from predeploy.migrations.order import order_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from predeploy.connection.connect import Connection
    from predeploy.migrations.migration import MigrationFiles
    from predeploy.sql.table_name import TableName

log = logging.getLogger("predeploy")

STATES = ("applied", "pending", "changed", "missing")


def log_status(
    conn: Connection, files: MigrationFiles, recorded: Mapping[str, str | None], table: TableName
) -> dict[str, int]:
    """Log the state of each migration in the order of the run, and return the number of migrations per state.

    `recorded` are the checksums in the table by name.
    """
    times = read_times(conn, table)
    drift = find_drift(files, recorded)
    states = {migration.name: "applied" for migration in files.migrations}
    states |= {finding.name: finding.kind for finding in drift.findings if finding.kind in STATES}
    states |= {migration.name: "pending" for migration in drift.pending}
    for name in sorted(states, key=order_key(states, numeric=files.numeric)):
        fields = {"migration": name, "state": states[name], "applied_at": times.get(drift.renamed.get(name, name))}
        log.info("%-7s %s", states[name], name, extra={"event": "migration.status", **fields})
    counts = Counter(states.values())
    return {state: counts[state] for state in STATES}
