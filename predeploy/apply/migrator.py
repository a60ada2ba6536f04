"""Apply what is pending, each file in its own transaction with its claim first, and go on after a failure."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import psycopg

from predeploy.apply.batch import MAY_RAISE, Batch
from predeploy.apply.drift import warn_of_order
from predeploy.apply.executor import Execution
from predeploy.apply.loop import Pending
from predeploy.apply.migrations_table import LOCATE, ensure_table, read_rows
from predeploy.apply.run_state import MOST_LOSSES, Record
from predeploy.connection.login_errors import explain_statement
from predeploy.connection.pooler import own_backend
from predeploy.connection.session import is_lost, own_frame, own_manners, roll_back, run, shared_frame
from predeploy.errors import ConnectionLost, PostgresUnavailable, StorageError
from predeploy.lock.advisory_lock import advisory_lock, end_lost_holder
from predeploy.migrations.directory import Migration, MigrationFiles, MigrationResult, read_migrations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from psycopg.errors import Diagnostic

    from predeploy.apply.migrations_table import MigrationsTable
    from predeploy.connection.connect import Connection, ConnectionSource
    from predeploy.connection.session import Frame
    from predeploy.monitor.watcher import Watcher

log = logging.getLogger(__name__)

_LOST_TOO_OFTEN = f"The connection was lost {MOST_LOSSES} times while no migration ran."
_LOOK_S = 0.8  # for a login on the way out, less than what a signal leaves us
# A writing transaction, so that its COMMIT flushes all that was committed before it.
_FLUSH = "SELECT pg_catalog.pg_logical_emit_message(true, 'pg-predeploy', '')"


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
    `watch_after` seconds is told of; 0 means never. With `flush_once` only the last commit waits for the disk. Who
    `has_seen` that something is pending has it not looked for again before the lock is held. Of the wait for that
    `lock_waited` seconds are over; `on_lock` is called when it is held.
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
        flush_once: bool = False,
        has_seen: bool = False,
        lock_waited: float = 0.0,
        on_lock: Callable[[], object] = lambda: None,
    ) -> None:
        self._record = Record(files)
        self.result = self._record.result
        self._db = db
        self._files = files
        self._lock_wait_timeout = lock_wait_timeout
        self._timeouts = {"lock_timeout": lock_timeout, "statement_timeout": statement_timeout}
        self._policy: dict[str, Any] = {
            "attempts": retries,
            "lock_wait_timeout": lock_wait_timeout,
            "stop_on_error": stop_on_error,
        }
        self._watch_after = watch_after
        self._direct_url = direct_url
        self._flush_once = flush_once
        self._has_seen = has_seen
        self._lock_waited = lock_waited
        self._on_lock = on_lock
        self._batch: Batch | None = None
        self._pending: Pending | None = None
        self._backend: int | None = None  # the last that was ours alone, and may have the lock

    def run(self) -> MigrationResult:
        """Do it, reconnecting when the connection is lost: a row in `_migrations` was committed with its file."""
        from predeploy.monitor.watcher import Watcher

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
                    self._record.lose(error.sqlstate)
                    if self._record.losses[""] >= MOST_LOSSES:
                        raise ConnectionLost(
                            f"The connection was lost {MOST_LOSSES} times while no migration ran."
                        ) from None
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
                if self._record.losses:
                    raise ConnectionLost(f"The connection was lost and could not be had again: {why}") from None
                if isinstance(error, StorageError):
                    raise
                raise PostgresUnavailable(f"Postgres cannot be reached: {why}.") from None
            yield conn

    def _migrate(self, conn: Connection, watcher: Watcher) -> None:
        if self._backend:
            end_lost_holder(conn, self._backend)
        if not self._has_seen or self._record.losses:
            rows = read_rows(conn) or {}
            if not self._record.pending(rows):  # the fast path: fifty replicas start side by side
                self._record.finish(rows)
                return
        frame = self._frame(conn, watcher)
        with advisory_lock(conn, timeout=self._lock_wait_timeout, waited=self._lock_waited, shared=frame.shared):
            self._on_lock()
            *_, may_raise, located, schema = run(conn, f"{frame.setup}{MAY_RAISE};{LOCATE}")
            table = ensure_table(conn, (located, schema))
            rows = {} if table.is_new else table.rows(conn)
            pending = self._record.pending(rows)
            warn_of_order(self._files, [migration.name for migration in pending], rows)
            try:
                executions = self._executions(conn, table, pending, frame)
                self._batch = Batch(conn, frame, may_raise=bool(may_raise.ntuples))
                self._pending = Pending(executions, self._record, watcher, **self._policy)
                self._pending.apply(conn, frame, self._batch)
                self._flush(conn)
            except BaseException as why:
                self._break_off(conn, table, frame, why)
                raise
            self._record.finish(rows)
        conn.close()  # a pool makes a new one: psycopg would not know that the reset dropped its prepared statements

    def _frame(self, conn: Connection, watcher: Watcher) -> Frame:
        self._backend = watcher.backend = own_backend(conn, self._db)
        if self._backend is None:
            return shared_frame(**self._timeouts)
        return own_frame(**self._timeouts, options=conn.info.options)

    def _executions(
        self, conn: Connection, table: MigrationsTable, pending: list[Migration], frame: Frame
    ) -> Iterator[Execution]:
        for number, migration in enumerate(pending, 1):
            later = self._flush_once and not frame.shared and migration.transactional and number < len(pending)
            yield Execution(conn, table, migration, frame, self._direct_url, durable=not later)

    def _flush(self, conn: Connection) -> None:
        """Make durable what was committed without waiting for the disk, where no later commit has done so."""
        if not self._record.flushed:
            run(conn, _FLUSH)
            self._record.flush()

    def _break_off(self, conn: Connection, table: MigrationsTable, frame: Frame, why: BaseException) -> None:
        """Roll back, and look: a COMMIT that is cancelled while it waits for a standby has committed all the same.

        Where an interruption has cost us the connection another one looks, if it is to be had at once.
        """
        roll_back(conn, frame)
        with suppress(psycopg.Error, StorageError), ExitStack() as stack:
            if is_lost(conn):
                if isinstance(why, psycopg.Error):
                    return  # the run goes on with another connection
                conn = stack.enter_context(self._db.connection(timeout=_LOOK_S))
                if self._backend:
                    end_lost_holder(conn, self._backend)
            if self._record.sent:
                self._record.doubt()
                self._record.pending(table.rows(conn))
            self._flush(conn)

    def _tell_notice(self, notice: Diagnostic) -> None:
        if self._batch and self._batch.is_mark(notice):
            return
        from predeploy.redaction.server_message import disclose  # most runs hear none

        running = self._record.running
        name, sql = (running.name, running.sql) if running else (None, "")
        if running and running.path is not None and self._pending:
            sql = self._pending.text
        severity = notice.severity_nonlocalized or "NOTICE"
        level = logging.WARNING if severity == "WARNING" else logging.INFO
        log.log(
            level,
            "Postgres says: %s",
            disclose(notice, sql),
            extra={"event": "postgres.notice", "migration": name, "severity": severity, "sqlstate": notice.sqlstate},
        )
