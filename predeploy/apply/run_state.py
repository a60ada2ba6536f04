"""What is known of each file in a run, told as it becomes known: applied, failed, not run, or in doubt."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from predeploy.apply.drift import warn_of_drift
from predeploy.apply.failure import Failure, tell_failure
from predeploy.migrations.directory import MigrationResult

if TYPE_CHECKING:
    from collections.abc import Mapping

    from predeploy.apply.migrations_table import Row
    from predeploy.migrations.directory import Migration, MigrationFiles

log = logging.getLogger(__name__)

MOST_LOSSES = 3


class Record:
    """Keeps `result` true at every moment, whatever interrupts the run.

    `sent` are the file that runs and those that travel behind it in its message. `flushed` is false while the last
    commit that is told of may still be lost in a crash of the server.
    """

    def __init__(self, files: MigrationFiles) -> None:
        self.result = MigrationResult()
        self.sent: list[Migration] = []
        self.losses: Counter[str] = Counter()
        self._files = files
        self._in_doubt: list[Migration] = []  # their COMMIT may have been heard, the answer was not
        self._unflushed: list[Migration] = []

    @property
    def running(self) -> Migration | None:
        """The file that runs."""
        return self.sent[0] if self.sent else None

    @property
    def flushed(self) -> bool:
        """Tell whether all that is applied is on the server's disk."""
        return not self._unflushed

    def pending(self, rows: Mapping[str, Row]) -> list[Migration]:
        """Return what is still to be run, now that these rows are there: they were committed with their files."""
        # What travelled behind the file that ran may be there by us, or by who had the lock after us.
        for migration in [migration for migration in self._in_doubt if migration.name in rows]:
            self.applied(migration, how=", unless another runner was faster", in_doubt=True)
        for migration in [migration for migration in self._unflushed if migration.name not in rows]:
            self._undone(migration)
        decided = {*rows, *self.result.applied, *self.result.not_run, *(e.name for e in self.result.errors)}
        return [migration for migration in self._files.migrations if migration.name not in decided]

    def begin(self, migration: Migration, place: Mapping[str, int]) -> None:
        """Take note that a file is run now."""
        self._in_doubt = []
        fields = {"event": "migration.started", "migration": migration.name, **place}
        log.debug("Running %s", migration.name, extra=fields)

    def applied(self, migration: Migration, *, durable: bool = True, how: str = "", **fields: Any) -> None:
        """Take note that a file is committed; one that is not `durable` once a later one is, or `flush` was called."""
        self.result.applied.append(migration.name)
        self.sent = [other for other in self.sent if other is not migration]
        self._in_doubt = [other for other in self._in_doubt if other is not migration]
        if durable:
            self._unflushed = []
        else:
            self._unflushed.append(migration)
        verb = "Applied" if durable else "Committed, not yet flushed:"
        flushed = {} if durable else {"flushed": False}
        extra = {"event": "migration.applied", "migration": migration.name, **fields, **flushed}
        log.info("%s %s%s", verb, migration.name, how, extra=extra)

    def skip(self, migration: Migration) -> None:
        """Take note that another runner has applied it."""
        name = migration.name
        log.info("Another runner applied %s", name, extra={"event": "migration.skipped", "migration": name})

    def fail(self, migration: Migration, failure: Failure) -> None:
        """Take note that it could not be applied."""
        tell_failure("Failed", migration, failure, self.result, self._files.migrations)

    def leave_out(self, migration: Migration) -> None:
        """Take note that it is not run, as one before it failed."""
        name = migration.name
        self.result.not_run.append(name)
        log.warning("Not run after the failure: %s", name, extra={"event": "migration.not_run", "migration": name})

    def lose(self, sqlstate: str | None) -> None:
        """Take note that the connection is lost: whether what was sent is committed, the rows will tell."""
        name = self.running.name if self.running else ""
        self.doubt()
        self.losses[name] += 1
        log.warning(
            "The connection was lost%s; connecting again",
            f" while {name} ran" if name else "",
            extra={"event": "connection.lost", "migration": name or None, "sqlstate": sqlstate},
        )

    def doubt(self) -> None:
        """Take note that nobody knows what was committed of what was sent."""
        self._in_doubt, self.sent = self.sent or self._in_doubt, []

    def flush(self) -> None:
        """Take note that all that is committed is on the server's disk."""
        self._unflushed = []
        log.info("All that was committed is on the server's disk", extra={"event": "run.flushed"})

    def obstacle(self, migration: Migration) -> str | None:
        """Return why a file cannot be run, or after the connection was lost must not be run once more."""
        losses = self.losses[migration.name]
        if losses and not migration.transactional:
            return (
                "the connection was lost while this no-transaction file ran: "
                "statements before that have taken effect, look what is there before you run it again"
            )
        if losses >= MOST_LOSSES:
            return f"the connection was lost each of the {losses} times that this file ran; it was rolled back"
        return migration.problem

    def finish(self, rows: Mapping[str, Row]) -> None:
        """Fill in what was skipped, and warn of files that are not what was applied."""
        not_skipped = {*self.result.applied, *self.result.not_run, *(e.name for e in self.result.errors)}
        self.result.skipped[:] = [m.name for m in self._files.migrations if m.name not in not_skipped]
        warn_of_drift(self._files, {name: row.checksum for name, row in rows.items()})

    def _undone(self, migration: Migration) -> None:
        self._unflushed.remove(migration)
        self.result.applied.remove(migration.name)
        log.warning(
            "The server has lost %s, which was committed and not flushed: it will be applied again",
            migration.name,
            extra={"event": "migration.undone", "migration": migration.name},
        )
