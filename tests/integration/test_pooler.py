"""Behind PgBouncer: each migration is applied once, and no session state is left in the pool."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from predeploy import create_db, run_migrations
from predeploy.lock.key import LOCK_KEY
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.program import Process, Run

NO_TRANSACTION = "-- migrate:no-transaction\n"
ADVISORY_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
NAMES = "SELECT name FROM _migrations ORDER BY name"


@pytest.fixture
def gate(database: Database) -> Iterator[Callable[[], None]]:
    """A table that is locked until the gate opens, so that a migration that reads it waits."""
    database.execute("CREATE TABLE gate (n int)")
    with database.connect(autocommit=False) as keeper:
        keeper.execute("LOCK TABLE gate")
        yield keeper.rollback


def waits_at_gate(database: Database) -> Callable[[], bool]:
    asks = "SELECT 1 FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted"
    return lambda: bool(database.query(asks))


def test_a_run_in_transaction_mode_is_correct_and_leaves_nothing_in_the_pool(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE effects (n int); INSERT INTO effects VALUES (1)")
    migrations_dir.write("002.sql", "INSERT INTO effects VALUES (2); SELECT 1/0")
    migrations_dir.write("003.sql", "INSERT INTO effects VALUES (3)")
    ended = run(DATABASE_URL=database.dsn_at(pgbouncer.port), MIGRATE_LOCK_TIMEOUT="7s")
    assert (ended.exit_code, ended.report["applied"], ended.report["failed"]) == (1, 2, 1)
    (detected,) = ended.named("pooler.detected")
    assert detected["mode"] == "transaction"
    assert ended.named("lock.acquired") == [], "a session lock was taken, which excludes no one in a pool"
    assert ended.named("migration.failed")[0]["line"] == 1
    assert database.query("SELECT n FROM effects ORDER BY n") == [(1,), (3,)]
    assert database.query(NAMES) == [("001.sql",), ("003.sql",)]
    # The pool still has the backends that served the run.
    others = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    assert database.query(others)
    assert database.query(ADVISORY_LOCKS) == [(0,)]
    again = run(DATABASE_URL=database.dsn_at(pgbouncer.port))
    assert (again.report["skipped"], again.report["failed"]) == (2, 1)


def test_session_mode_is_detected_and_uses_a_session_lock(
    start: Callable[..., Process],
    database: Database,
    migrations_dir: MigrationsDir,
    session_pgbouncer: PgBouncer,
    gate: Callable[[], None],
) -> None:
    database.execute("CREATE TABLE t (id int)")
    migrations_dir.write("001.sql", f"{NO_TRANSACTION}SELECT * FROM gate; CREATE INDEX CONCURRENTLY one ON t (id)")
    process = start(DATABASE_URL=database.dsn_at(session_pgbouncer.port))
    assert process.wait_for("pooler.detected")["mode"] == "session"
    process.wait_for("lock.acquired")
    eventually(waits_at_gate(database))
    assert database.query(ADVISORY_LOCKS) == [(1,)]
    gate()
    assert process.finish().exit_code == 0
    assert database.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one'::regclass") == [(True,)]
    assert database.query(ADVISORY_LOCKS) == [(0,)]


@pytest.mark.direct("the test is about direct connections")
def test_a_direct_connection_is_not_taken_for_a_pooler(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    ended = run()
    assert (ended.named("pooler.detected"), len(ended.named("lock.acquired"))) == ([], 1)


@pytest.mark.parametrize("variable", ["DIRECT_URL", None])
def test_transaction_mode_rejects_a_no_transaction_file_and_names_a_workaround(
    run: Callable[..., Run],
    database: Database,
    migrations_dir: MigrationsDir,
    pgbouncer: PgBouncer,
    variable: str | None,
) -> None:
    migrations_dir.write("001.sql", f"{NO_TRANSACTION}CREATE TABLE never ()")
    migrations_dir.write("002.sql", "CREATE TABLE kept ()")
    environment = {variable: database.dsn} if variable else {}
    ended = run(DATABASE_URL=database.dsn_at(pgbouncer.port), **environment)
    assert (ended.exit_code, ended.report["applied"]) == (1, 1)
    (failed,) = ended.named("migration.failed")
    assert (failed["migration"], "transaction-mode pooler" in failed["error"]) == ("001.sql", True)
    assert "DATABASE_URL" in failed["hint"]
    assert variable is None or f"the one in {variable}" in failed["hint"]
    assert database.query("SELECT to_regclass('never'), to_regclass('kept')::text") == [(None, "kept")]


@pytest.mark.parametrize(
    ("first", "second"), [("pooled", "pooled"), ("pooled", "direct"), ("direct", "pooled")], ids="-".join
)
def test_two_runners_exclude_each_other_on_any_combination_of_paths(
    start: Callable[..., Process],
    database: Database,
    migrations_dir: MigrationsDir,
    pgbouncer: PgBouncer,
    gate: Callable[[], None],
    first: str,
    second: str,
) -> None:
    database.execute("CREATE TABLE effects (n int)")
    migrations_dir.write("001.sql", "INSERT INTO effects VALUES (1); SELECT * FROM gate")
    migrations_dir.write("002.sql", "INSERT INTO effects VALUES (2)")
    way = {"pooled": database.dsn_at(pgbouncer.port), "direct": database.dsn}
    holder = start(DATABASE_URL=way[first])
    eventually(waits_at_gate(database))
    waiter = start(DATABASE_URL=way[second])
    assert waiter.wait_for("lock.waiting")["holder"]["state"] == "active"
    gate()
    assert [process.finish().exit_code for process in (holder, waiter)] == [0, 0]
    assert database.query("SELECT n FROM effects ORDER BY n") == [(1,), (2,)]
    assert database.query(ADVISORY_LOCKS) == [(0,)]


def test_a_runner_waits_for_a_lock_that_is_taken_between_two_files(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    """Another session waits for the lock while the first file runs, and gets it when that file's transaction ends."""
    database.execute("CREATE TABLE effects (n int); CREATE TABLE gate (n int)")
    migrations_dir.write("001.sql", "INSERT INTO effects VALUES (1); SELECT * FROM gate")
    migrations_dir.write("002.sql", "INSERT INTO effects VALUES (2)")
    with database.connect(autocommit=False) as keeper, database.connect() as foreign:
        keeper.execute("LOCK TABLE gate")
        process = start(DATABASE_URL=database.dsn_at(pgbouncer.port))
        eventually(waits_at_gate(database))
        queued = threading.Thread(target=foreign.execute, args=[f"SELECT pg_advisory_lock({LOCK_KEY})"])
        queued.start()
        eventually(lambda: database.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        keeper.rollback()
        queued.join()
        process.wait_for("lock.waiting")
        assert database.query("SELECT n FROM effects") == [(1,)]
    ended = process.finish()
    assert (ended.exit_code, ended.report["applied"], ended.named("migration.failed")) == (0, 2, [])
    assert database.query("SELECT n FROM effects ORDER BY n") == [(1,), (2,)]


def test_a_lock_that_is_never_released_ends_the_run_with_4(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        ended = run(DATABASE_URL=database.dsn_at(pgbouncer.port), MIGRATE_LOCK_WAIT_TIMEOUT="300ms")
    assert (ended.exit_code, ended.report["code"]) == (4, "STORAGE_LOCK_TIMEOUT")
    assert database.query("SELECT to_regclass('t')") == [(None,)]


def test_a_lock_taken_between_two_files_and_never_released_ends_the_run_with_4_after_the_first_file(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    database.execute("CREATE TABLE gate (n int)")
    migrations_dir.write("001.sql", "SELECT * FROM gate")
    migrations_dir.write("002.sql", "CREATE TABLE never ()")
    with database.connect() as foreign:
        with database.connect(autocommit=False) as keeper:
            keeper.execute("LOCK TABLE gate")
            process = start(DATABASE_URL=database.dsn_at(pgbouncer.port), MIGRATE_LOCK_WAIT_TIMEOUT="1s")
            eventually(waits_at_gate(database))
            queued = threading.Thread(target=foreign.execute, args=[f"SELECT pg_advisory_lock({LOCK_KEY})"])
            queued.start()
            eventually(lambda: database.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"))
        queued.join()
        ended = process.finish()
    assert (ended.exit_code, ended.report["applied"], ended.report["failed"]) == (4, 1, 0)
    assert database.query("SELECT to_regclass('never')") == [(None,)]


LEFTOVERS = {
    "settings": "SET search_path = pg_catalog; SET statement_timeout = '9s'",
    "old string syntax": "SELECT set_config('standard_conforming_strings', 'off', false)",
    "the migration lock itself": f"SELECT pg_advisory_lock({LOCK_KEY})",
    "a temporary table": "CREATE TEMP TABLE probe ()",
    "a listener": "LISTEN probe",
    "a held cursor": "DECLARE probe CURSOR WITH HOLD FOR SELECT 1",
}
STATE = """
    SELECT current_schema(), current_setting('statement_timeout'), current_setting('standard_conforming_strings'),
           to_regclass('pg_temp.probe'), (SELECT count(*) FROM pg_listening_channels()),
           (SELECT count(*) FROM pg_cursors WHERE name = 'probe')
"""


@pytest.mark.parametrize(
    ("leftover", "failing"), [*((name, False) for name in LEFTOVERS), ("the migration lock itself", True)]
)
def test_session_state_of_a_file_does_not_reach_the_pools_next_client(
    run: Callable[..., Run],
    database: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
    leftover: str,
    failing: bool,
) -> None:
    alone = start_pgbouncer(default_pool_size=1)
    migrations_dir.write("001.sql", f"{LEFTOVERS[leftover]};" + ("SELECT 1/0" if failing else ""))
    migrations_dir.write("002.sql", "CREATE TABLE kept ()")
    ended = run(DATABASE_URL=database.dsn_at(alone.port))
    assert (ended.exit_code, ended.report["applied"]) == ((1, 1) if failing else (0, 2))
    with psycopg.connect(database.dsn_at(alone.port), autocommit=True) as next_client:
        assert next_client.execute(STATE).fetchone() == ("public", "0", "on", None, 0, 0)
    assert database.query(ADVISORY_LOCKS) == [(0,)]


def test_chunked_files_and_literal_backslashes_are_interpreted_correctly(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    row = "INSERT INTO effects VALUES ('ü\\n" + "x" * 1000 + "');\n"
    migrations_dir.write("001.sql", "CREATE TABLE effects (t text);\n" + row * 3000)
    check = "DO $$BEGIN IF (SELECT count(DISTINCT t) FROM effects) <> 1 THEN RAISE 'cut'; END IF; END$$"
    migrations_dir.write("002.sql", check)
    assert run(DATABASE_URL=database.dsn_at(pgbouncer.port)).exit_code == 0
    assert database.query("SELECT count(*), max(length(t)) FROM effects") == [(3000, 1003)]


def test_a_migrations_transaction_uses_the_settings(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} SET default_transaction_isolation = 'serializable'")
    names = ("lock_timeout", "statement_timeout", "transaction_isolation")
    values = ", ".join(f"current_setting('{name}') AS {name}" for name in names)
    migrations_dir.write("001.sql", f"CREATE TABLE seen AS SELECT {values}")
    timeouts = {"MIGRATE_LOCK_TIMEOUT": "7s", "MIGRATE_STATEMENT_TIMEOUT": "90s"}
    assert run(DATABASE_URL=database.dsn_at(pgbouncer.port), **timeouts).exit_code == 0
    assert database.query("SELECT * FROM seen") == [("7s", "90s", "read committed")]


def test_statement_mode_accepts_files_that_fit_into_one_message(
    run: Callable[..., Run],
    database: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
) -> None:
    bouncer = start_pgbouncer(pool_mode="statement")
    migrations_dir.write("001.sql", "CREATE TABLE a (); CREATE TABLE b ()")
    ended = run(DATABASE_URL=database.dsn_at(bouncer.port))
    assert (ended.exit_code, ended.named("pooler.detected")[0]["mode"]) == (0, "transaction")


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("pool", ["round robin", "one backend", "one client"])
def test_the_mode_is_detected_with_any_pool(
    run: Callable[..., Run],
    database: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
    pool: str,
    mode: str,
) -> None:
    bouncer = start_pgbouncer(pool_mode=mode, server_round_robin=1)
    if pool == "round robin":
        with ExitStack() as stack:  # leaves idle backends in the pool, which are used in turn
            clients = [stack.enter_context(psycopg.connect(database.dsn_at(bouncer.port))) for _ in range(5)]
            for client in clients:
                client.execute("SELECT 1")
    limits = {"one backend": "default_pool_size = 1", "one client": "max_client_conn = 1"}
    if pool in limits:
        bouncer.console(f"SET {limits[pool]}")
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    ended = run(DATABASE_URL=database.dsn_at(bouncer.port))
    # Without room for a second client, session mode cannot be distinguished; assuming transaction mode is safe.
    expected = "transaction" if pool in limits else mode
    assert (ended.exit_code, ended.named("pooler.detected")[0]["mode"]) == (0, expected)


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_settings_in_the_connection_string_are_rejected_because_a_pooler_loses_them(
    run: Callable[..., Run],
    database: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
    mode: str,
) -> None:
    bouncer = start_pgbouncer(pool_mode=mode)
    reads_them = bouncer.version >= (1, 20)
    if not reads_them:
        bouncer = start_pgbouncer(pool_mode=mode, ignore_startup_parameters="options")
    database.execute("CREATE SCHEMA app")
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    ended = run(DATABASE_URL=f"{database.dsn_at(bouncer.port)}?options=-csearch_path%3Dapp")
    assert (ended.exit_code, ended.report["code"]) == (2, "STORAGE_CONFIGURATION")
    assert "ALTER ROLE" in ended.report["message"]
    assert database.query("SELECT to_regclass('app.t'), to_regclass('public.t')") == [(None, None)]
    if reads_them:
        return
    routed = run(DATABASE_URL=f"{database.dsn_at(bouncer.port)}?options=endpoint%3Dnear")
    assert (routed.exit_code, routed.report["applied"]) == (0, 1), "a setting for the pooler itself was rejected"


def test_the_run_reconnects_after_a_backend_dies_behind_the_pooler(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    database.execute("CREATE TABLE effects (n int); CREATE SEQUENCE attempts")
    sleeper = "SELECT pg_sleep(60 * (nextval('attempts') = 1)::int)"
    migrations_dir.write("001.sql", f"INSERT INTO effects VALUES (1); {sleeper}")
    process = start(DATABASE_URL=database.dsn_at(pgbouncer.port))
    asleep = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    [(pid,)] = eventually(lambda: database.query(asleep))
    database.query("SELECT pg_terminate_backend(%s)", pid)
    ended = process.finish()
    assert (ended.exit_code, ended.report["applied"]) == (0, 1)
    assert [line["migration"] for line in ended.named("connection.lost")] == ["001.sql"]
    assert database.query("SELECT n FROM effects") == [(1,)]


def test_the_library_works_with_a_pool_of_connections_to_the_pooler(
    database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    with create_db(database.dsn_at(pgbouncer.port)) as db:
        assert run_migrations(db, migrations_dir.path).applied == ["001.sql"]
        assert run_migrations(db, migrations_dir.path).skipped == ["001.sql"]
    assert database.query(ADVISORY_LOCKS) == [(0,)]
