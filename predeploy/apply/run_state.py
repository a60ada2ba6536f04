"""Track the state of each migration during a run: applied, failed, not run, in flight or in doubt.

If the connection is lost, the result of a COMMIT may be lost with it. The migrations in `in_flight` (the running
migration and the rest of its message) are then in doubt until `_migrations` is read again (`reconcile`). A row is
committed together with its migration, so a migration with a row is applied. It is logged with `in_doubt: true`, because
another runner may have applied it in the meantime. A migration without a row is pending again, and fails after
`MAX_LOSSES` losses. A no-transaction migration without a row fails at once, because some of its statements may have
taken effect.

If a migration was reported as applied but has no row, for example after a failover to a standby that had not received
the last commits, the report is withdrawn: the migration is pending again, or fails if it runs without a transaction.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from predeploy.apply.drift import Drift, find_drift, is_applied, refuse, refuse_copies, warn
from predeploy.apply.failure import log_failure
from predeploy.migrations.migration import MigrationFailure, MigrationResult
from predeploy.sql.table_name import DEFAULT_TABLE, TableName

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from predeploy.migrations.migration import Migration, MigrationFiles

log = logging.getLogger(__name__)

MAX_LOSSES = 3
_ROLLED_BACK = "; it was rolled back"
_UNCONFIRMED = "; the server did not confirm the rollback in time. Check {} for what was committed"
_PARTLY_IN_EFFECT = (
    " without a transaction; some of its statements may have taken effect. "
    "Check the schema and {} before you run it again"
)


class RunState:
    """Keeps `result` accurate at all times, even if the run is interrupted.

    `in_flight` contains the running migration and the migrations after it in the same message. `losses` counts lost
    connections by the name of the running migration, or under "" if none was running.
    """

    def __init__(self, files: MigrationFiles, table: TableName = DEFAULT_TABLE) -> None:
        self.result = MigrationResult()
        self.in_flight: list[Migration] = []
        self.losses: Counter[str] = Counter()
        self.is_rolled_back = False  # the server has rolled back the migrations in flight
        self._files = files
        self._table = table
        self._in_doubt: list[Migration] = []
        self._applied: list[Migration] = []  # by this run

    @property
    def running(self) -> Migration | None:
        """The running migration, or None if none is running."""
        return self.in_flight[0] if self.in_flight else None

    @property
    def interrupted(self) -> tuple[str, str] | None:
        """The name of the migration that was interrupted, and its outcome; None if no migration was interrupted."""
        if not (unsettled := self.in_flight or self._in_doubt):
            return None
        if not unsettled[0].transactional:
            return unsettled[0].name, _PARTLY_IN_EFFECT.format(self._table)
        return unsettled[0].name, _ROLLED_BACK if self.is_rolled_back else _UNCONFIRMED.format(self._table)

    def reconcile(self, recorded: Mapping[str, str | None]) -> None:
        """Update the state of this run to match the names and checksums in the table; see the module docstring."""
        for migration in [migration for migration in self._in_doubt if is_applied(migration, recorded)]:
            self.mark_applied(migration, in_doubt=True)
        withdrawn = [m for m in self._applied if not is_applied(m, recorded)]  # replaced by tests/faults/planted.py
        for migration in withdrawn:
            self._withdraw(migration)

    def compare(self, recorded: Mapping[str, str | None], strict: Collection[str]) -> Drift:
        """Compare the files with the table, without the migrations that this run has already decided on.

        A finding of a `strict` kind is an error, and leaves nothing pending.
        """
        drift = find_drift(self._files, recorded)
        refuse_copies(drift)
        decided = {*self.result.applied, *self.result.not_run, *(e.name for e in self.result.errors)}
        pending = [migration for migration in drift.pending if migration.name not in decided]
        # After a reconnect, a migration that failed in this run is not late because of those that ran after it.
        new = [finding for finding in drift.findings if finding.name not in decided]
        findings = [finding for finding in new if finding.kind not in strict]
        if refuse(new, strict, self.result):
            self.result.not_run.extend(migration.name for migration in pending)
            return Drift([], {}, {}, findings)
        return drift._replace(pending=pending, findings=findings)

    def mark_started(self, migration: Migration, place: Mapping[str, int]) -> None:
        """Log that a migration starts; `place` holds its number and the number of pending migrations."""
        self._in_doubt = []
        fields = {"event": "migration.started", "migration": migration.name, **place}
        log.debug("Applying %s", migration.name, extra=fields)

    def mark_applied(self, migration: Migration, *, in_doubt: bool = False, **fields: Any) -> None:
        """Record and log that a migration is applied; if it was `in_doubt`, another runner may have applied it."""
        self.result.applied.append(migration.name)
        self._applied.append(migration)
        self.in_flight = [other for other in self.in_flight if other is not migration]
        self._in_doubt = [other for other in self._in_doubt if other is not migration]
        extra = {"event": "migration.applied", "migration": migration.name, **fields}
        if in_doubt:
            message = "%s is applied (found in %s; another runner may have applied it)"
            log.info(message, migration.name, self._table, extra={**extra, "in_doubt": True})
        else:
            log.info("Applied %s", migration.name, extra=extra)

    def mark_skipped(self, migration: Migration) -> None:
        """Log that another runner has applied a migration."""
        name = migration.name
        log.info("Another runner applied %s", name, extra={"event": "migration.skipped", "migration": name})

    def mark_failed(self, migration: Migration, failure: MigrationFailure) -> None:
        """Record and log that a migration could not be applied."""
        log_failure("Failed", migration, failure, self.result, self._files.migrations)

    def mark_not_run(self, migration: Migration) -> None:
        """Record and log that a migration is not run because an earlier migration failed."""
        name = migration.name
        self.result.not_run.append(name)
        log.warning(
            "Skipped %s because an earlier migration failed",
            name,
            extra={"event": "migration.not_run", "migration": name},
        )

    def mark_connection_lost(self, sqlstate: str | None) -> None:
        """Record and log a lost connection; whether the migrations in flight were committed is not known yet."""
        name = self.running.name if self.running else ""
        self.mark_in_doubt()
        self.losses[name] += 1
        log.warning(
            "Connection lost%s%s",
            f" while applying {name}" if name else "",
            "; reconnecting" if self.losses[""] < MAX_LOSSES else "",
            extra={"event": "connection.lost", "migration": name or None, "sqlstate": sqlstate},
        )

    def mark_in_doubt(self) -> None:
        """Mark the migrations in flight as in doubt: they may or may not be committed."""
        self._in_doubt, self.in_flight = self.in_flight or self._in_doubt, []
        self.is_rolled_back = False

    def refusal_reason(self, migration: Migration) -> str | None:
        """Return why a migration cannot run, possibly because of lost connections, or None if it can run."""
        losses = self.losses[migration.name]
        if losses and not migration.transactional:
            return (
                "the connection was lost while this no-transaction migration was running; "
                "earlier statements may have taken effect. Check the schema before you run it again"
            )
        if losses >= MAX_LOSSES:
            return (
                f"the connection was lost during each of {losses} attempts to apply this migration; it was rolled back"
            )
        return migration.problem

    def finish(self, drift: Drift) -> None:
        """Record the skipped migrations, and warn about files that have changed since they were applied."""
        not_skipped = {*self.result.applied, *self.result.not_run, *(e.name for e in self.result.errors)}
        self.result.skipped[:] = [m.name for m in self._files.migrations if m.name not in not_skipped]
        warn(drift.findings, ("changed", "missing"))

    def _withdraw(self, migration: Migration) -> None:
        """Withdraw an applied migration: mark it as pending again, or as failed if it runs without a transaction."""
        self._applied.remove(migration)
        self.result.applied.remove(migration.name)
        fields = {"event": "migration.undone", "migration": migration.name}
        log.warning(
            "%s was applied, but its row in %s is missing; the server may have lost it in a failover",
            migration.name,
            self._table,
            extra=fields,
        )
        if not migration.transactional:
            self.mark_failed(
                migration,
                MigrationFailure(
                    f"its row in {self._table} is missing, and it was applied without a transaction. "
                    "Check the schema before you run it again"
                ),
            )
