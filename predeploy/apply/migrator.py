"""One run: connect, find the pending migrations, take the lock and apply them; reconnect if the connection is lost."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

from predeploy.apply.batch import CAN_RAISE_NOTICE, Batch
from predeploy.apply.directive_warning import warn_of_ignored_directive
from predeploy.apply.drift import find_drift, warn
from predeploy.apply.executor import Execution
from predeploy.apply.loop import ApplyLoop, SessionOutdated
from predeploy.apply.migrations_table import ensure_table, locate, read_rows, warn_if_hidden
from predeploy.apply.run_options import RunOptions
from predeploy.apply.run_state import RunState
from predeploy.connection import stored_settings
from predeploy.connection.login_errors import classify_statement_error
from predeploy.connection.pooler import dedicated_backend_pid
from predeploy.connection.query_message import is_running, run
from predeploy.connection.session import (
    autocommit,
    direct_profile,
    has_default_name,
    is_lost,
    pooled_profile,
    roll_back,
)
from predeploy.errors import ConfigurationError, ConnectionLost, PostgresUnavailable, StorageError
from predeploy.lock.advisory_lock import SESSION_STARTED, advisory_lock, end_stale_session
from predeploy.migrations.directory import read_migrations
from predeploy.monitor.watcher import Watcher
from predeploy.signals import deferred

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from psycopg.errors import Diagnostic

    from predeploy.apply.drift import Drift
    from predeploy.apply.migrations_table import MigrationsTable
    from predeploy.apply.server_ended import ServerEnd
    from predeploy.connection.connect import Connection, ConnectionSource
    from predeploy.connection.session import SessionProfile
    from predeploy.migrations.migration import Migration, MigrationFiles, MigrationResult
    from predeploy.sql.table_name import TableName

log = logging.getLogger(__name__)

_NO_CHECKSUM = (
    "a repeatable migration needs a checksum column, which the table lacks; run ALTER TABLE {} ADD COLUMN checksum TEXT"
)


def run_migrations(db: ConnectionSource, migrations_dir: Path, *, foreign_history: str = "stop") -> MigrationResult:
    """Apply the directory's pending `.sql` files in code-point order, and return each migration's outcome.

    Use a single connection from `db`, and hold the advisory lock unless nothing is pending. If a migration fails, roll
    it back, record the failure and continue with the next file. Do nothing if the directory is missing or empty.

    If nothing is recorded yet and another tool's history has rows, raise `ConfigurationError` before anything runs,
    unless `foreign_history` is "ignore".
    """
    if foreign_history not in {"stop", "ignore"}:
        raise ValueError("foreign_history must be 'stop' or 'ignore'")
    return Migrator(db, read_migrations(migrations_dir), RunOptions(foreign_history=foreign_history)).run()


def is_up_to_date(conn: Connection, files: MigrationFiles, table: TableName) -> bool:
    """Return whether a run has nothing to write, so that a read-only server is enough."""
    return not find_drift(files, read_rows(conn, table) or {}).needs_writes


def _is_server_log(notice: Diagnostic) -> bool:
    """Return whether a notice is a line of the server log, which may quote SQL.

    client_min_messages and auto_explain.log_level can send such lines to the client.
    """
    severity = notice.severity_nonlocalized or ""
    return severity == "LOG" or severity.startswith("DEBUG") or notice.source_function == "explain_ExecutorEnd"


class Migrator:
    """Runs the migrations once; `state.result` is always accurate, even if the run is interrupted."""

    def __init__(self, db: ConnectionSource, files: MigrationFiles, options: RunOptions = RunOptions()) -> None:  # noqa: B008  frozen
        self.state = RunState(files, options.table)
        self._db = db
        self._files = files
        self._options = options
        self._batch: Batch | None = None
        self._loop: ApplyLoop | None = None
        self._checked: set[str] = set()  # names of migrations whose directives have been checked
        self._surroundings_checked = False
        self._table = options.table  # with its schema once found, because a migration may change search_path
        self._renewals = 0  # new sessions, because a migration stored settings
        self._backend_pid: int | None = None  # of the last dedicated session, which may still hold the lock
        self._backend_started: int | None = None  # the result of SESSION_STARTED in that session
        self._end: ServerEnd | None = None  # a warning that the server is ending the current session

    def run(self) -> MigrationResult:
        """Apply the pending migrations; if the connection is lost, reconnect and check the table for commits."""
        while True:
            with (
                self._connect() as conn,
                autocommit(conn),
                Watcher(self._db, conn, log_after=self._options.watch_after) as watcher,
                self._notices_logged(conn),
            ):
                try:
                    self._migrate(conn, watcher)
                except psycopg.Error as error:
                    if not is_lost(conn):
                        raise classify_statement_error(error) from None
                    self._mark_connection_lost(error)
                except SessionOutdated:
                    conn.close()
                    self._renewals += 1
                    reason = "ALTER ROLE or ALTER DATABASE changed settings for new sessions"
                    log.info("Continuing in a new session: %s", reason, extra={"event": "session.renewed"})
                except ConfigurationError:
                    conn.close()  # it still has this run's settings
                    raise
                else:
                    return self.state.result

    def _migrate(self, conn: Connection, watcher: Watcher) -> None:
        """Perform the whole run on one connection; raise a psycopg error if the connection is lost."""
        if self._backend_pid:
            end_stale_session(conn, self._backend_pid, self._backend_started)
        if self._renewals:
            warn_if_hidden(conn, self._options.table, self._table)
        rows = read_rows(conn, self._table) or {}  # replaced by tests/faults/planted.py
        drift = self._compare(rows)
        if not drift.needs_writes:  # without the lock, so that replicas start in parallel
            self.state.finish(drift)
            return
        profile = self._choose_profile(conn, watcher)
        with advisory_lock(conn, timeout=self._options.lock_wait_timeout, pooled=profile.pooled):
            queries = f"{CAN_RAISE_NOTICE};{stored_settings.QUERY};{locate(self._table)};{SESSION_STARTED}"
            *_, can_raise_notice, stored, located, schema, started = run(conn, f"{profile.setup.sql}{queries}")
            value = started.get_value(0, 0) if started.ntuples else None
            self._backend_started = int(value) if value else None
            if not rows:
                self._check_surroundings(conn, may_have_rows=bool(located.ntuples))
            table = ensure_table(conn, self._table, (located, schema))
            self._table, table.condition = table.name, stored_settings.unchanged(stored)
            rows = {} if table.is_new else table.rows(conn)  # replaced by tests/faults/planted.py
            drift = self._compare(rows)
            warn(drift.findings, ("renamed", "misordered", "late"))
            for migration in [m for m in self._files.migrations if m.name in drift.renamed]:
                with suppress(psycopg.errors.UniqueViolation, psycopg.errors.NotNullViolation):  # another runner
                    run(conn, table.claim(conn, migration.name, migration.checksum))
            for migration in drift.pending:
                if migration.repeatable and not table.has_checksum:
                    migration.problem = _NO_CHECKSUM.format(table.name.sql)
            self._warn_of_directives(drift.pending)
            executions = (Execution(conn, table, m, profile, self._options.direct_url) for m in drift.pending)
            self._batch = Batch(conn, profile, can_raise_notice=bool(can_raise_notice.ntuples))
            self._loop = ApplyLoop(conn, profile, self._batch, executions, self.state, watcher, self._options)
            try:
                self._loop.apply()
            except BaseException as error:
                self._break_off(conn, table, profile, error)
                raise
        self.state.finish(drift)
        conn.close()  # so that a pool replaces it: psycopg does not know that the reset dropped its prepared statements

    def _mark_connection_lost(self, error: psycopg.Error) -> None:
        from predeploy.apply.server_ended import read_end  # only needed after a lost connection

        sql = self._loop.notice_source()[1] if self._loop else ""
        end, self._end = read_end(error.diag, sql) or self._end, None
        self.state.mark_connection_lost(end)

    def _compare(self, recorded: Mapping[str, str | None]) -> Drift:
        self.state.reconcile(recorded)
        return self.state.compare(recorded, self._options.strict)

    def _warn_of_directives(self, pending: Sequence[Migration]) -> None:
        for migration in pending:
            if migration.name not in self._checked:  # by this run, on an earlier connection
                warn_of_ignored_directive(migration)
        self._checked |= {migration.name for migration in pending}

    def _check_surroundings(self, conn: Connection, *, may_have_rows: bool) -> None:
        """Raise `ConfigurationError` if another tool may have applied the migrations; call this under the lock.

        If nothing is recorded, check before the table is created, so that a refused run leaves nothing behind.
        """
        if self._surroundings_checked or (may_have_rows and read_rows(conn, self._table)):
            return
        from predeploy.adopt.stop_sign import check_surroundings  # only for the first run on a database

        check_surroundings(conn, self._options.table, self._files, foreign_history=self._options.foreign_history)
        self._surroundings_checked = True

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with ExitStack() as stack:
            try:
                conn = stack.enter_context(self._db.connection())
            except (StorageError, psycopg.OperationalError) as error:
                why = error if isinstance(error, StorageError) else f"no connection available ({type(error).__name__})"
                if self.state.losses:
                    text = f"Connection lost and could not be re-established: {why}"
                    if self.state.last_end:
                        text = f"{text.rstrip('.')}. The server's last message: {self.state.last_end}."
                    raise ConnectionLost(text) from None
                if isinstance(error, StorageError):
                    raise
                raise PostgresUnavailable(f"Could not connect to Postgres: {why}.") from None
            yield conn

    def _choose_profile(self, conn: Connection, watcher: Watcher) -> SessionProfile:
        options = self._options
        timeouts = {"lock_timeout": options.lock_timeout, "statement_timeout": options.statement_timeout}
        self._backend_started = None
        self._backend_pid = watcher.backend = dedicated_backend_pid(conn, self._db)
        profile = direct_profile(**timeouts, options=conn.info.options, migration_settings=options.migration_settings)
        if self._backend_pid is None:  # replaced by tests/faults/planted.py
            profile = pooled_profile(**timeouts, migration_settings=options.migration_settings)
        is_direct = self._backend_pid == conn.info.backend_pid  # otherwise a pooler may keep sessions
        renewable = is_direct and self._renewals < len(self._files.migrations)
        return profile._replace(shows_migration=has_default_name(conn), renewable=renewable)

    def _break_off(
        self, conn: Connection, table: MigrationsTable, profile: SessionProfile, error: BaseException
    ) -> None:
        """Roll back, then read the table: a COMMIT cancelled while waiting for a standby is still committed locally.

        After a signal, if the session is still running or its connection is closed, terminate the session and read the
        table on a second connection.
        """
        if not is_running(conn):
            roll_back(conn, profile)
        if isinstance(error, psycopg.Error) and is_lost(conn):
            return  # the run continues on a new connection
        with suppress(psycopg.Error, StorageError, TimeoutError), ExitStack() as stack:
            has_stopped = True
            if is_running(conn) or is_lost(conn):
                from predeploy.monitor.end_session import OwnSession, end_session  # only needed after a signal

                running = self.state.running
                name = running.name if running else None
                session = OwnSession(self._backend_pid, self._backend_started, profile.mark, name)
                conn, has_stopped = end_session(self._db, conn, stack, session)  # replaced by tests/faults/planted.py
                roll_back(conn, profile)
            if self.state.in_flight:
                self.state.settle_interrupted(table.rows(conn), has_stopped=has_stopped)

    @contextmanager
    def _notices_logged(self, conn: Connection) -> Iterator[None]:
        conn.add_notice_handler(self._log_notice)
        try:
            yield
        finally:
            conn.remove_notice_handler(self._log_notice)

    def _log_notice(self, notice: Diagnostic) -> None:
        if (self._batch and self._batch.is_marker(notice)) or _is_server_log(notice):
            return
        from predeploy.apply.server_ended import read_end  # most runs receive no notices
        from predeploy.redaction.server_message import redact_message

        name, sql = self._loop.notice_source() if self._loop else (None, "")
        if end := read_end(notice, sql):
            self._end = end  # logged when the connection is lost
            return
        severity = notice.severity_nonlocalized or "NOTICE"
        level = logging.WARNING if severity == "WARNING" else logging.INFO
        fields = {"migration": name, "severity": severity, "sqlstate": notice.sqlstate}
        message = redact_message(notice, sql)
        with deferred():
            log.log(
                level,
                "%s from %s: %s",
                severity,
                name or "Postgres",
                message,
                extra={"event": "postgres.notice", **fields},
            )
