"""If the server ends a statement, a transaction or a session on its own, the server's message is logged."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from predeploy.lock.key import LOCK_KEY
from tests.support.database import fresh_database
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Event, Process, Run

SLEEPERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
RUNNERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pg-predeploy%'"
)
NO_TRANSACTION = "-- migrate:no-transaction\n"
TERMINATED = "terminating connection due to administrator command"
ONE_SESSION = pytest.mark.direct("the test ends or watches the program's own session")


def failure(run: Run) -> Event:
    (event,) = run.named("migration.failed")
    return event


def lost(run: Run) -> list[tuple[str | None, str | None, str | None]]:
    return [(event["migration"], event["sqlstate"], event["error"]) for event in run.named("connection.lost")]


@pytest.mark.parametrize("origin", ["role", "variable", "file"])
def test_a_statement_timeout_has_advice_about_the_timeout(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, origin: str
) -> None:
    if origin == "role":
        database.admin_execute(f"ALTER ROLE {database.owner} SET statement_timeout = '200ms'")
    migrations_dir.write("001.sql", f"{'SET statement_timeout = 200;' * (origin == 'file')} SELECT pg_sleep(60)")
    failed = failure(run(MIGRATE_STATEMENT_TIMEOUT="200ms" if origin == "variable" else None))
    assert (failed["sqlstate"], failed["error"]) == ("57014", "canceling statement due to statement timeout")
    assert failed["advice"].startswith("Raise MIGRATE_STATEMENT_TIMEOUT")


def test_the_variable_overrides_the_statement_timeout_of_the_role(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    """The advice for a statement timeout relies on this."""
    database.admin_execute(f"ALTER ROLE {database.owner} SET statement_timeout = '200ms'")
    migrations_dir.write("001.sql", "SELECT pg_sleep(0.5)")
    assert run(MIGRATE_STATEMENT_TIMEOUT="1m").report["applied"] == 1


def test_a_cancelled_statement_fails_its_migration_once(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_sleep(60)")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    database.query(SLEEPERS.replace("pid", "pg_cancel_backend(pid)"))
    run = process.finish()
    failed = failure(run)
    assert (failed["sqlstate"], failed["error"]) == ("57014", "canceling statement due to user request")
    assert "another program cancelled" in failed["advice"]
    assert run.named("migration.retrying") == []


def test_a_lock_timeout_of_the_role_is_retried_and_then_reported(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE t ()")
    database.admin_execute(f"ALTER ROLE {database.owner} SET lock_timeout = '100ms'")
    migrations_dir.write("001.sql", "ALTER TABLE t ADD a int")
    with database.connect(autocommit=False) as reader:
        reader.execute("SELECT FROM t")
        ended = run()
    failed = failure(ended)
    assert (failed["sqlstate"], failed["error"]) == ("55P03", "canceling statement due to lock timeout")
    assert ended.named("migration.retrying") != []


@pytest.mark.parametrize("mark", ["", NO_TRANSACTION], ids=["transaction", "no transaction"])
@pytest.mark.session("runs a file outside of a transaction")
def test_a_transaction_timeout_is_reported_and_the_migration_does_not_run_again(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, mark: str
) -> None:
    require_transaction_timeout(database)
    database.execute("CREATE SEQUENCE attempts")
    database.admin_execute(f"ALTER ROLE {database.owner} SET transaction_timeout = '500ms'")
    migrations_dir.write("001.sql", f"{mark}SELECT nextval('attempts'), pg_sleep(60)")
    migrations_dir.write("002.sql", "CREATE TABLE kept ()")
    ended = run()
    failed = failure(ended)
    sentence = "terminating connection due to transaction timeout"
    assert (ended.exit_code, ended.report["applied"], failed["migration"]) == (1, 1, "001.sql")
    assert (failed["sqlstate"], failed["condition"]) == ("25P04", "transaction_timeout")
    assert sentence in failed["error"]
    assert ("no-transaction" in failed["error"]) == bool(mark)
    assert "SET transaction_timeout = 0" in failed["advice"]
    assert lost(ended) == [("001.sql", "25P04", sentence)]
    assert database.query("SELECT last_value FROM attempts") == [(1,)]
    migrations_dir.write("001.sql", f"{mark}SET transaction_timeout = 0;\nSELECT pg_sleep(1)")
    assert run().report["applied"] == 1, "the advice does not help"


def server_version(database: Database) -> int:
    [(version,)] = database.query("SELECT current_setting('server_version_num')::int")
    return int(version)


def require_transaction_timeout(database: Database) -> None:
    if server_version(database) < 170000:
        pytest.skip("transaction_timeout exists since Postgres 17")


@ONE_SESSION
def test_an_idle_timeout_between_two_chunks_is_reported_and_the_migration_does_not_run_again(
    start: Callable[..., Process], run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    """The program is stopped until the server has ended the session, which simulates a slow program."""
    database.admin_execute(f"ALTER ROLE {database.owner} SET idle_in_transaction_session_timeout = '500ms'")
    body = "SELECT pg_sleep(2 * (to_regclass('go') IS NULL)::int);\n" + "SELECT 'a row of the file';\n" * 50_000
    migrations_dir.write("001.sql", body)
    process = start()
    [(backend,)] = eventually(lambda: database.query(SLEEPERS))
    stop(process)
    continue_without_session(process, database, backend)
    ended = process.finish()
    failed = failure(ended)
    sentence = "terminating connection due to idle-in-transaction timeout"
    assert (ended.exit_code, failed["sqlstate"]) == (1, "25P03")
    assert sentence in failed["error"]
    assert "SET idle_in_transaction_session_timeout = 0" in failed["advice"]
    assert lost(ended) == [("001.sql", "25P03", sentence)]
    database.execute("CREATE TABLE go ()")
    assert run().report["applied"] == 1


@ONE_SESSION
def test_the_run_ends_if_its_session_exceeds_the_idle_timeout_while_it_waits_for_the_lock(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    require_idle_session_timeout(database)
    database.admin_execute(f"ALTER ROLE {database.owner} SET idle_session_timeout = '2s'")
    migrations_dir.write("001.sql", "SELECT 1")
    with database.admin_connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        process = start()
        process.wait_for("lock.waiting")
        [(backend,)] = database.admin_query(RUNNERS)
        stop(process)
        continue_without_session(process, database, backend)
        ended = process.finish()
    sentence = "terminating connection due to idle-session timeout"
    assert (ended.exit_code, lost(ended)) == (6, [(None, "57P05", sentence)])
    assert f"{sentence} (SQLSTATE 57P05). Raise idle_session_timeout" in ended.report["message"]


def require_idle_session_timeout(database: Database) -> None:
    if server_version(database) < 140000:
        pytest.skip("idle_session_timeout exists since Postgres 14")


def stop(process: Process) -> None:
    """Stop the program: the server's message would be lost if the program sent something before reading it."""
    process.signal(signal.SIGSTOP)


