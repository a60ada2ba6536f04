"""Rehearse the pending migrations: run them on the real database in one transaction, then roll it back."""

from __future__ import annotations

import logging
import secrets
from typing import TYPE_CHECKING

import psycopg

from predeploy.adopt.stop_sign import check_surroundings
from predeploy.apply.directive_warning import warn_of_ignored_directive
from predeploy.apply.drift import find_drift, refuse_copies
from predeploy.apply.executor import Execution
from predeploy.apply.failure import log_failure
from predeploy.apply.migrations_table import ensure_table, read_rows
from predeploy.apply.refused_claim import AlreadyApplied, ClaimRefused
from predeploy.connection.login_errors import classify_statement_error
from predeploy.connection.pooler import backend_pid, dedicated_backend_pid
from predeploy.connection.query_message import run
from predeploy.connection.session import (
    SessionProfile,
    autocommit,
    direct_profile,
    is_lost,
    join,
    pooled_profile,
    roll_back,
)
from predeploy.errors import ConnectionLost
from predeploy.lock.advisory_lock import begin_with_lock
from predeploy.migrations.migration import MigrationFailure
from predeploy.monitor.end_session import OwnSession, stop_session
from predeploy.monitor.statement_counter import StatementCounter
from predeploy.monitor.watcher import Watcher
from predeploy.plan.catalog import read_relations
from predeploy.plan.lock_modes import LockMode, lock_mode_of
from predeploy.plan.static_plan import add_lock, describe_locks, lock_fields, relevant_locks
from predeploy.sql.table_name import DEFAULT_TABLE, TableName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from predeploy.apply.migrations_table import MigrationsTable
    from predeploy.connection.connect import Connection, ConnectionSource
    from predeploy.migrations.migration import Migration, MigrationFiles, MigrationResult
    from predeploy.plan.catalog import Relation

log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 2.0  # while the rehearsal waits for a lock, other sessions queue behind it
STATEMENT_TIMEOUT_S = 300.0
_LOCKS = """
    SELECT l.relation::int8, l.mode FROM pg_catalog.pg_locks l
    WHERE l.locktype = 'relation' AND l.granted AND l.pid = pg_catalog.pg_backend_pid()
    AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
"""
# Run the checks that COMMIT would run, then restore the initially deferred constraints. List the constraints by name,
# because SET CONSTRAINTS ALL would also apply to constraints created by later migrations.
_CHECK_DEFERRED = (
    "SET SESSION AUTHORIZATION DEFAULT",
    """DO LANGUAGE plpgsql $predeploy$
DECLARE every text; later text;
BEGIN
    SELECT pg_catalog.string_agg(c.name, ','), pg_catalog.string_agg(c.name, ',') FILTER (WHERE c.later)
    INTO every, later
    FROM (
        SELECT pg_catalog.format('%I.%I', n.nspname, c.conname) AS name,
               pg_catalog.bool_or(c.condeferred) AND pg_catalog.bool_and(c.condeferrable) AS later
        FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace
        WHERE pg_catalog.has_schema_privilege(n.oid, 'USAGE')
        GROUP BY 1 HAVING pg_catalog.bool_or(c.condeferrable)
    ) AS c;
    IF every IS NOT NULL THEN
        EXECUTE 'SET CONSTRAINTS ' || every || ' IMMEDIATE';
    END IF;
    IF later IS NOT NULL THEN
        EXECUTE 'SET CONSTRAINTS ' || later || ' DEFERRED';
    END IF;
END $predeploy$""",
)
_IN_USE = "another session holds the lock. Find that session, then rehearse again; the migration itself may be correct"
_LOST = "The connection was lost during the rehearsal. Nothing was committed."


def rehearse(
    db: ConnectionSource,
    files: MigrationFiles,
    result: MigrationResult,
    *,
    lock_wait_timeout: float,
    lock_timeout: float,
    statement_timeout: float,
    table: TableName = DEFAULT_TABLE,
    migration_settings: Sequence[tuple[str, str]] = (),
    foreign_history: str = "stop",
) -> tuple[str, dict[str, int]]:
    """Run the pending migrations under the migration lock, roll them back, and add failures to `result`.

    Return the message and fields for the summary line. Timeouts are in seconds; 0 for the lock or statement timeout
    selects this module's default. Raise `ConfigurationError` if nothing is recorded and another tool's history has
    rows, unless `foreign_history` is "ignore".
    """
    timeouts = {
        "lock_timeout": lock_timeout or LOCK_TIMEOUT_S,
        "statement_timeout": statement_timeout or STATEMENT_TIMEOUT_S,
    }
    with db.connection() as conn, autocommit(conn), Watcher(db, conn) as watcher:
        try:
            if not _pending(conn, files, table):
                return "No pending migrations", {"rehearsed": 0, "not_rehearsed": 0}
            if not read_rows(conn, table):  # before the transaction, which a missing table would abort
                check_surroundings(conn, table, files, foreign_history=foreign_history)
            pooled = dedicated_backend_pid(conn, db) is None
            if pooled:
                profile = pooled_profile(**timeouts, migration_settings=migration_settings)
            else:
                options = conn.info.options
                profile = direct_profile(**timeouts, options=options, migration_settings=migration_settings)
            try:
                run(conn, profile.setup.sql)
                begin_with_lock(conn, profile.begin.sql, timeout=lock_wait_timeout)
                watcher.backend = backend_pid(conn)
                rehearsal = _Rehearsal(conn, profile, watcher, files, table, result)
                for migration in _pending(conn, files, table):
                    rehearsal.run(migration)
            finally:
                stop_session(db, conn, OwnSession(watcher.backend, None, profile.mark, None))
                roll_back(conn, profile)
        except psycopg.Error as error:
            if is_lost(conn):
                from predeploy.apply.server_ended import last_message  # only needed after a lost connection

                raise ConnectionLost(f"{_LOST}{last_message(error)}") from None
            raise classify_statement_error(error) from None
    rehearsed, left_out = rehearsal.rehearsed, rehearsal.not_rehearsed
    message = f"Rehearsed: {rehearsed} would succeed, {len(result.errors)} would fail, {left_out} not rehearsed"
    return message, {"rehearsed": rehearsed, "not_rehearsed": left_out}


