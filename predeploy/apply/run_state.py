"""Track the state of each migration during a run: applied, failed, not run, in flight or in doubt.

If the connection is lost, the result of a COMMIT may be lost with it. The migrations in `in_flight` (the running
migration and the rest of its message) are then in doubt until `_migrations` is read again (`reconcile`). A row is
committed together with its migration, so a migration with a row is applied. It is logged with `in_doubt: true`, because
another runner may have applied it in the meantime. A migration without a row is pending again, and fails after
`MAX_LOSSES` losses. It fails at once if the server ended the session for a reason that would recur, such as
transaction_timeout. A no-transaction migration without a row also fails at once, because some of its statements may
have taken effect.

If a migration was reported as applied but has no row, for example after a failover to a standby that had not received
the last commits, the report is withdrawn: the migration is pending again, or fails if it runs without a transaction.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from predeploy.apply.drift import Drift, find_drift, is_applied, refuse, refuse_copies, warn
from predeploy.apply.failure import log_failure
from predeploy.errors import ConnectionLost
from predeploy.migrations.migration import MigrationFailure, MigrationResult
from predeploy.sql.table_name import DEFAULT_TABLE, TableName

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from predeploy.apply.server_ended import ServerEnd
    from predeploy.migrations.migration import Migration, MigrationFiles

log = logging.getLogger(__name__)

MAX_LOSSES = 3
_ROLLED_BACK = "; it was rolled back"
_COMMITTED = "; it was committed"
_UNCONFIRMED = (
    "; the server did not confirm the rollback in time, so statements already sent may still take effect. "
    "Check {} to see what was committed"
)
_PARTLY_IN_EFFECT = (
    " without a transaction; some of its statements may have taken effect{}. "
    "Check the schema and {} before you run it again"
)
_STILL_RUNNING = ", and the last one may still be running"


class RunState:
    """Keeps `result` accurate at all times, even if the run is interrupted.

    `in_flight` contains the running migration and the migrations after it in the same message. `losses` counts lost
    connections by the name of the running migration, or under "" if none was running. `last_end` is the message with
    which the server ended the last lost session, or None if it sent no message.
    """

    def __init__(self, files: MigrationFiles, table: TableName = DEFAULT_TABLE) -> None:
        self.result = MigrationResult()
        self.in_flight: list[Migration] = []
        self.losses: Counter[str] = Counter()
        self.last_end: ServerEnd | None = None
        self.is_rolled_back = False  # the server has rolled back the migrations in flight
        self._files = files
        self._table = table
        self._in_doubt: list[Migration] = []
        self._ends: dict[str, ServerEnd] = {}  # by the name of the running migration, or "" if none was running
        self._committed: Migration | None = None  # was running when a signal arrived, and was committed
        self._applied: list[Migration] = []  # by this run

    @property
    def running(self) -> Migration | None:
        """The running migration, or None if none is running."""
        return self.in_flight[0] if self.in_flight else None

    @property
    def interrupted(self) -> tuple[str, str] | None:
        """The name of the migration that was interrupted, and its outcome; None if no migration was interrupted."""
        unsettled = self.in_flight or self._in_doubt
        if self._committed and (self.is_rolled_back or not unsettled):
            return self._committed.name, _COMMITTED
        if not unsettled:
            return None
        if not unsettled[0].transactional:
            still_running = "" if self.is_rolled_back else _STILL_RUNNING
            return unsettled[0].name, _PARTLY_IN_EFFECT.format(still_running, self._table)
        return unsettled[0].name, _ROLLED_BACK if self.is_rolled_back else _UNCONFIRMED.format(self._table)

    def reconcile(self, recorded: Mapping[str, str | None]) -> None:
        """Update the state of this run to match the names and checksums in the table; see the module docstring."""
        for migration in [migration for migration in self._in_doubt if is_applied(migration, recorded)]:
            self.mark_applied(migration, in_doubt=True)
        withdrawn = [m for m in self._applied if not is_applied(m, recorded)]  # replaced by tests/faults/planted.py
        for migration in withdrawn:
            self._withdraw(migration)

    def compare(self, recorded: Mapping[str, str | None], strict: Collection[str]) -> Drift:
        """Compare the files with the table, leaving out the migrations whose outcome this run has already recorded.

        A finding whose kind is in `strict` is an error, and then no migration is pending.
        """
        drift = find_drift(self._files, recorded)
        refuse_copies(drift)
        decided = {*self.result.applied, *self.result.not_run, *(e.name for e in self.result.errors)}
        pending = [migration for migration in drift.pending if migration.name not in decided]
        # After a reconnect, a migration that failed in this run does not count as late, although later ones have run.
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

    def mark_connection_lost(self, end: ServerEnd | None) -> None:
        """Record and log a lost connection. It is not known yet whether the migrations in flight were committed.

        `end` is the message with which the server ended the session, if it sent one. Raise `ConnectionLost` if no
        migration was running and reconnecting would not help, because the reason would recur or because this is loss
        number `MAX_LOSSES`.
        """
        name = self.running.name if self.running else ""
        self.mark_in_doubt()
        self.losses[name] += 1
        self.last_end = end
        if end:
            self._ends[name] = end
        problem = None if name else self._problem_without_migration(end)
        log.warning(
            "Connection lost%s%s%s",
            f" while applying {name}" if name else "",
            f": {end}" if end else "",
            "" if problem else "; reconnecting",
            extra={
                "event": "connection.lost",
                "migration": name or None,
                "sqlstate": end.sqlstate if end else None,
                "error": end.sentence if end else None,
            },
        )
        if problem:
            raise ConnectionLost(problem)

    def _problem_without_migration(self, end: ServerEnd | None) -> str | None:
        """Return why the run ends if no migration was running, or None if it reconnects."""
        if end and not end.runs_again:
            return f"The server ended the session while no migration was running: {end}. {end.advice}".rstrip()
        if self.losses[""] < MAX_LOSSES:
            return None
        last = f" The server's last message: {self._ends['']}." if "" in self._ends else ""
        return f"The connection was lost {MAX_LOSSES} times while no migration was running.{last}"

    def mark_in_doubt(self) -> None:
        """Mark the migrations in flight as in doubt: they may or may not be committed."""
        self._in_doubt, self.in_flight = self.in_flight or self._in_doubt, []
        self.is_rolled_back = False

    def settle_interrupted(self, recorded: Mapping[str, str | None], *, has_stopped: bool) -> None:
        """After a signal, update the migrations in flight to match the table.

        `has_stopped` is True if the server is no longer running anything that was sent.
        """
        running = self.running
        self.mark_in_doubt()
        self.reconcile(recorded)
        self.is_rolled_back = has_stopped
        if running and is_applied(running, recorded):
            self._committed = running

    def refusal(self, migration: Migration) -> MigrationFailure | None:
        """Return the reason a migration cannot run (for example, too many lost connections), or None if it can."""
        losses, end = self.losses[migration.name], self._ends.get(migration.name)
        fields = end.fields if end else {}
        if losses and not migration.transactional:
            what = f"the server ended the session: {end.sentence}" if end else "the connection was lost"
            if end and end.runs_again:
                fields["advice"] = None  # it advises running it again, but the schema must be checked first
            return MigrationFailure(
                f"{what}; earlier statements of this no-transaction migration may have taken effect. "
                "Check the schema before you run it again",
                **fields,
            )
        if losses and end and not end.runs_again:
            return MigrationFailure(
                f"the server ended the session: {end.sentence}; the migration was rolled back", **fields
            )
        if losses >= MAX_LOSSES:
            last = f". The server's last message: {end.sentence}" if end else ""
            return MigrationFailure(
                f"the connection was lost during each of {losses} attempts to apply this migration; "
                f"it was rolled back{last}",
                **fields,
            )
        return MigrationFailure(migration.problem, line=migration.problem_line) if migration.problem else None

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
