"""Only one runner at a time holds the lock, and the others log who holds it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from predeploy.errors import LockTimeout
from predeploy.lock.advisory_lock import SESSION_STARTED, advisory_lock, end_stale_session
from predeploy.lock.key import LOCK_KEY
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Process, Run

    Gate = Callable[[], None]

HOLD = f"SELECT pg_advisory_lock({LOCK_KEY})"
ADVISORY_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"


def test_a_waiter_logs_who_holds_the_lock_and_continues_when_it_is_free(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    with database.connect(application_name="another tool") as holder:
        holder.execute(HOLD)
        waiter = start()
        event = waiter.wait_for("lock.waiting")
        assert event["level"] == "warning"
        assert event["holder"]["pid"] == holder.info.backend_pid
        assert event["holder"]["application_name"] == "another tool"
        assert event["holder"]["client_addr"] == "127.0.0.1"
        assert event["holder"]["state"] == "idle"
        assert event["holder"]["age_s"] >= 0
        assert f"another tool (pid {holder.info.backend_pid}" in event["message"]
        assert database.query("SELECT to_regclass('_migrations')") == [(None,)], (
            "the table was created before the lock was held"
        )
    finished = waiter.finish()
    assert finished.exit_code == 0
    assert finished.named("lock.acquired")[0]["wait_s"] > 0
    assert len(finished.named("lock.waiting")) == 1, "a line was logged for each poll"


def test_no_lock_is_taken_if_nothing_is_pending(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    run()
    with database.connect() as holder:
        holder.execute(HOLD)
        finished = run(MIGRATE_LOCK_WAIT_TIMEOUT="0")
    assert finished.exit_code == 0
    assert finished.named("lock.acquired") == []


@pytest.fixture
def gate(database: Database) -> Iterator[Gate]:
    """A table that is locked until the gate opens, so that a migration that reads it waits."""
    database.execute("CREATE TABLE gate ()")
    with database.connect(autocommit=False) as keeper:
        keeper.execute("LOCK TABLE gate")
        yield keeper.rollback


def test_a_waiter_that_finds_everything_applied_has_nothing_to_do(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, gate: Gate
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a (); SELECT * FROM gate")
    first = start()
    first.wait_for("lock.acquired")
    second = start()
    assert second.wait_for("lock.waiting")["holder"]["application_name"].startswith("pg-predeploy/")
    gate()
    assert (first.finish().report["applied"], second.finish().report["skipped"]) == (1, 1)
    assert database.query(ADVISORY_LOCKS) == [(0,)]


def test_a_waiter_does_not_block_the_holders_concurrent_index_build(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, gate: Gate
) -> None:
    database.execute("CREATE TABLE a AS SELECT generate_series(1, 1000) AS id")
    migrations_dir.write(
        "001.sql", "-- migrate:no-transaction\nSELECT * FROM gate;\nCREATE INDEX CONCURRENTLY one ON a (id);"
    )
    holder = start()
    holder.wait_for("lock.acquired")
    waiters = [start() for _ in range(3)]
    for waiter in waiters:
        waiter.wait_for("lock.waiting")
    gate()
    assert [process.finish(timeout=30).exit_code for process in (holder, *waiters)] == [0, 0, 0, 0]
    assert database.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one'::regclass") == [(True,)]


def test_simultaneous_runners_on_an_empty_database_apply_each_migration_once(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    files = [f"{number:03}.sql" for number in range(20)]
    for number, name in enumerate(files):
        migrations_dir.write(name, f"CREATE TABLE t{number} (id int); INSERT INTO t{number} VALUES (1)")
    processes = [start() for _ in range(20)]
    finished = [process.finish() for process in processes]
    assert [run.exit_code for run in finished] == [0] * 20
    assert sorted(line["migration"] for run in finished for line in run.named("migration.applied")) == files
    assert {run.report["applied"] + run.report["skipped"] for run in finished} == {20}
    assert [name for (name,) in database.query("SELECT name FROM _migrations ORDER BY name")] == files
    assert database.query(" UNION ALL ".join(f"SELECT id FROM t{number}" for number in range(20))) == [(1,)] * 20
    assert database.query(ADVISORY_LOCKS) == [(0,)]


def test_the_lock_is_released_when_the_block_fails(database: Database) -> None:
    with database.connect() as conn:
        with pytest.raises(ZeroDivisionError), advisory_lock(conn, timeout=1):
            assert database.query(ADVISORY_LOCKS) == [(1,)]
            raise ZeroDivisionError
        assert database.query(ADVISORY_LOCKS) == [(0,)]


def test_leaving_the_block_on_a_dead_connection_logs_only_the_lost_connection(database: Database) -> None:
    with database.connect() as conn, pytest.raises(psycopg.OperationalError), advisory_lock(conn, timeout=1):
        database.admin_query("SELECT pg_terminate_backend(%s)", conn.info.backend_pid)
        conn.execute("SELECT 1")


def test_another_session_with_the_same_pid_is_not_terminated(database: Database) -> None:
    """After a failover, a session on the new server may have the same pid."""
    with database.connect() as holder, database.connect() as conn:
        holder.execute(HOLD)
        row = holder.execute(SESSION_STARTED.encode()).fetchone()
        assert row
        end_stale_session(conn, holder.info.backend_pid, row[0] - 1)
        assert database.query(ADVISORY_LOCKS) == [(1,)]
        end_stale_session(conn, holder.info.backend_pid, row[0])
        eventually(lambda: database.query(ADVISORY_LOCKS) == [(0,)])


def test_the_wait_lasts_as_long_as_the_timeout(database: Database) -> None:
    with database.connect() as holder, database.connect() as conn:
        holder.execute(HOLD)
        started = time.monotonic()
        with pytest.raises(LockTimeout, match=r"Timed out after 0\.5 s .* held by a session with no application_name"):
            advisory_lock(conn, timeout=0.5).__enter__()
        assert 0.5 <= time.monotonic() - started < 3


def test_the_lock_of_another_database_does_not_matter(database: Database) -> None:
    with psycopg.connect(database.server.dsn()) as elsewhere, database.connect() as conn:
        elsewhere.execute(HOLD)
        with advisory_lock(conn, timeout=0):
            assert conn.info.backend_pid
