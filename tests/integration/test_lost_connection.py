"""After a lost connection, committed migrations count as applied, and others are run again, at most a few times."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from predeploy.lock.key import LOCK_KEY
from tests.support.database import fresh_database
from tests.support.eventually import eventually
from tests.support.proxy import COMMIT_COMPLETE, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Process, Run

SLEEPERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
TERMINATE_SLEEPERS = SLEEPERS.replace("pid", "pg_terminate_backend(pid)")
NAMES = "SELECT name FROM _migrations ORDER BY name"
CLAIM_COMPLETE = b"C\x00\x00\x00\x0fINSERT 0 1\x00Z"  # alone in its message: only for a no-transaction file
KILL_OWN_BACKEND = "SELECT pg_terminate_backend(pg_backend_pid());"
KILL_ONCE = "SELECT CASE WHEN nextval('attempts') = 1 THEN pg_terminate_backend(pg_backend_pid()) END"


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(server.port) as running:
        yield running


def names(events: list[dict[str, str]]) -> list[str]:
    return [event["migration"] for event in events]


def test_an_interrupted_file_is_run_again_and_applied_once(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE runs (n INT); CREATE SEQUENCE attempts")
    migrations_dir.write("001.sql", "INSERT INTO runs VALUES (1)")
    # The file sleeps only the first time, because a sequence is not rolled back.
    migrations_dir.write("002.sql", "INSERT INTO runs SELECT 2 FROM pg_sleep(60 * (nextval('attempts') = 1)::int)")
    migrations_dir.write("003.sql", "INSERT INTO runs VALUES (3)")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    database.query(TERMINATE_SLEEPERS)
    run = process.finish()
    assert (run.exit_code, run.report["applied"], run.report["failed"]) == (0, 3, 0)
    assert database.query("SELECT n FROM runs ORDER BY n") == [(1,), (2,), (3,)]
    assert database.query("SELECT last_value FROM attempts") == [(2,)]
    assert names(run.named("migration.applied")) == ["001.sql", "002.sql", "003.sql"]
    (lost,) = run.named("connection.lost")
    assert lost["migration"] == "002.sql"


@pytest.mark.parametrize("strict", ["late", None])
def test_a_failed_file_is_not_reported_as_late_after_a_lost_connection(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, strict: str | None
) -> None:
    database.execute("CREATE SEQUENCE attempts")
    migrations_dir.write("001.sql", "SELECT 1 / 0")
    migrations_dir.write("002.sql", "CREATE TABLE kept ()")
    migrations_dir.write("003.sql", KILL_ONCE)
    ended = run(MIGRATE_STRICT=strict)
    assert len(ended.named("connection.lost")) == 1
    assert names(ended.named("migration.failed")) == ["001.sql"]
    assert ended.named("migration.late") == []
    assert (ended.exit_code, ended.report["applied"], ended.report["failed"]) == (1, 2, 1)


@pytest.mark.direct("a session kept by a pooler has the old search_path")
def test_the_same_table_is_read_after_a_reconnect_if_a_file_has_changed_the_search_path(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE SEQUENCE public.attempts; CREATE TABLE public.runs (n INT); CREATE SCHEMA elsewhere")
    migrations_dir.write("001.sql", "INSERT INTO public.runs VALUES (1)")
    migrations_dir.write("002.sql", f'ALTER ROLE "{database.owner}" SET search_path = elsewhere')
    migrations_dir.write("003.sql", KILL_ONCE.replace("attempts", "public.attempts"))
    ended = run()
    assert (ended.exit_code, ended.report["applied"], ended.named("migration.undone")) == (0, 3, [])
    assert len(ended.named("connection.lost")) == 1
    assert database.query("SELECT n FROM public.runs") == [(1,)]
    assert database.query("SELECT to_regclass('elsewhere._migrations')") == [(None,)]
    assert database.query("SELECT count(*) FROM public._migrations") == [(3,)]


def test_a_file_that_always_terminates_its_session_fails_and_the_next_ones_are_applied(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", f"CREATE TABLE gone (); {KILL_OWN_BACKEND}")
    migrations_dir.write("002.sql", "CREATE TABLE kept ()")
    ended = run()
    assert (ended.exit_code, ended.report["applied"], ended.report["failed"]) == (1, 1, 1)
    assert names(ended.named("connection.lost")) == ["001.sql"] * 3
    (failed,) = ended.named("migration.failed")
    assert "3 attempts" in failed["error"]
    assert database.query(NAMES) == [("002.sql",)]
    assert database.query("SELECT to_regclass('gone')") == [(None,)]


def test_a_no_transaction_file_is_not_run_again(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE SEQUENCE attempts")
    migrations_dir.write("001.sql", f"-- migrate:no-transaction\nSELECT nextval('attempts');\n{KILL_OWN_BACKEND}\n")
    migrations_dir.write("002.sql", "CREATE TABLE kept ()")
    ended = run()
    assert (ended.exit_code, ended.report["applied"], ended.report["failed"]) == (1, 1, 1)
    assert database.query("SELECT last_value FROM attempts") == [(1,)]
    (failed,) = ended.named("migration.failed")
    assert "no-transaction" in failed["error"]
    assert database.query(NAMES) == [("002.sql",)]


@pytest.mark.parametrize(
    ("mark", "runs"), [("", [1, 1, 2]), ("-- migrate:no-transaction\n", [1, 2])], ids=["transaction", "no transaction"]
)
def test_a_migration_reported_as_applied_is_withdrawn_if_its_row_is_missing_after_a_lost_connection(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, mark: str, runs: list[int]
) -> None:
    """Simulate a failover to a standby that lacks the last commit; a real failover would lose the effects too."""
    database.execute("CREATE TABLE runs (n INT); CREATE SEQUENCE attempts")
    migrations_dir.write("001.sql", f"{mark}INSERT INTO runs VALUES (1)")
    migrations_dir.write("002.sql", "INSERT INTO runs SELECT 2 FROM pg_sleep(60 * (nextval('attempts') = 1)::int)")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    database.execute("DELETE FROM _migrations WHERE name = '001.sql'")
    database.query(TERMINATE_SLEEPERS)
    run = process.finish()
    assert names(run.named("migration.undone")) == ["001.sql"]
    assert database.query("SELECT n FROM runs ORDER BY n") == [(n,) for n in runs]
    if mark:
        assert (run.exit_code, run.report["applied"], names(run.named("migration.failed"))) == (1, 1, ["001.sql"])
        assert "Check the schema" in run.named("migration.failed")[0]["error"]
    else:
        assert names(run.named("migration.applied")) == ["001.sql", "001.sql", "002.sql"]
        assert (run.exit_code, run.report["applied"], run.report["failed"]) == (0, 2, 0)


def test_an_error_that_resembles_a_lost_connection_is_a_failure_of_the_file(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "DO $$BEGIN RAISE 'pretended' USING ERRCODE = '57P01'; END$$")
    ended = run()
    assert (ended.exit_code, ended.named("connection.lost")) == (1, [])
    assert ended.named("migration.failed")[0]["sqlstate"] == "57P01"
    assert database.query("SELECT count(*) FROM _migrations") == [(0,)]


def test_the_run_reconnects_after_a_server_crash(
    private_server: PostgresServer, start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    with fresh_database(private_server) as database:
        database.execute("CREATE TABLE runs (n INT); CREATE TABLE go (n INT)")
        migrations_dir.write("001.sql", "INSERT INTO runs VALUES (1)")
        migrations_dir.write("002.sql", "INSERT INTO runs VALUES (2); SELECT pg_sleep(60) WHERE NOT EXISTS (TABLE go)")
        process = start(DATABASE_URL=database.dsn)
        eventually(lambda: database.query(SLEEPERS))
        database.execute("INSERT INTO go VALUES (1)")
        private_server.restart("immediate")
        run = process.finish()
        assert (run.exit_code, run.report["applied"]) == (0, 2)
        assert database.query("SELECT n FROM runs ORDER BY n") == [(1,), (2,)]
        assert names(run.named("connection.lost")) == ["002.sql"]


@pytest.mark.parametrize(
    ("mark", "answer"),
    [("", COMMIT_COMPLETE), ("-- migrate:no-transaction\n", CLAIM_COMPLETE)],
    ids=["transaction", "no transaction"],
)
def test_a_commit_whose_answer_is_lost_counts_and_takes_effect_once(
    run: Callable[..., Run], proxy: Proxy, database: Database, migrations_dir: MigrationsDir, mark: str, answer: bytes
) -> None:
    database.execute("CREATE TABLE runs (n INT)")
    migrations_dir.write("001.sql", f"{mark}DO $$BEGIN INSERT INTO runs VALUES (1); END$$")
    migrations_dir.write("002.sql", "INSERT INTO runs VALUES (2)")
    proxy.cut_before = [answer]
    ended = run(DATABASE_URL=database.dsn_at(proxy.port))
    assert proxy.cut_before == []
    assert (ended.exit_code, ended.report["applied"], ended.report["skipped"]) == (0, 2, 0)
    assert names(ended.named("migration.applied")) == ["001.sql", "002.sql"]
    in_doubt = [event for event in ended.events if event.get("in_doubt")]
    assert (in_doubt[0]["migration"], in_doubt[0]["event"]) == ("001.sql", "migration.applied")
    assert names(ended.named("connection.lost")) == ["001.sql"]
    assert database.query("SELECT n FROM runs ORDER BY n") == [(1,), (2,)]
    assert database.query(NAMES) == [("001.sql",), ("002.sql",)]


@pytest.mark.session("a transaction-mode pooler has no session lock to release")
def test_the_table_is_read_again_if_the_connection_is_lost_while_the_lock_is_released(
    run: Callable[..., Run], proxy: Proxy, database: Database, migrations_dir: MigrationsDir
) -> None:
    """The server may have failed over to a standby that lacks the last commits."""
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    migrations_dir.write("002.sql", "SELECT 1")
    database.execute("CREATE TABLE _migrations (name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ DEFAULT now())")
    database.execute("INSERT INTO _migrations VALUES ('001.sql')")
    proxy.cut_before = [b"pg_advisory_unlock"]
    ended = run(DATABASE_URL=database.dsn_at(proxy.port))
    assert (ended.exit_code, ended.report["applied"], ended.report["skipped"]) == (0, 1, 1)
    assert names(ended.named("connection.lost")) == [None]
    assert len(ended.named("postgres.ready")) == 2


def test_connections_lost_while_waiting_for_the_lock_do_not_count_as_attempts_of_the_file(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    """One loss while the file runs and two while another session holds the lock count as one attempt, not three."""
    database.execute("CREATE SEQUENCE attempts")
    migrations_dir.write("001.sql", "SELECT pg_sleep(60 * (nextval('attempts') = 1)::int)")
    waiting = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pg-predeploy%%'"
    process = start()
    [(backend,)] = eventually(lambda: database.query(SLEEPERS))
    with database.connect() as other:
        taker = threading.Thread(target=other.execute, args=[f"SELECT pg_advisory_lock({LOCK_KEY})"])
        taker.start()
        eventually(lambda: database.query("SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        for _ in range(3):
            database.query("SELECT pg_terminate_backend(%s)", backend)
            taker.join()
            process.wait_for("lock.waiting")
            [(backend,)] = database.query(f"SELECT pid {waiting} ORDER BY backend_start DESC LIMIT 1")
    run = process.finish()
    assert (run.exit_code, run.report["applied"]) == (0, 1)
    assert [event.get("migration") for event in run.named("connection.lost")] == ["001.sql", None, None]


def test_a_session_that_is_always_terminated_while_it_waits_for_the_lock_ends_the_run(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    with database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        process = start()
        for _ in range(3):
            process.wait_for("lock.waiting")
            database.query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'pg-predeploy%'"
            )
        run = process.finish()
    assert (run.exit_code, run.report["outcome"]) == (6, "connection_lost")
    assert len(run.named("connection.lost")) == 3


def test_commits_before_a_permanent_loss_of_the_server_are_reported(
    start: Callable[..., Process],
    run: Callable[..., Run],
    proxy: Proxy,
    database: Database,
    migrations_dir: MigrationsDir,
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    migrations_dir.write("002.sql", "SELECT pg_sleep(60 * (to_regclass('go') IS NULL)::int)")
    process = start(DATABASE_URL=database.dsn_at(proxy.port), MIGRATE_WAIT_TIMEOUT="500ms")
    eventually(lambda: database.query(SLEEPERS))
    proxy.refusals = [("57P03", "the database system is shutting down")] * 1000
    database.query(TERMINATE_SLEEPERS)
    ended = process.finish()
    assert (ended.exit_code, ended.report["applied"], ended.report["failed"]) == (6, 1, 0)
    assert "shutting down" in ended.report["message"]
    database.execute("CREATE TABLE go ()")
    again = run()
    assert (again.exit_code, again.report["applied"], again.report["skipped"]) == (0, 1, 1)
