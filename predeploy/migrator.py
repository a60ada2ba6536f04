"""Apply what is pending, each file in its own transaction with its claim first, and go on after a failure."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg

from predeploy.attempts import attempt
from predeploy.drift import warn_of_drift, warn_of_order
from predeploy.errors import ConnectionLost, PostgresUnavailable, StorageError
from predeploy.execution import AlreadyApplied, Execution
from predeploy.failure import Failure, tell_failure
from predeploy.lock import advisory_lock, end_lost_holder
from predeploy.migrations import Migration, MigrationFiles, MigrationResult, read_migrations
from predeploy.pooler import own_backend
from predeploy.refusals import explain_statement
from predeploy.session import is_lost, own_frame, own_manners, roll_back, run, shared_frame
from predeploy.table import ensure_table, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from psycopg.errors import Diagnostic

    from predeploy.postgres import Connection, ConnectionSource
    from predeploy.session import Frame
    from predeploy.table import MigrationsTable, Row
    from predeploy.watcher import Watcher

log = logging.getLogger(__name__)

_MOST_LOSSES = 3


def run_migrations(db: ConnectionSource, migrations_dir: Path) -> MigrationResult:
    """Apply the directory's pending `.sql` files in code-point order and return what became of each.

    Everything happens on one connection of `db`, under the advisory lock unless nothing is pending. A file that fails
    is rolled back and recorded, and the next one is tried. A missing or empty directory is a no-op.
    """
    return Migrator(db, read_migrations(migrations_dir)).run()


class Migrator:
    """One run over the files; `result` is true at every moment, whatever interrupts the run.

    Timeouts are in seconds; 0 leaves `lock_timeout` and `statement_timeout` as the server sets them. A file that meets
    a lock timeout, a deadlock or a serialization failure is tried `retries` times in all. One that has run for
    `watch_after` seconds is told of; 0 means never.
    """

    def __init__(
        self,
        db: ConnectionSource,
        files: MigrationFiles,
        *,
        lock_wait_timeout: float = 300.0,
        lock_timeout: float = 0.0,
        statement_timeout: float = 0.0,
        retries: int = 5,
        watch_after: float = 5.0,
        stop_on_error: bool = False,
        direct_url: str = "",
    ) -> None:
        self.result = MigrationResult()
        self._db = db
        self._files = files
        self._lock_wait_timeout = lock_wait_timeout
        self._timeouts = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
        self._retries = retries
        self._watch_after = watch_after
        self._stop_on_error = stop_on_error
        self._direct_url = direct_url
        self._running: Migration | None = None
        self._in_doubt: Migration | None = None  # its COMMIT may have been heard, the answer was not
        self._losses: Counter[str] = Counter()
        self._backend: int | None = None  # the last that was ours alone, and may have the lock

    def run(self) -> MigrationResult:
        """Do it, reconnecting when the connection is lost: a row in `_migrations` was committed with its file."""
        from predeploy.watcher import Watcher

        while True:
            with (
                self._connection() as conn,
                own_manners(conn),
                Watcher(self._db, conn, tell_after=self._watch_after) as watcher,
            ):
                conn.add_notice_handler(self._tell_notice)
                try:
                    self._migrate(conn, watcher)
                except psycopg.Error as error:
                    if not is_lost(conn):
                        raise explain_statement(error) from None
                    self._lost(error)
                else:
                    return self.result
                finally:
                    conn.remove_notice_handler(self._tell_notice)

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with ExitStack() as stack:
            try:
                conn = stack.enter_context(self._db.connection())
            except (StorageError, psycopg.OperationalError) as error:
                why = error if isinstance(error, StorageError) else f"no connection to be had ({type(error).__name__})"
                if self._losses:
                    raise ConnectionLost(f"The connection was lost and could not be had again: {why}") from None
                if isinstance(error, StorageError):
                    raise
                raise PostgresUnavailable(f"Postgres cannot be reached: {why}.") from None
            yield conn

    def _lost(self, error: psycopg.Error) -> None:
        name = self._running.name if self._running else ""
        self._in_doubt, self._running = self._running or self._in_doubt, None
        self._losses[name] += 1
        log.warning(
            "The connection was lost%s; connecting again",
            f" while {name} ran" if name else "",
            extra={"event": "connection.lost", "migration": name or None, "sqlstate": error.sqlstate},
        )
        if not name and self._losses[name] >= _MOST_LOSSES:
            raise ConnectionLost(f"The connection was lost {_MOST_LOSSES} times while no migration ran.")

    def _migrate(self, conn: Connection, watcher: Watcher) -> None:
        if self._backend:
            end_lost_holder(conn, self._backend)
        rows = read_rows(conn) or {}
        if not self._pending(rows):  # the fast path: fifty replicas start side by side
            self._finish(rows)
            return
        frame = self._frame(conn, watcher)
        with advisory_lock(conn, timeout=self._lock_wait_timeout, shared=frame.shared):
            table = ensure_table(conn)
            run(conn, frame.setup)
            rows = table.rows(conn)
            pending = self._pending(rows)
            warn_of_order(self._files, [migration.name for migration in pending], rows)
            try:
                for number, migration in enumerate(pending, 1):
                    place = {"number": number, "pending": len(pending)}
                    self._apply(conn, table, migration, frame, watcher, place)
            except BaseException:
                self._break_off(conn, table, frame)
                raise
            self._finish(rows)
        conn.close()  # a pool makes a new one: psycopg would not know that the reset dropped its prepared statements

    def _frame(self, conn: Connection, watcher: Watcher) -> Frame:
        self._backend = watcher.backend = own_backend(conn, self._db)
        if self._backend is None:
            return shared_frame(**self._timeouts)
        return own_frame(**self._timeouts, options=conn.info.options)

    def _break_off(self, conn: Connection, table: MigrationsTable, frame: Frame) -> None:
        """Roll back, and look: a COMMIT that is cancelled while it waits for a standby has committed all the same."""
        roll_back(conn, frame)
        if self._running and not is_lost(conn):
            self._in_doubt = self._running
            with suppress(psycopg.Error, StorageError):
                self._pending(table.rows(conn))

    def _pending(self, rows: dict[str, Row]) -> list[Migration]:
        if self._in_doubt and self._in_doubt.name in rows:
            self._count_as_applied(self._in_doubt)
        decided = {*rows, *self.result.applied, *self.result.not_run, *(e.name for e in self.result.errors)}
        return [migration for migration in self._files.migrations if migration.name not in decided]

    def _apply(
        self,
        conn: Connection,
        table: MigrationsTable,
        migration: Migration,
        frame: Frame,
        watcher: Watcher,
        place: dict[str, int],
    ) -> None:
        name = migration.name
        if self._stop_on_error and self.result.errors:
            self.result.not_run.append(name)
            log.warning("Not run after the failure: %s", name, extra={"event": "migration.not_run", "migration": name})
            return
        if problem := migration.problem or self._given_up(migration):
            self._fail(migration, Failure(problem))
            return
        execution = Execution(conn, table, migration, frame, self._direct_url)
        self._running, self._in_doubt = migration, None
        log.debug("Running %s", name, extra={"event": "migration.started", "migration": name, **place})
        watcher.watch(name, execution.course)
        try:
            attempt(conn, execution, frame, attempts=self._retries, lock_wait_timeout=self._lock_wait_timeout)
        except AlreadyApplied:
            log.info("Another runner applied %s", name, extra={"event": "migration.skipped", "migration": name})
        except Failure as failure:
            self._fail(migration, failure)
        else:
            self._count_as_applied(migration, duration_ms=execution.duration_ms)
        self._running = None

    def _count_as_applied(self, migration: Migration, **fields: Any) -> None:
        self.result.applied.append(migration.name)
        self._running = self._in_doubt = None
        log.info(
            "Applied %s", migration.name, extra={"event": "migration.applied", "migration": migration.name, **fields}
        )

    def _given_up(self, migration: Migration) -> str | None:
        """After a reconnect: why a file whose row is not there must not be run once more."""
        losses = self._losses[migration.name]
        if losses and not migration.transactional:
            return (
                "the connection was lost while this no-transaction file ran: "
                "statements before that have taken effect, look what is there before you run it again"
            )
        if losses >= _MOST_LOSSES:
            return f"the connection was lost each of the {losses} times that this file ran; it was rolled back"
        return None

    def _fail(self, migration: Migration, failure: Failure) -> None:
        tell_failure("Failed", migration, failure, self.result, self._files.migrations)

    def _finish(self, rows: dict[str, Row]) -> None:
        """Fill in what was skipped, and warn of files that are not what was applied."""
        not_skipped = {*self.result.applied, *self.result.not_run, *(e.name for e in self.result.errors)}
        self.result.skipped[:] = [m.name for m in self._files.migrations if m.name not in not_skipped]
        warn_of_drift(self._files, {name: row.checksum for name, row in rows.items()})

    def _tell_notice(self, notice: Diagnostic) -> None:
        from predeploy.disclosure import disclose  # most runs hear none

        name, sql = (self._running.name, self._running.sql) if self._running else (None, "")
        severity = notice.severity_nonlocalized or "NOTICE"
        level = logging.WARNING if severity == "WARNING" else logging.INFO
        log.log(
            level,
            "Postgres says: %s",
            disclose(notice, sql),
            extra={"event": "postgres.notice", "migration": name, "severity": severity, "sqlstate": notice.sqlstate},
        )