def continue_without_session(process: Process, database: Database, backend: int) -> None:
    eventually(lambda: not database.admin_query("SELECT FROM pg_stat_activity WHERE pid = %s", backend))
    process.signal(signal.SIGCONT)


@ONE_SESSION
def test_a_terminated_session_is_reported_with_the_servers_message_and_its_migration_runs_again(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE SEQUENCE attempts")
    migrations_dir.write("001.sql", "SELECT pg_sleep(60 * (nextval('attempts') = 1)::int)")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    database.query(SLEEPERS.replace("pid", "pg_terminate_backend(pid)"))
    ended = process.finish()
    assert (ended.exit_code, lost(ended)) == (0, [("001.sql", "57P01", TERMINATED)])


@ONE_SESSION
@pytest.mark.parametrize("mark", ["", NO_TRANSACTION], ids=["transaction", "no transaction"])
def test_a_migration_that_always_loses_its_session_fails_with_the_servers_last_message(
    run: Callable[..., Run], migrations_dir: MigrationsDir, mark: str
) -> None:
    migrations_dir.write("001.sql", f"{mark}SELECT pg_terminate_backend(pg_backend_pid())")
    ended = run()
    assert lost(ended) == [("001.sql", "57P01", TERMINATED)] * (1 if mark else 3)
    failed = failure(ended)
    assert (failed["sqlstate"], failed["condition"]) == ("57P01", "admin_shutdown")
    assert TERMINATED in failed["error"]
    assert ("advice" in failed, "Check the schema" in failed["error"]) == (not mark, bool(mark))
    assert ended.report["first_failure"]["sqlstate"] == "57P01"


@ONE_SESSION
def test_the_run_ends_with_the_servers_message_if_its_session_is_always_terminated_while_no_migration_runs(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    with database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        process = start()
        for _ in range(3):
            process.wait_for("lock.waiting")
            [(backend,)] = database.query(RUNNERS)
            stop(process)
            database.query("SELECT pg_terminate_backend(%s)", backend)
            continue_without_session(process, database, backend)
        ended = process.finish()
    assert (ended.exit_code, lost(ended)) == (6, [(None, "57P01", TERMINATED)] * 3)
    assert ended.report["message"].endswith(f"The server's last message: {TERMINATED} (SQLSTATE 57P01).")


@pytest.mark.direct("the limit counts the pooler's own connections")
@pytest.mark.parametrize(("what", "reason"), [("ROLE {owner}", "role_limit"), ("DATABASE {name}", "database_limit")])
def test_the_wait_for_a_connection_names_the_limit_of_the_role_or_the_database(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, what: str, reason: str
) -> None:
    limited = what.format(owner=database.owner, name=database.name)
    database.admin_execute(f"ALTER {limited} CONNECTION LIMIT 0")
    migrations_dir.write("001.sql", "SELECT 1")
    ended = run(MIGRATE_WAIT_TIMEOUT="1s")
    assert ended.exit_code == 3
    assert {event["reason"] for event in ended.named("postgres.waiting")} == {reason}


@ONE_SESSION
def test_the_run_ends_with_the_servers_last_message_if_the_server_stays_down(
    private_server: PostgresServer, start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    with fresh_database(private_server) as database:
        migrations_dir.write("001.sql", "SELECT pg_sleep(60)")
        process = start(DATABASE_URL=database.dsn, MIGRATE_WAIT_TIMEOUT="1s")
        eventually(lambda: database.query(SLEEPERS))
        private_server.stop()
        ended = process.finish()
        private_server.start()
    assert (ended.exit_code, ended.report["applied"]) == (6, 0)
    assert f". The server's last message: {TERMINATED} (SQLSTATE 57P01)." in ended.report["message"]


@ONE_SESSION
def test_a_dropped_database_ends_the_run_with_both_reasons(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_sleep(60)")
    process = start(MIGRATE_WAIT_TIMEOUT="10s")
    eventually(lambda: database.query(SLEEPERS))
    with database.server_connect() as conn:
        conn.execute(f"DROP DATABASE {database.name} WITH (FORCE)")
    ended = process.finish()
    assert (ended.exit_code, ended.report["applied"]) == (6, 0)
    assert "The database does not exist" in ended.report["message"]
    assert ended.report["message"].endswith(f"string. The server's last message: {TERMINATED} (SQLSTATE 57P01).")


@pytest.mark.parametrize(
    ("mode", "sqlstate", "sentence"),
    [
        ("fast", "57P01", TERMINATED),
        ("immediate", "57P01", "terminating connection due to immediate shutdown command"),
        ("crash", "57P02", "terminating connection because of crash of another server process"),
    ],
)
@ONE_SESSION
def test_the_migration_runs_again_after_a_restart(
    private_server: PostgresServer,
    start: Callable[..., Process],
    migrations_dir: MigrationsDir,
    mode: str,
    sqlstate: str,
    sentence: str,
) -> None:
    with fresh_database(private_server) as database:
        if mode == "immediate" and server_version(database) < 140000:
            sqlstate, sentence = "57P02", "terminating connection because of crash"
        database.execute("CREATE TABLE go ()")
        migrations_dir.write("001.sql", "CREATE TABLE t (); SELECT pg_sleep(60) WHERE NOT EXISTS (TABLE go)")
        process = start(DATABASE_URL=database.dsn)
        eventually(lambda: database.query(SLEEPERS))
        database.execute("INSERT INTO go DEFAULT VALUES")
        if mode == "crash":
            with database.connect() as victim:
                os.kill(victim.info.backend_pid, signal.SIGKILL)
        else:
            private_server.restart(mode)  # type: ignore[arg-type]
        ended = process.finish()
        assert (ended.exit_code, ended.report["applied"]) == (0, 1)
        assert [(m, code) for m, code, _ in lost(ended)] == [("001.sql", sqlstate)]
        assert sentence in str(lost(ended)[0][2])
        assert database.query("SELECT to_regclass('t')::text") == [("t",)]


@ONE_SESSION
def test_a_rehearsal_and_a_baseline_that_lose_their_session_report_the_servers_message(
    start: Callable[..., Process], run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_terminate_backend(pg_backend_pid())")
    rehearsed = run("plan", "--rehearse")
    assert (rehearsed.exit_code, f"last message: {TERMINATED} (SQLSTATE" in rehearsed.report["message"]) == (6, True)
    assert run().exit_code == 1, "the migration did not fail"
    with database.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE _migrations IN EXCLUSIVE MODE")
        process = start("baseline", "--through", "001.sql")
        waiting = f"{RUNNERS} AND wait_event_type = 'Lock'"
        eventually(lambda: database.query(waiting.replace("pid", "pg_terminate_backend(pid)")))
        recorded = process.finish()
    assert (recorded.exit_code, f"last message: {TERMINATED} (SQLSTATE" in recorded.report["message"]) == (6, True)


def test_the_servers_message_reveals_nothing_from_the_migration(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    """If the migration raises a warning with a shutdown's SQLSTATE, it is only logged as a notice."""
    migrations_dir.write(
        "001.sql",
        "DO $$BEGIN RAISE WARNING 'sesame' USING ERRCODE = '57P01'; "
        "PERFORM pg_terminate_backend(pg_backend_pid()); END$$",
    )
    ended = run()
    assert {sentence for _, _, sentence in lost(ended)} <= {TERMINATED, None}
    assert len(ended.named("postgres.notice")) == 3
