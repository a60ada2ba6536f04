"""One run: connect, find the pending migrations, take the lock and apply them; reconnect if the connection is lost."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg

from predeploy.apply.batch import CAN_RAISE_NOTICE, Batch
from predeploy.apply.directive_warning import warn_of_ignored_directive
from predeploy.apply.drift import warn
from predeploy.apply.executor import Execution
from predeploy.apply.loop import ApplyLoop
from predeploy.apply.migrations_table import checksums, ensure_table, locate, read_rows
from predeploy.apply.run_options import RunOptions
from predeploy.apply.run_state import MAX_LOSSES, RunState
from predeploy.connection.login_errors import classify_statement_error
from predeploy.connection.pooler import dedicated_backend_pid
from predeploy.connection.query_message import run
from predeploy.connection.session import (
    autocommit,
    direct_profile,
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
    from predeploy.apply.migrations_table import MigrationsTable, Row
    from predeploy.connection.connect import Connection, ConnectionSource
    from predeploy.connection.session import SessionProfile
    from predeploy.migrations.migration import Migration, MigrationFiles, MigrationResult

log = logging.getLogger(__name__)

_NO_CHECKSUM = (
    "a repeatable migration needs the column checksum, which the table lacks; "
    "run ALTER TABLE {} ADD COLUMN checksum TEXT"
)

_LAST_LOOK_S = 0.8  # for a login during cleanup; must end before the forced exit


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


class Migrator:
    """Runs the migrations once; `state.result` is always accurate, even if the run is interrupted."""

    def __init__(self, db: ConnectionSource, files: MigrationFiles, options: RunOptions = RunOptions()) -> None:  # noqa: B008  frozen
        self.state = RunState(files, options.table)
        self._db = db
        self._files = files
        self._options = options
        self._table = options.table  # with its schema once it is found: a migration may change the search_path
        self._batch: Batch | None = None
        self._loop: ApplyLoop | None = None
        self._checked: set[str] = set()  # names of migrations whose directives have been checked
        self._surroundings_checked = False
        self._backend_pid: int | None = None  # of the last dedicated session, which may still hold the lock
        self._backend_started: int | None = None  # the result of SESSION_STARTED there; None if not known yet

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
                    self.state.mark_connection_lost(error.sqlstate)
                    if self.state.losses[""] >= MAX_LOSSES:
                        raise ConnectionLost(
                            f"The connection was lost {MAX_LOSSES} times while no migration was running."
                        ) from None
                except ConfigurationError:
                    conn.close()  # it has the settings of a run
                    raise
                else:
                    return self.state.result

    def _migrate(self, conn: Connection, watcher: Watcher) -> None:
        """Perform the whole run on one connection; raise a psycopg error if the connection is lost."""
        if self._backend_pid:
            end_stale_session(conn, self._backend_pid, self._backend_started)
        rows = read_rows(conn, self._table) or {}  # replaced by tests/faults/planted.py
        drift = self._compare(rows)
        if not drift.pending and not drift.renamed:  # without the lock, so that replicas start in parallel
            self.state.finish(drift)
            return
        profile = self._choose_profile(conn, watcher)
        with advisory_lock(conn, timeout=self._options.lock_wait_timeout, pooled=profile.pooled):
            queries = f"{CAN_RAISE_NOTICE};{locate(self._table)};{SESSION_STARTED}"
            *_, can_raise_notice, located, schema, started = run(conn, f"{profile.setup.sql}{queries}")
            value = started.get_value(0, 0) if started.ntuples else None
            self._backend_started = int(value) if value else None
            if not rows:
                self._check_surroundings(conn, may_have_rows=bool(located.ntuples))
            table = ensure_table(conn, self._table, (located, schema))
            self._table = table.name
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

    def _compare(self, rows: Mapping[str, Row]) -> Drift:
        recorded = checksums(rows)
        self.state.reconcile(recorded)
        return self.state.compare(recorded, self._options.strict)

    def _warn_of_directives(self, pending: Sequence[Migration]) -> None:
        for migration in pending:
            if migration.name not in self._checked:  # by an earlier connection of this run
                warn_of_ignored_directive(migration)
        self._checked |= {migration.name for migration in pending}

    def _check_surroundings(self, conn: Connection, *, may_have_rows: bool) -> None:
        """Raise `ConfigurationError` if another tool may have applied the migrations; call this under the lock.

        If nothing is recorded, check before the table is created, so that a refused run leaves nothing behind.
        """
        if self._surroundings_checked or (may_have_rows and read_rows(conn, self._options.table)):
            return
        from predeploy.adopt.stop_sign import check_surroundings  # only for the first run on a database

        check_surroundings(conn, self._options.table, foreign_history=self._options.foreign_history)
        self._surroundings_checked = True

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with ExitStack() as stack:
            try:
                conn = stack.enter_context(self._db.connection())
            except (StorageError, psycopg.OperationalError) as error:
                why = error if isinstance(error, StorageError) else f"no connection available ({type(error).__name__})"
                if self.state.losses:
                    raise ConnectionLost(f"Connection lost and could not be re-established: {why}") from None
                if isinstance(error, StorageError):
                    raise
                raise PostgresUnavailable(f"Could not connect to Postgres: {why}.") from None
            yield conn

    def _choose_profile(self, conn: Connection, watcher: Watcher) -> SessionProfile:
        options = self._options
        timeouts = {"lock_timeout": options.lock_timeout, "statement_timeout": options.statement_timeout}
        self._backend_started = None
        self._backend_pid = watcher.backend = dedicated_backend_pid(conn, self._db)
        if self._backend_pid is None:  # replaced by tests/faults/planted.py
            return pooled_profile(**timeouts, migration_settings=options.migration_settings)
        given = conn.info.options
        return direct_profile(**timeouts, options=given, migration_settings=options.migration_settings)

    def _break_off(
        self, conn: Connection, table: MigrationsTable, profile: SessionProfile, error: BaseException
    ) -> None:
        """Roll back, then read the table: a COMMIT cancelled while it waits for a standby is still committed locally.

        If the interruption closed the connection, try once to read the table on a new connection.
        """
        roll_back(conn, profile)
        with suppress(psycopg.Error, StorageError), ExitStack() as stack:
            if is_new := is_lost(conn):
                if isinstance(error, psycopg.Error):
                    return  # the run continues on a new connection
                conn = stack.enter_context(self._db.connection(timeout=_LAST_LOOK_S))
                if self._backend_pid:
                    end_stale_session(conn, self._backend_pid, self._backend_started)
            if self.state.in_flight:
                self.state.mark_in_doubt()
                self.state.reconcile(checksums(table.rows(conn)))
                self.state.is_rolled_back = not is_new  # the old session may still commit

    @contextmanager
    def _notices_logged(self, conn: Connection) -> Iterator[None]:
        conn.add_notice_handler(self._log_notice)
        try:
            yield
        finally:
            conn.remove_notice_handler(self._log_notice)

    def _log_notice(self, notice: Diagnostic) -> None:
        if self._batch and self._batch.is_marker(notice):
            return
        from predeploy.redaction.server_message import redact_message  # most runs receive no notices

        name, sql = self._loop.notice_source() if self._loop else (None, "")
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
