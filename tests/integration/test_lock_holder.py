"""What a waiter logs about the session that holds the lock, and how an operator can terminate it."""

from __future__ import annotations

import logging
import threading
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from predeploy.lock import holder as holder_module
from predeploy.lock.holder import LockWait
from predeploy.lock.key import LOCK_KEY
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Process, Run

HOLD = f"SELECT pg_advisory_lock({LOCK_KEY})"
HELD = f"l.locktype = 'advisory' AND l.objid = {LOCK_KEY} AND l.granted"
RUNNER = "pg-predeploy/0.0.1 another-host"
BUSY = "FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND state = 'active' AND pid <> pg_backend_pid()"


@contextmanager
def holder_that_is(state: str, database: Database, name: str) -> Iterator[psycopg.Connection]:
    """Hold the lock in a session with the given name and state; `conn` is the session."""
    with closing(database.connect(application_name=name)) as conn:
        conn.execute(HOLD)
        busy = threading.Thread(target=_sleep, args=[conn])
        if state == "idle in transaction":
            conn.execute("BEGIN")
            conn.execute("SELECT 'hunter2'")
        if state == "active":
            busy.start()
            eventually(lambda: database.query(f"SELECT {BUSY.replace('%', '%%')}"))
        try:
            yield conn
        finally:  # the thread must not read from a socket that another connection has reused
            if state == "active":
                conn.cancel()
                busy.join()


def _sleep(conn: psycopg.Connection) -> None:
    with pytest.raises((psycopg.errors.QueryCanceled, psycopg.errors.AdminShutdown)):
        conn.execute("SELECT pg_sleep(600), 'hunter2'")


@pytest.mark.parametrize(
    ("state", "name", "looks"),
    [
        ("idle", "another tool", "The session seems to be abandoned. If no running process owns it, end it and run"),
        ("idle in transaction", "another tool", "The session seems to have left its transaction open. If no running"),
        ("active", "another tool", "The session seems to be making progress. Check its log and let it finish"),
        ("idle", RUNNER, "The session seems to be a stuck runner. If no running process owns it"),
        ("active", RUNNER, "The session seems to be a working runner. Check its log and let it finish"),
    ],
)
def test_a_lock_timeout_describes_the_holder_and_gives_the_statement_that_terminates_it(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, state: str, name: str, looks: str
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    with holder_that_is(state, database, name) as conn:
        finished = run(MIGRATE_LOCK_WAIT_TIMEOUT="300ms")
        pid = conn.info.backend_pid
        (logged,) = finished.named("lock.waiting")
        assert logged["timeout_s"] == 0.3
        assert 0 <= logged["left_s"] <= 0.3
        holder = logged["holder"]
        assert (holder["pid"], holder["application_name"], holder["state"]) == (pid, name, state)
        assert (holder["user"], holder["client_addr"]) == (database.owner, "127.0.0.1")
        assert 0 <= holder["state_age_s"] <= holder["age_s"]
        assert (holder["transaction_age_s"] is None) is (state == "idle")
        assert holder["since"].endswith("Z")
        statement = f"SELECT pg_terminate_backend({pid});"
        assert (finished.exit_code, finished.report["statement"]) == (4, statement)
        message = finished.report["message"]
        assert message.startswith("Timed out after 0.3 s waiting for the migration lock. It is held by ")
        assert f"held by {name} (pid {pid}, user {database.owner}, from 127.0.0.1, {state} for " in message
        assert looks in message
        assert message.endswith(statement)
        assert "hunter2" not in finished.stdout
        assert database.query("SELECT count(*) FROM pg_stat_activity WHERE pid = %s", pid) == [(1,)], (
            "the program terminated the session"
        )
        database.execute(statement)
        assert run().exit_code == 0


def test_a_new_holder_is_logged_at_once(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    with database.connect(application_name="first") as first, database.connect(application_name="second") as second:
        first.execute(HOLD)
        queued = threading.Thread(target=second.execute, args=[HOLD])
        queued.start()
        eventually(lambda: database.query("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        process = start()
        assert process.wait_for("lock.waiting")["holder"]["pid"] == first.info.backend_pid
        first.close()
        queued.join()
        # Sooner than the interval of 10 s.
        assert process.wait_for("lock.waiting", timeout=8)["holder"]["pid"] == second.info.backend_pid
    finished = process.finish()
    assert (finished.exit_code, len(finished.named("lock.waiting"))) == (0, 2)


def test_a_lasting_change_of_state_is_logged(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    with database.connect() as holder:
        holder.execute(HOLD)
        process = start()
        assert process.wait_for("lock.waiting")["holder"]["state"] == "idle"
        holder.execute("BEGIN")
        logged = process.wait_for("lock.waiting", timeout=8)
        assert logged["holder"]["state"] == "idle in transaction"
        assert "in a transaction for " in logged["message"]
    finished = process.finish()
    assert (finished.exit_code, len(finished.named("lock.waiting"))) == (0, 2)


@pytest.fixture
def logged_pids(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[[], list[int]]:
    """Query the holder at every call, and return the process ids that were logged."""
    monkeypatch.setattr(logging.getLogger("predeploy"), "propagate", True)
    monkeypatch.setattr(holder_module, "_LOOK_EVERY_S", 0.0)
    return lambda: [vars(record)["holder"]["pid"] for record in caplog.records]


def test_a_new_holder_is_logged_even_if_it_holds_the_lock_briefly(
    database: Database, logged_pids: Callable[[], list[int]]
) -> None:
    with database.connect() as conn, database.connect() as first, database.connect() as second:
        wait = LockWait(conn, HELD, 300.0)
        first.execute(HOLD)
        wait.report(0.0)
        pids = [first.info.backend_pid, second.info.backend_pid]
        first.close()
        eventually(lambda: second.execute(HOLD.replace("pg_", "pg_try_")).fetchone() == (True,))
        wait.report(0.1)
        assert logged_pids() == pids


def test_a_working_runner_that_alternates_between_idle_and_active_is_logged_once(
    database: Database, logged_pids: Callable[[], list[int]]
) -> None:
    with database.connect() as holder, database.connect() as conn:
        holder.execute(HOLD)
        wait = LockWait(conn, HELD, 300.0)
        wait.report(0.0)
        for _ in range(10):
            holder.execute("BEGIN")
            wait.report(0.1)
            holder.execute("COMMIT")
            wait.report(0.2)
        assert logged_pids() == [holder.info.backend_pid]


def test_the_holder_is_queried_at_most_once_a_second(database: Database) -> None:
    with database.connect() as conn:
        wait = LockWait(conn, "true", 300.0)
        wait.report(0.0)
        conn.close()
        wait.report(0.1)  # sends no query


def test_a_holder_with_another_role_is_logged_as_far_as_it_is_visible(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    with database.admin_connect(application_name="an administrator") as conn:
        conn.execute(HOLD)
        finished = run(MIGRATE_LOCK_WAIT_TIMEOUT="300ms")
        pid = conn.info.backend_pid
    (logged,) = finished.named("lock.waiting")
    seen: dict[str, Any] = logged["holder"]
    assert (seen["pid"], seen["application_name"]) == (pid, "an administrator")
    assert (seen["state"], seen["client_addr"], seen["age_s"]) == (None, None, None)
    assert "state visible only to its role, a superuser or pg_monitor" in logged["message"]
    assert "Ask a superuser" in finished.report["message"]
    assert finished.report["statement"] == f"SELECT pg_terminate_backend({pid});"
