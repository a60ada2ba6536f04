"""The success criteria of the specification for this program: one test each, in order."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from predeploy import MigrationError, MigrationResult, StorageError, check_db_health, create_db, run_migrations
from predeploy.lock.key import LOCK_KEY
from tests.integration import test_schema
from tests.support.program import ROOT

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.postgres_server import PostgresServer

    Pool = ConnectionPool[Any]

OWN = ROOT / "migrations"
TABLES = {"workspaces", "devices", "workspace_devices", "sessions", "events"}
NOTHING = MigrationResult([], [], [])


def tables(database: Database) -> set[str]:
    return {name for (name,) in database.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_01_an_empty_database_gets_migrations_and_the_five_tables(db: Pool, database: Database) -> None:
    assert run_migrations(db, OWN) == MigrationResult(["001_initial.sql"], [], [])
    assert tables(database) == TABLES | {"_migrations"}


def test_02_running_again_is_a_no_op(db: Pool) -> None:
    run_migrations(db, OWN)
    assert run_migrations(db, OWN) == MigrationResult([], ["001_initial.sql"], [])


def test_03_health_is_ok_against_a_running_server(db: Pool) -> None:
    check_db_health(db)  # the pool opens its connection
    health = check_db_health(db)
    assert health.ok
    assert health.error is None
    assert 0 < health.latency_ms < 100


def test_04_health_is_not_ok_within_five_seconds_when_the_server_is_down(private_server: PostgresServer) -> None:
    private_server.stop()
    with create_db(private_server.dsn()) as db:
        health = check_db_health(db)
    assert not health.ok
    assert health.error == "connection refused: nothing is listening on that port yet"
    assert health.latency_ms < 5000


@pytest.mark.parametrize("table", sorted(TABLES))
def test_05_all_tables_have_the_columns_types_constraints_and_defaults_of_the_schema(
    db: Pool, database: Database, table: str
) -> None:
    run_migrations(db, OWN)
    test_schema.check_columns(database, table)
    test_schema.check_keys(database, table)


def test_06_events_session_id_is_nullable(db: Pool, database: Database) -> None:
    run_migrations(db, OWN)
    database.execute("""
        INSERT INTO workspaces (id, canonical_id, display_name) VALUES ('w', 'c', 'd');
        INSERT INTO devices (id, name, type) VALUES ('d', 'n', 'local');
        INSERT INTO events (id, type, timestamp, device_id, workspace_id, session_id, data)
        VALUES ('e', 'git.commit', now(), 'd', 'w', NULL, '{}')
    """)
    assert database.query("SELECT session_id FROM events") == [(None,)]


def test_07_sessions_remote_env_id_is_text_without_a_foreign_key(db: Pool, database: Database) -> None:
    run_migrations(db, OWN)
    where = "WHERE (table_name, column_name) = ('sessions', 'remote_env_id')"
    assert database.query(f"SELECT data_type FROM information_schema.columns {where}") == [("text",)]
    assert database.query(
        "SELECT count(*) FROM information_schema.key_column_usage WHERE column_name = 'remote_env_id'"
    ) == [(0,)]
    assert "-- FK to remote_envs added in Phase 5 migration" in (OWN / "001_initial.sql").read_text()


def test_08_all_eight_indexes_exist(db: Pool, database: Database) -> None:
    run_migrations(db, OWN)
    found = database.query(
        "SELECT tablename, count(*) FROM pg_indexes WHERE indexname LIKE 'idx%' GROUP BY 1 ORDER BY 1"
    )
    assert found == [("events", 4), ("sessions", 4)]


def test_09_workspace_devices_has_a_composite_primary_key(db: Pool, database: Database) -> None:
    run_migrations(db, OWN)
    keys = database.query(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p'"
        " AND conrelid = 'workspace_devices'::regclass"
    )
    assert keys == [("PRIMARY KEY (workspace_id, device_id)",)]


def test_10_two_simultaneous_runs_do_not_corrupt_the_schema(database: Database) -> None:
    def migrate(_: int) -> MigrationResult:
        with create_db(database.dsn) as db:
            return run_migrations(db, OWN)

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(migrate, range(2)))
    assert sorted((len(r.applied), len(r.skipped), len(r.errors)) for r in results) == [(0, 1, 0), (1, 0, 0)]
    assert tables(database) == TABLES | {"_migrations"}
    assert database.query("SELECT name FROM _migrations") == [("001_initial.sql",)]


@pytest.mark.direct("a pooler queries the server again before it reports that the database does not exist")
def test_11_the_connection_string_is_never_logged(
    db: Pool, database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("predeploy"), "propagate", True)
    caplog.set_level(logging.DEBUG)
    run_migrations(db, OWN)
    with create_db(database.dsn.replace(database.name, "no_such_database")) as wrong:
        assert (check_db_health(wrong).error or "").startswith("The database does not exist: ")
    assert "psycopg" in {record.name.split(".")[0] for record in caplog.records}, "the log was not captured"
    assert not [secret for secret in database.secrets if secret in caplog.text]


@pytest.mark.parametrize("empty", ["", None])
def test_12_create_db_without_a_url_raises_storage_error(empty: str | None) -> None:
    with pytest.raises(StorageError, match=r"^DATABASE_URL environment variable is required\.$") as caught:
        create_db(empty)
    assert caught.value.code == "STORAGE_DB_URL_MISSING"


# The specification's list of tests, and its requirements for directories and files.


def test_first_run_applies_all_and_records_them(db: Pool, database: Database, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("002_b.sql", "INSERT INTO a VALUES (2)")
    migrations_dir.write("001_a.sql", "CREATE TABLE a (id int)")
    assert run_migrations(db, migrations_dir.path) == MigrationResult(["001_a.sql", "002_b.sql"], [], [])
    assert database.query("SELECT id FROM a") == [(2,)]
    rows = database.query("SELECT name, now() - applied_at < interval '1 minute' FROM _migrations ORDER BY applied_at")
    assert rows == [("001_a.sql", True), ("002_b.sql", True)]


def test_second_run_is_a_no_op_with_all_skipped(db: Pool, database: Database, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001_a.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("002_b.sql", "INSERT INTO a VALUES (1)")
    run_migrations(db, migrations_dir.path)
    assert run_migrations(db, migrations_dir.path) == MigrationResult([], ["001_a.sql", "002_b.sql"], [])
    assert database.query("SELECT count(*) FROM a") == [(1,)]


def test_bad_sql_is_rolled_back_and_reported_and_the_others_still_apply(
    db: Pool, database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001_a.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("002_bad.sql", "CREATE TABLE half (id int);\nINSERT INTO nowhere VALUES (1);")
    migrations_dir.write("003_c.sql", "CREATE TABLE c (id int)")
    result = run_migrations(db, migrations_dir.path)
    error = MigrationError("002_bad.sql", 'relation "nowhere" does not exist (SQLSTATE 42P01, line 2, column 13)')
    assert result == MigrationResult(["001_a.sql", "003_c.sql"], [], [error])
    assert tables(database) == {"a", "c", "_migrations"}
    assert database.query("SELECT name FROM _migrations ORDER BY 1") == [("001_a.sql",), ("003_c.sql",)]


def test_the_next_run_retries_a_failed_file(db: Pool, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT 1/0")
    run_migrations(db, migrations_dir.path)
    migrations_dir.write("001.sql", "SELECT 1")
    assert run_migrations(db, migrations_dir.path).applied == ["001.sql"]


def test_a_missing_or_empty_directory_is_a_no_op(db: Pool, database: Database, migrations_dir: MigrationsDir) -> None:
    assert run_migrations(db, migrations_dir.path / "missing") == NOTHING
    assert run_migrations(db, migrations_dir.path) == NOTHING
    assert tables(database) == set()


def test_an_unreadable_file_is_an_error_and_the_others_still_apply(db: Pool, migrations_dir: MigrationsDir) -> None:
    (migrations_dir.path / "001.sql").symlink_to("nowhere")
    (migrations_dir.path / "002.sql").mkdir()
    migrations_dir.write("003.sql", "SELECT 1")
    result = run_migrations(db, migrations_dir.path)
    assert result.applied == ["003.sql"]
    assert [error.name for error in result.errors] == ["001.sql", "002.sql"]
    assert result.errors[0].error == "the file cannot be read: No such file or directory"


def test_the_lock_is_held_during_the_run_and_free_afterwards(
    db: Pool, database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write(
        "001.sql",
        "CREATE TABLE seen AS SELECT classid::bigint << 32 | objid::bigint AS key FROM pg_locks"
        " WHERE locktype = 'advisory' AND objsubid = 1 AND granted AND pid = pg_backend_pid()",
    )
    run_migrations(db, migrations_dir.path)
    assert LOCK_KEY == 48756301
    assert database.query("SELECT key FROM seen") == [(LOCK_KEY,)]
    assert database.query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)]
