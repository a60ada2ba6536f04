"""The log of a real run shows what a slow migration is doing and which session blocks it."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.database import fresh_database
from tests.support.eventually import eventually
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Event, Process

SOON = {"MIGRATE_WATCH_AFTER": "100ms"}
NO_TRANSACTION = pytest.mark.session("no-transaction migrations need a session")
AT_GATE = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = %s AND NOT granted"
# A function, declared immutable, that waits at gates 1 and 2 and so stops an operation in the middle.
GATED = """
    CREATE FUNCTION gated(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
    BEGIN
        IF n IN (400, 800) THEN PERFORM pg_advisory_xact_lock_shared(n / 400); END IF;
        RETURN n;
    END $$;
    CREATE TABLE big (n int, filler text) WITH (fillfactor = 10);
    INSERT INTO big SELECT n, repeat('x', 300) FROM generate_series(1, 1000) n;
"""


@contextmanager
def gates(database: Database) -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    """Keep gates 1 and 2 closed until their session ends."""
    with ExitStack() as stack:
        one, two = (stack.enter_context(database.admin_connect(application_name="the gate")) for _ in range(2))
        one.execute("SELECT pg_advisory_lock(1)")
        two.execute("SELECT pg_advisory_lock(2)")
        yield one, two


def progress_at_gate(process: Process, database: Database, gate: int) -> Event:
    """Return the progress that is logged while the file waits at the gate."""
    eventually(lambda: database.admin_query(AT_GATE, gate))
    process.wait_for("migration.progress", timeout=90)  # this event may describe the state before the gate
    return process.wait_for("migration.progress", timeout=90)


def test_a_file_blocked_by_an_idle_transaction_is_logged_with_the_lock_table_and_session(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE accounts (id int)")
    migrations_dir.write("001.sql", "-- why\nALTER TABLE accounts ADD COLUMN more int DEFAULT 4711")
    with database.connect(autocommit=False, application_name="the app") as blocker:
        blocker.execute("SELECT id, 'hunter2' FROM accounts")
        process = start(**SOON)
        logged = process.wait_for("migration.progress")
        pid = blocker.info.backend_pid
    run = process.finish()
    assert run.exit_code == 0
    assert logged["level"] == "info"
    assert logged["waiting_for"] == {"mode": "AccessExclusiveLock", "type": "relation", "relation": "accounts"}
    (by,) = logged["blocked_by"]
    assert by.pop("transaction_age_s") >= 0
    assert by == {
        "pid": pid,
        "application_name": "the app",
        "user": database.owner,
        "state": "idle in transaction",
    }
    assert (logged["statement"], logged["statements"], logged["line"], logged["command"]) == (1, 1, 2, "ALTER TABLE")
    assert (logged["wait_event_type"], logged["wait_event"]) == ("Lock", "relation")
    assert (
        "statement 1 of 1 (ALTER TABLE, line 2) is waiting for AccessExclusiveLock on accounts, " in logged["message"]
    )
    assert f"blocked by the app (pid {pid}, idle in transaction, in a transaction for " in logged["message"]
    assert "hunter2" not in run.stdout
    assert "4711" not in run.stdout


def test_a_file_that_waits_for_a_row_is_logged_with_the_table(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE SCHEMA app; CREATE TABLE app.accounts AS SELECT 1 AS id")
    migrations_dir.write("001.sql", "UPDATE app.accounts SET id = 2")
    with database.connect(autocommit=False) as blocker:
        blocker.execute("UPDATE app.accounts SET id = 3")
        process = start(**SOON)
        logged = process.wait_for("migration.progress")
        assert logged["waiting_for"] == {"mode": "ShareLock", "type": "transactionid", "relation": "app.accounts"}
        assert logged["blocked_by"][0]["pid"] == blocker.info.backend_pid
        assert "blocked by a session (pid " in logged["message"]
    assert process.finish().exit_code == 0


def test_a_session_of_another_role_is_logged_as_far_as_it_is_visible(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE busy ()")
    migrations_dir.write("001.sql", "DROP TABLE busy")
    with database.admin_connect(autocommit=False, application_name="backup") as blocker:
        blocker.execute("LOCK TABLE busy IN ACCESS SHARE MODE")
        process = start(**SOON)
        logged = process.wait_for("migration.progress")
        (by,) = logged["blocked_by"]
        pid = blocker.info.backend_pid
        assert (by["pid"], by["application_name"], by["state"], by["transaction_age_s"]) == (pid, "backup", None, None)
        assert f"blocked by backup (pid {pid}, state visible only to its role, " in logged["message"]
    assert process.finish().exit_code == 0


def test_the_first_ten_blocking_sessions_are_logged(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE busy ()")
    migrations_dir.write("001.sql", "DROP TABLE busy")
    with ExitStack() as stack:
        blockers = [stack.enter_context(database.connect(autocommit=False)) for _ in range(12)]
        for blocker in blockers:
            blocker.execute("TABLE busy")
        process = start(**SOON)
        logged = process.wait_for("migration.progress")
        oldest = [blocker.info.backend_pid for blocker in blockers[:10]]
        assert ([by["pid"] for by in logged["blocked_by"]], logged["blockers"]) == (oldest, 12)
        assert logged["message"].endswith(", and 2 more")
    assert process.finish().exit_code == 0


def test_a_blocking_prepared_transaction_is_logged_with_its_name(
    start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "DROP TABLE busy")
    with PostgresServer(settings={"max_prepared_transactions": "1"}) as server, fresh_database(server) as database:
        database.execute("CREATE TABLE busy ()")
        database.execute("BEGIN; TABLE busy; PREPARE TRANSACTION 'forgotten'")
        process = start(DATABASE_URL=database.dsn, **SOON)
        logged = process.wait_for("migration.progress")
        assert logged["blocked_by"][0]["pid"] == 0
        assert "blocked by a prepared transaction (see pg_prepared_xacts)" in logged["message"]
        database.execute("ROLLBACK PREPARED 'forgotten'")
        assert process.finish().exit_code == 0


def test_an_index_build_is_logged_with_its_phase_and_a_rising_percentage(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute(GATED)
    migrations_dir.write("001.sql", "CREATE INDEX one ON big (gated(n))")
    with gates(database) as (one, two):
        process = start(**SOON)
        first = progress_at_gate(process, database, 1)
        one.close()
        second = progress_at_gate(process, database, 2)
        two.close()
    assert process.finish().exit_code == 0
    assert (first["operation"], first["phase"]) == ("CREATE INDEX", "building index: scanning table")
    assert 30 < first["percent"] < 50 < 70 < second["percent"] < 90
    assert first["percent"] == round(100 * first["blocks_done"] / first["blocks_total"], 1)
    assert f"CREATE INDEX: building index: scanning table, {first['percent']:g} %" in first["message"]
    assert first["waiting_for"]["type"] == "advisory"
    assert "waiting for ShareLock (advisory), blocked by the gate (pid " in first["message"]


@pytest.mark.parametrize(
    ("prepare", "sql", "expected"),
    [
        pytest.param(
            "CREATE INDEX one ON big (gated(n))",
            "-- migrate:no-transaction\nVACUUM FULL big",
            {"operation": "VACUUM FULL", "phase": "rebuilding index", "percent": 100.0, "command": "VACUUM"},
            marks=NO_TRANSACTION,
        ),
        (
            "CREATE INDEX one ON big (n); CREATE INDEX two ON big (gated(n))",
            "CLUSTER big USING one",
            {"operation": "CLUSTER", "phase": "rebuilding index", "tuples_done": 1000, "command": "CLUSTER"},
        ),
        ("CREATE INDEX one ON big (gated(n))", "ANALYZE big", {"operation": "ANALYZE", "command": "ANALYZE"}),
    ],
    ids=["VACUUM FULL", "CLUSTER", "ANALYZE"],
)
def test_the_servers_progress_of_long_operations_is_logged(
    start: Callable[..., Process],
    database: Database,
    migrations_dir: MigrationsDir,
    prepare: str,
    sql: str,
    expected: dict[str, Any],
) -> None:
    database.execute(GATED + prepare)
    migrations_dir.write("001.sql", sql)
    with gates(database):
        process = start(**SOON)
        logged = progress_at_gate(process, database, 1)
    assert process.finish().exit_code == 0
    assert {name: logged.get(name) for name in expected} == expected
    assert logged["phase"]


@NO_TRANSACTION
def test_a_vacuum_is_logged_with_its_blocks(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE big AS SELECT n FROM generate_series(1, 5000) n; DELETE FROM big WHERE n % 2 = 0")
    slow = "SET vacuum_cost_delay = '100ms'; SET vacuum_cost_limit = 1;"
    migrations_dir.write("001.sql", f"-- migrate:no-transaction\n{slow}\nVACUUM big")
    process = start(**SOON)
    logged = process.wait_for("migration.progress")
    assert (logged["operation"], logged["statement"], logged["statements"]) == ("VACUUM", 3, 3)
    assert (logged["line"], logged["command"]) == (3, "VACUUM")
    assert logged["blocks_total"] > 10
    assert process.finish().exit_code == 0


def test_a_copy_is_logged_with_its_bytes_and_rows(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    [(directory,)] = database.admin_query("SHOW data_directory")
    file = f"{directory}/rows"
    rows = "SELECT n, repeat('x', 1000) FROM generate_series(1, 1000) n"
    database.admin_execute(f"COPY ({rows}) TO '{file}'; GRANT pg_read_server_files TO {database.owner}")
    database.execute(
        f"{GATED} TRUNCATE big;"
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM gated(NEW.n); RETURN NEW; END';"
        "CREATE TRIGGER wait BEFORE INSERT ON big FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    migrations_dir.write("001.sql", f"COPY big FROM '{file}'")
    with gates(database):
        process = start(**SOON)
        logged = progress_at_gate(process, database, 1)
    assert process.finish().exit_code == 0
    assert logged["command"] == "COPY"
    with database.connect() as conn:
        if conn.info.server_version < 140000:
            assert "operation" not in logged
            return
    assert (logged["operation"], logged["tuples_done"]) == ("COPY FROM", 399)
    assert 30 < logged["percent"] < 60
    assert logged["bytes_total"] > 1_000_000


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "SELECT 1;\nDO $$BEGIN RAISE NOTICE 'what was kept back'; END$$;\nSELECT gated(400);",
            {"statement_at_least": 2, "statements": 3},
        ),
        pytest.param(
            "-- migrate:no-transaction\nSELECT 1;\nSELECT gated(400);\nSELECT 2;",
            {"statement": 2, "statements": 3, "line": 3, "command": "SELECT"},
            marks=NO_TRANSACTION,
        ),
        (
            f"SELECT '{'x' * (1 << 20)}';\nSELECT '{'x' * (1 << 20)}';\nSELECT gated(400);",
            {"statement_at_least": 2, "statements": 3},
        ),
    ],
    ids=["one message with a notice", "one by one", "in chunks"],
)
def test_the_running_statement_is_logged_as_far_as_its_number_is_known(
    start: Callable[..., Process],
    database: Database,
    migrations_dir: MigrationsDir,
    sql: str,
    expected: dict[str, Any],
) -> None:
    database.execute(GATED)
    migrations_dir.write("001.sql", sql)
    with gates(database):
        process = start(**SOON)
        logged = process.wait_for("migration.progress")
    assert process.finish().exit_code == 0
    place = {name: logged[name] for name in ("statement", "statement_at_least", "statements", "line") if name in logged}
    assert place | {name: logged[name] for name in ("command",) if name in logged} == expected