def _pending(conn: Connection, files: MigrationFiles, table: TableName) -> list[Migration]:
    drift = find_drift(files, read_rows(conn, table) or {})
    refuse_copies(drift)
    return drift.pending


class _Rehearsal:
    """Runs migrations in one open transaction, each in a savepoint that is rolled back if the migration fails."""

    def __init__(
        self,
        conn: Connection,
        profile: SessionProfile,
        watcher: Watcher,
        files: MigrationFiles,
        table: TableName,
        result: MigrationResult,
    ) -> None:
        self._files = files
        self.rehearsed = 0
        self.not_rehearsed = 0
        self._conn = conn
        self._watcher = watcher
        self._result = result
        self._relations = read_relations(conn)
        self._table: MigrationsTable = ensure_table(conn, table, alter=False)
        self._table.rows(conn)  # notes which repeatable migrations to claim again
        self._savepoint = f"rehearsal_{secrets.token_hex(8)}"  # random, so that no migration can use it
        self._reset = profile.reset.sql + profile.begin.sql.partition(";")[2]
        self._profile = SessionProfile(commit=join(*_CHECK_DEFERRED), pooled=profile.pooled)
        self._held = self._held_locks()

    def run(self, migration: Migration) -> None:
        """Run one migration and log the outcome; later migrations in the transaction see its effects."""
        warn_of_ignored_directive(migration)
        execution = Execution(self._conn, self._table, migration, self._profile)
        try:
            execution.load()
        except MigrationFailure as refusal:
            self._log_failure(migration, refusal)
            return
        if not migration.transactional:
            self.not_rehearsed += 1
            fields = {"event": "migration.not_rehearsed", "migration": migration.name}
            log.warning("Did not rehearse %s because it runs without a transaction", migration.name, extra=fields)
            return
        self._watcher.watch(migration.name, execution.counter)
        release = f"RELEASE SAVEPOINT {self._savepoint};{self._reset}"
        run(self._conn, f"SAVEPOINT {self._savepoint}")  # sent separately: a message with a syntax error has no effect
        try:
            execution.run()
        except (MigrationFailure, ClaimRefused) as problem:
            run(self._conn, f"ROLLBACK TO SAVEPOINT {self._savepoint}")
            failure = self._explain(execution, problem)
            run(self._conn, release)
            if failure.sqlstate == "55P03":
                failure.fields["hint"] = _IN_USE
            self._log_failure(migration, failure)
        else:
            run(self._conn, release)
            self._log_rehearsed(migration, execution.duration_ms)
        self._watcher.watch(None, StatementCounter())

    def _explain(self, execution: Execution, problem: MigrationFailure | ClaimRefused) -> MigrationFailure:
        if isinstance(problem, MigrationFailure):
            return problem
        meaning = execution.explain(problem)
        if isinstance(meaning, AlreadyApplied):
            return MigrationFailure(f"the migration is already recorded in {self._table.name}")
        return meaning if isinstance(meaning, MigrationFailure) else problem.failure  # this transaction holds the lock

    def _log_failure(self, migration: Migration, failure: MigrationFailure) -> None:
        log_failure("Would fail", migration, failure, self._result, self._files.migrations)

    def _log_rehearsed(self, migration: Migration, duration_ms: float) -> None:
        """Log the migration's duration and locks, except locks already taken by earlier migrations."""
        self.rehearsed += 1
        held = self._held_locks()
        locks: dict[Relation, LockMode] = {}
        for relation, mode in held - self._held:
            add_lock(locks, relation, mode)
        self._held = held
        locks = relevant_locks(locks, self._relations)
        fields = {"migration": migration.name, "duration_ms": duration_ms, "locks": lock_fields(locks)}
        described = describe_locks(locks) or "takes no further locks on existing tables"
        message = f"Would apply {migration.name} in {duration_ms:.0f} ms: {described}"
        log.info("%s", message, extra={"event": "migration.rehearsed", **fields})

    def _held_locks(self) -> set[tuple[Relation, LockMode]]:
        """Return the session's locks on previously existing relations, except the claim's locks on `_migrations`."""
        found = set()
        for oid, pg_mode in self._conn.execute(_LOCKS).fetchall():
            relation, mode = self._relations.get(oid), lock_mode_of(pg_mode)
            if relation and mode and not (relation.name == self._table.name.name and mode <= LockMode.ROW_EXCLUSIVE):
                found.add((relation, mode))
        return found
