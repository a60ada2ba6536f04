"""`plan --rehearse` runs the pending migrations on the real database and leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from predeploy.connection.connect import Server
from predeploy.connection.dsn import parse_dsn
from predeploy.lock import advisory_lock
from predeploy.migrations.directory import read_migrations
from predeploy.migrations.migration import MigrationResult
from predeploy.plan import rehearsal
from tests.support.catalog import snapshot
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.program import Process, Run

WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = '{}'::regclass"
OTHERS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
# Fails unless the two timeouts have these values.
TIMEOUTS = """
DO $$BEGIN
    ASSERT current_setting('lock_timeout') = '{}', current_setting('lock_timeout');
    ASSERT current_setting('statement_timeout') = '{}', current_setting('statement_timeout');
END$$;
"""


def rehearsed(finished: Run) -> list[str]:
    return [line["migration"] for line in finished.named("migration.rehearsed")]


def failed(finished: Run) -> list[str]:
    return [line["migration"] for line in finished.named("migration.failed")]


def test_migrations_run_on_the_real_tables_and_leave_nothing(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY, name text); INSERT INTO users VALUES (1, 'a')")
    migrations_dir.write("001.sql", "CREATE TABLE orders (user_id int REFERENCES users); INSERT INTO orders VALUES (1)")
    migrations_dir.write("002.sql", "DO $$BEGIN UPDATE users SET name = 'b'; END$$")
    migrations_dir.write("003.sql", "ALTER TABLE orders ADD n int; DROP TABLE users CASCADE")
    before = snapshot(database)
    finished = run("plan", "--rehearse")
    assert finished.exit_code == 0
    lines = finished.named("migration.rehearsed")
    assert [(line["migration"], line["locks"]) for line in lines] == [
        ("001.sql", [{"relation": "public.users", "mode": "SHARE ROW EXCLUSIVE"}]),
        ("002.sql", [{"relation": "public.users", "mode": "ROW EXCLUSIVE"}]),
        ("003.sql", [{"relation": "public.users", "mode": "ACCESS EXCLUSIVE"}]),
    ]
    assert all(line["duration_ms"] > 0 for line in lines)
    assert lines[2]["message"].endswith("ms: ACCESS EXCLUSIVE on public.users")
    assert [finished.report[key] for key in ("rehearsed", "not_rehearsed", "failed", "applied")] == [3, 0, 0, 0]
    assert snapshot(database) == before
    assert database.query("SELECT to_regclass('_migrations')") == [(None,)]
    assert database.admin_query(OTHERS) == [(0,)] or database.is_pooled
    assert run().report["applied"] == 3


def test_a_syntax_error_fails_only_its_migration(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    migrations_dir.write("002.sql", "SELECT 1;\nSELEC 1")
    migrations_dir.write("003.sql", "DROP TABLE a")
    finished = run("plan", "--rehearse")
    assert (finished.exit_code, rehearsed(finished)) == (1, ["001.sql", "003.sql"])
    assert [(e["migration"], e["line"]) for e in finished.named("migration.failed")] == [("002.sql", 2)]
    assert database.query("SELECT to_regclass('a')") == [(None,)]


def test_the_migrations_table_is_left_unchanged(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE _migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())")
    migrations_dir.write("001.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("002.sql", "ALTER TABLE _migrations ADD note text")
    before = snapshot(database)
    finished = run("plan", "--rehearse")
    locks = [line["locks"] for line in finished.named("migration.rehearsed")]
    assert locks == [[], [{"relation": "public._migrations", "mode": "ACCESS EXCLUSIVE"}]]
    assert snapshot(database) == before


def test_a_failing_migration_is_rolled_back_and_the_others_are_rehearsed(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a (id int)")
    migrations_dir.write(
        "002.sql", "CREATE TABLE b (id int);\nINSERT INTO a VALUES (1);\nINSERT INTO nowhere VALUES (1);"
    )
    migrations_dir.write("003.sql", "CREATE TABLE b (id int); ALTER TABLE a ADD n int;")
    migrations_dir.write("004.sql", "COMMIT")
    migrations_dir.write("005.sql", "SELECT 'hunter2'::int")
    migrations_dir.write("006.sql", "-- migrate:no-transaction\nVACUUM a")
    migrations_dir.write("007.sql", "DO $$BEGIN ASSERT NOT EXISTS (SELECT FROM a); END$$")
    before = snapshot(database)
    finished = run("plan", "--rehearse")
    assert finished.exit_code == 1
    assert rehearsed(finished) == ["001.sql", "003.sql", "007.sql"]
    assert failed(finished) == ["002.sql", "004.sql", "005.sql"]
    failure = finished.named("migration.failed")[0]
    assert (failure["sqlstate"], failure["line"], failure["statement"]) == ("42P01", 3, 3)
    assert [line["migration"] for line in finished.named("migration.not_rehearsed")] == ["006.sql"]
    assert finished.report["message"] == "Rehearsed: 3 would succeed, 3 would fail, 1 not rehearsed"
    assert "hunter2" not in finished.stdout
    assert snapshot(database) == before


def test_each_migration_begins_with_a_clean_session_and_its_timeouts(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE SCHEMA other")
    migrations_dir.write(
        "001.sql",
        TIMEOUTS.format("2s", "5min") + "SET search_path = other; SET lock_timeout = 0; SET statement_timeout = 0;"
        "CREATE TEMP TABLE passing (id int); SELECT pg_advisory_lock(7); SET ROLE pg_monitor;",
    )
    database.admin_execute(f"GRANT pg_monitor TO {database.owner}")
    clean = TIMEOUTS.format("2s", "5min") + (
        "DO $$BEGIN ASSERT current_user = session_user; ASSERT to_regclass('passing') IS NULL;"
        "ASSERT current_schema = 'public'; END$$"
    )
    migrations_dir.write("002.sql", clean + "; SELECT 1/0")
    migrations_dir.write("003.sql", clean)
    finished = run("plan", "--rehearse")
    assert (rehearsed(finished), failed(finished)) == (["001.sql", "003.sql"], ["002.sql"])
    assert finished.named("migration.failed")[0]["sqlstate"] == "22012"
    assert database.admin_query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]


def test_timeouts_in_the_settings_override_the_defaults(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", TIMEOUTS.format("3s", "7s"))
    assert run("plan", "--rehearse", MIGRATE_LOCK_TIMEOUT="3s", MIGRATE_STATEMENT_TIMEOUT="7s").exit_code == 0


def test_a_locked_table_makes_its_migration_fail_after_the_lock_timeout_and_unblocks_the_queue(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE users (id int)")
    migrations_dir.write("001.sql", "ALTER TABLE users ADD name text")
    migrations_dir.write("002.sql", "CREATE TABLE other (id int)")
    with database.connect(autocommit=False) as holder, database.connect() as reader:
        holder.execute("SELECT FROM users")
        process = start("plan", "--rehearse", MIGRATE_LOCK_TIMEOUT="2s")
        eventually(lambda: database.query(WAITING.format("users")) == [(1,)])
        reader.execute("SET statement_timeout = '20s'")
        # queues behind the rehearsal, and succeeds while the holder still has its lock
        reader.execute("SELECT FROM users")
        finished = process.finish()
    assert (failed(finished), rehearsed(finished)) == (["001.sql"], ["002.sql"])
    failure = finished.named("migration.failed")[0]
    assert failure["sqlstate"] == "55P03"
    assert "another session holds the lock" in failure["hint"]


def test_deferred_constraints_are_checked_after_each_migration_and_deferred_again(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE a (id int PRIMARY KEY)")
    database.execute("CREATE TABLE b (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    database.execute("CREATE TABLE c (a int REFERENCES a DEFERRABLE)")
    # A constraint that shares its name with a non-deferrable one is checked, but stays immediate.
    database.execute("CREATE TABLE e (a int CONSTRAINT same REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    database.execute("CREATE TABLE f (a int CONSTRAINT same REFERENCES a)")
    migrations_dir.write("001.sql", "INSERT INTO b VALUES (1); INSERT INTO a VALUES (1);")
    migrations_dir.write("002.sql", "ALTER TABLE b ADD n int")  # fails while a trigger is still pending
    migrations_dir.write("003.sql", "INSERT INTO b VALUES (2)")  # fails only at COMMIT
    migrations_dir.write("004.sql", "INSERT INTO b VALUES (4); INSERT INTO a VALUES (4);")
    migrations_dir.write("005.sql", "INSERT INTO c VALUES (5); INSERT INTO a VALUES (5);")  # not deferred by default
    migrations_dir.write("006.sql", "CREATE TABLE d (a int REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
    migrations_dir.write("007.sql", "INSERT INTO d VALUES (7); INSERT INTO a VALUES (7);")
    migrations_dir.write("008.sql", "INSERT INTO e VALUES (8)")
    finished = run("plan", "--rehearse")
    assert failed(finished) == ["003.sql", "005.sql", "008.sql"]
    assert {line["sqlstate"] for line in finished.named("migration.failed")} == {"23503"}
    applied = run()
    assert failed(applied) == failed(finished)


def test_savepoints_and_changes_to_the_migrations_table_have_the_same_outcome_as_in_a_run(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SAVEPOINT a; CREATE TABLE a (id int); ROLLBACK TO a; RELEASE a; SAVEPOINT a;")
    migrations_dir.write("002.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("003.sql", "DELETE FROM _migrations")
    migrations_dir.write("004.sql", "DROP TABLE _migrations")
    migrations_dir.write("005.sql", "ROLLBACK TO SAVEPOINT nowhere")
    migrations_dir.write("006.sql", "CREATE TABLE b (id int)")
    finished = run("plan", "--rehearse")
    assert failed(finished) == ["003.sql", "004.sql", "005.sql"]
    assert failed(run()) == failed(finished)


def test_a_migration_sent_in_several_messages_is_rehearsed_as_one(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    row = "INSERT INTO big VALUES (repeat('x', 10));\n"
    migrations_dir.write("001.sql", "CREATE TABLE big (t text);\n" + row * 60_000)
    migrations_dir.write("002.sql", "SELECT 1 / (count(*) - 60000) FROM big")
    finished = run("plan", "--rehearse")
    assert (rehearsed(finished), failed(finished)) == (["001.sql"], ["002.sql"])
    assert finished.named("migration.failed")[0]["sqlstate"] == "22012"
    assert database.query("SELECT to_regclass('big')") == [(None,)]


def test_a_rehearsal_sends_no_notification(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "NOTIFY somebody")
    with database.connect() as conn:
        conn.execute("LISTEN somebody")
        assert run("plan", "--rehearse").exit_code == 0
        database.execute("NOTIFY somebody, 'the end'")
        assert [notice.payload for notice in conn.notifies(timeout=20, stop_after=1)] == ["the end"]


def test_a_run_waits_for_a_rehearsal_and_logs_it_as_the_lock_holder(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE gate (id int)")
    migrations_dir.write("001.sql", "ALTER TABLE gate ADD name text")
    with database.connect(autocommit=False) as conn:
        conn.execute("LOCK TABLE gate")
        rehearsing = start("plan", "--rehearse", MIGRATE_LOCK_TIMEOUT="60s")
        eventually(lambda: database.query(WAITING.format("gate")) == [(1,)])
        migration = start("migrate")
        holder = migration.wait_for("lock.waiting")["holder"]
        assert holder["application_name"].startswith("pg-predeploy/")
    assert rehearsing.finish().exit_code == 0
    assert migration.finish().report["applied"] == 1


def test_a_rehearsal_waits_for_a_run_and_logs_the_lock_holder(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    with database.connect(application_name="another runner") as conn:
        conn.execute("SELECT pg_advisory_lock(48756301)")
        finished = run("plan", "--rehearse", MIGRATE_LOCK_WAIT_TIMEOUT="200ms")
    assert finished.exit_code == 4
    assert finished.named("lock.waiting")[0]["holder"]["application_name"] == "another runner"
    assert rehearsed(finished) == []


def test_a_rehearsal_waits_again_if_another_runner_gets_the_lock_first(
    database: Database, migrations_dir: MigrationsDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a (id int)")
    with database.connect() as other:
        other.execute("SELECT pg_advisory_lock(48756301)")
        waits = []

        def wait(conn: psycopg.Connection, *, timeout: float) -> None:
            """Return at once, although the lock is still held the first time."""
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
            waits.append(timeout)
            if len(waits) > 1:
                other.execute("SELECT pg_advisory_unlock(48756301)")

        monkeypatch.setattr(advisory_lock, "wait_until_free", wait)
        result = MigrationResult()
        _, fields = rehearsal.rehearse(
            Server(parse_dsn(database.dsn)),
            read_migrations(migrations_dir.path),
            result,
            lock_wait_timeout=60,
            lock_timeout=0,
            statement_timeout=0,
        )
    assert (fields["rehearsed"], len(waits), result.errors) == (1, 2, [])


def test_sigterm_rolls_back(start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("002.sql", "SELECT pg_sleep(600)")
    process = start("plan", "--rehearse")
    process.wait_for("migration.rehearsed")
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    eventually(lambda: database.admin_query(sleeping) == [(1,)])
    process.terminate()
    assert process.finish().exit_code == 143
    assert database.query("SELECT to_regclass('a'), to_regclass('_migrations')") == [(None, None)]
    assert database.admin_query(sleeping) == [(0,)]


def test_a_lost_connection_ends_the_rehearsal_with_exit_code_6(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("002.sql", "SELECT pg_terminate_backend(pg_backend_pid())")
    migrations_dir.write("003.sql", "CREATE TABLE b (id int)")
    finished = run("plan", "--rehearse")
    assert (finished.exit_code, finished.report["outcome"]) == (6, "connection_lost")
    assert (rehearsed(finished), failed(finished)) == (["001.sql"], [])
    assert database.query("SELECT to_regclass('a'), to_regclass('_migrations')") == [(None, None)]


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_rehearsal_through_a_pooler_leaves_the_server_session_unchanged(
    mode: str,
    run: Callable[..., Run],
    start_pgbouncer: Callable[..., PgBouncer],
    database: Database,
    migrations_dir: MigrationsDir,
) -> None:
    pgbouncer = start_pgbouncer(pool_mode=mode, default_pool_size=2)
    migrations_dir.write("001.sql", "CREATE TABLE a (id int); SELECT pg_advisory_lock(7); SET search_path = '';")
    migrations_dir.write("002.sql", "ALTER TABLE a ADD n int;" + TIMEOUTS.format("2s", "5min"))
    migrations_dir.write("003.sql", "CREATE TEMP TABLE passing (id int); LISTEN somebody; SELECT 1/0")
    dsn = database.dsn_at(pgbouncer.port)
    finished = run("plan", "--rehearse", DATABASE_URL=dsn)
    assert (rehearsed(finished), failed(finished)) == (["001.sql", "002.sql"], ["003.sql"])
    assert finished.named("pooler.detected")[0]["mode"] == mode
    assert database.query("SELECT to_regclass('a'), to_regclass('_migrations')") == [(None, None)]
    if mode == "transaction":
        assert database.admin_query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
        with psycopg.connect(dsn, autocommit=True) as conn:
            settings = conn.execute("SELECT current_schema, current_setting('lock_timeout')").fetchone()
            assert settings == ("public", "0")


def test_a_rehearsal_with_nothing_pending_takes_no_lock(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    finished = run("plan", "--rehearse")
    assert (finished.exit_code, finished.report["rehearsed"]) == (0, 0)
    migrations_dir.write("001.sql", "SELECT 1")
    run()
    with database.connect() as conn:
        conn.execute("SELECT pg_advisory_lock(48756301)")
        assert run("plan", "--rehearse").exit_code == 0
