"""A search path that changes between runs or during a run: one history, and no migration runs twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.catalog import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.program import Run

COMMANDS = ("migrate", "check", "plan", "plan --rehearse", "baseline --all", "baseline --all --dry-run")


def set_search_path(database: Database, path: str) -> None:
    """Set the search path for every new session, as an administrator does."""
    database.admin_execute(f'ALTER ROLE "{database.owner}" SET search_path = {path}')


@pytest.fixture
def moved(run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir) -> None:
    """Apply a migration in `public`; then the search path contains only `app`."""
    migrations_dir.write("001.sql", "CREATE SCHEMA app; CREATE TABLE app.log (n int)")
    migrations_dir.write("002.sql", "INSERT INTO app.log VALUES (1)")
    assert run().report["applied"] == 2
    set_search_path(database, "app")


@pytest.mark.usefixtures("moved")
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_history_outside_the_search_path_stops_the_run(
    command: str, run: Callable[..., Run], database: Database
) -> None:
    before = snapshot(database)
    stopped = run(*command.split())
    assert stopped.exit_code == 2
    assert "public._migrations records these migrations" in stopped.report["message"]
    assert "Set MIGRATE_TABLE=public._migrations to continue" in stopped.report["message"]
    assert "MIGRATE_TABLE=app._migrations to begin a new history" in stopped.report["message"]
    assert snapshot(database) == before


@pytest.mark.usefixtures("moved")
def test_status_warns_of_it(run: Callable[..., Run]) -> None:
    status = run("status")
    assert status.exit_code == 0
    (warning,) = status.named("schema.foreign_history")
    assert "public._migrations records these migrations" in warning["message"]


@pytest.mark.usefixtures("moved")
def test_both_values_in_the_message_work(run: Callable[..., Run], database: Database) -> None:
    assert run(MIGRATE_TABLE="public._migrations").report["skipped"] == 2
    assert database.query("SELECT count(*) FROM app.log") == [(1,)]
    database.execute("DROP TABLE app.log")
    again = run(MIGRATE_TABLE="app._migrations")
    assert [error["migration"] for error in again.named("migration.failed")] == ["001.sql", "002.sql"]
    assert database.query("SELECT count(*) FROM app._migrations") == [(0,)]


def test_names_that_need_quotes_are_quoted_in_the_message(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    database.execute('CREATE SCHEMA "Old ""One"; CREATE SCHEMA new')
    set_search_path(database, '"Old ""One"')
    assert run(MIGRATE_TABLE="Applied").report["applied"] == 1
    set_search_path(database, "new")
    message = run(MIGRATE_TABLE="Applied").report["message"]
    assert 'Set MIGRATE_TABLE="Old ""One".applied to continue' in message
    assert run(MIGRATE_TABLE='"Old ""One".applied').report["skipped"] == 1


@pytest.mark.parametrize(
    "other",
    [
        "INSERT INTO other._migrations (name, checksum) VALUES ('001.sql', 'of another file')",
        "INSERT INTO other._migrations (name) VALUES ('another.sql')",
        "INSERT INTO other._migrations (name) VALUES ('001.sql'); ALTER TABLE other._migrations DROP applied_at",
    ],
    ids=["another checksum", "another name", "another shape"],
)
def test_the_history_of_another_application_does_not_stop_the_run(
    other: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    database.execute(
        "CREATE SCHEMA other; CREATE TABLE other._migrations "
        f"(name text PRIMARY KEY, applied_at timestamptz DEFAULT now(), checksum text); {other}"
    )
    assert run().report["applied"] == 1


def test_a_history_that_belongs_to_another_role_does_not_stop_the_run(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    database.admin_execute(
        "CREATE SCHEMA other; CREATE TABLE other._migrations (name text, applied_at timestamptz); "
        "INSERT INTO other._migrations VALUES ('001.sql'); "
        f'GRANT USAGE ON SCHEMA other TO "{database.owner}"; GRANT SELECT ON other._migrations TO "{database.owner}"'
    )
    assert run().report["applied"] == 1


def test_a_history_without_checksums_counts_by_name(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    database.execute("CREATE SCHEMA other; CREATE TABLE other._migrations (name text, applied_at timestamptz)")
    database.execute("INSERT INTO other._migrations VALUES ('001.sql')")
    assert run().exit_code == 2


@pytest.mark.direct("a pooler may ignore options")
def test_one_schema_per_tenant_by_the_connection_string_needs_no_setting(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
    for tenant in ("a", "b"):
        database.execute(f"CREATE SCHEMA {tenant}")
        dsn = f"{database.dsn}?options=-csearch_path%3D{tenant}"
        assert run(DATABASE_URL=dsn).report["applied"] == 1
        assert run(DATABASE_URL=dsn).report["skipped"] == 1
    assert database.query("TABLE a.t UNION ALL TABLE b.t") == [(1,), (1,)]


NEW_PATH = "ALTER ROLE CURRENT_USER SET search_path = app, public"
CHANGES = {
    "a statement": NEW_PATH,
    "a block": f"DO $$BEGIN EXECUTE '{NEW_PATH}'; END$$",
    "a function": "SELECT change()",
    "a procedure": "CALL change_too()",
    "no transaction": f"-- migrate:no-transaction\n{NEW_PATH}",
}


@pytest.mark.direct("a session that a pooler keeps does not get new settings")
@pytest.mark.parametrize("change", CHANGES)
def test_the_next_migration_runs_with_the_settings_of_a_new_session(
    change: str, run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write(
        "001.sql",
        f"""
        CREATE SCHEMA app;
        CREATE FUNCTION change() RETURNS void LANGUAGE plpgsql AS $$BEGIN {NEW_PATH}; END$$;
        CREATE PROCEDURE change_too() LANGUAGE plpgsql AS $$BEGIN {NEW_PATH}; END$$;
        """,
    )
    migrations_dir.write("002.sql", "CREATE TABLE before ()")
    migrations_dir.write("003.sql", CHANGES[change])
    migrations_dir.write("004.sql", "CREATE TABLE after ()")
    migrations_dir.write("005.sql", "-- migrate:no-transaction\nCREATE TABLE later ()")
    migrations_dir.write("006.sql", "CREATE TABLE last ()")
    finished = run()
    assert (finished.exit_code, finished.report["applied"]) == (0, 6)
    assert len(finished.named("session.renewed")) == 1
    assert finished.named("connection.lost") == []
    tables = "SELECT schemaname, tablename FROM pg_tables WHERE tablename IN ('before', 'after', 'later', 'last')"
    expected = {("public", "before"), ("app", "after"), ("app", "later"), ("app", "last")}
    assert {*database.query(tables)} == expected
    assert run().report["skipped"] == 6
    assert database.query("SELECT count(*) FROM public._migrations") == [(6,)]


@pytest.mark.direct("a session that a pooler keeps does not get new settings")
def test_a_migration_that_hides_the_table_causes_a_warning_at_once(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE SCHEMA app; ALTER ROLE CURRENT_USER SET search_path = app")
    migrations_dir.write("002.sql", "CREATE TABLE after ()")
    finished = run()
    assert (finished.exit_code, finished.report["applied"]) == (0, 2)
    (warning,) = finished.named("table.hidden")
    assert "set MIGRATE_TABLE=public._migrations" in warning["message"]
    assert database.query("SELECT to_regclass('app.after')::text") == [("after",)]
    assert run().exit_code == 2
    assert run(MIGRATE_TABLE="public._migrations").report["skipped"] == 2


@pytest.mark.direct("a session that a pooler keeps does not get new settings")
def test_the_last_migration_that_hides_the_table_causes_a_warning_too(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE SCHEMA app; ALTER ROLE CURRENT_USER SET search_path = app")
    assert len(run().named("table.hidden")) == 1


@pytest.mark.direct("a session that a pooler keeps does not get new settings")
def test_each_migration_can_change_the_settings(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    for number in range(1, 6):
        migrations_dir.write(
            f"{number}.sql",
            f"CREATE SCHEMA s{number}; CREATE TABLE t{number} (); "
            f"ALTER ROLE CURRENT_USER SET search_path = s{number}, public",
        )
    finished = run()
    assert (finished.exit_code, finished.report["applied"]) == (0, 5)
    tables = "SELECT schemaname FROM pg_tables WHERE tablename LIKE 't_' ORDER BY tablename"
    assert database.query(tables) == [("public",), ("s1",), ("s2",), ("s3",), ("s4",)]


def test_through_a_pooler_there_is_a_warning(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    migrations_dir.write("001.sql", NEW_PATH)
    migrations_dir.write("002.sql", "CREATE TABLE t ()")
    finished = run(DATABASE_URL=database.dsn_at(pgbouncer.port))
    assert (finished.exit_code, finished.report["applied"]) == (0, 2)
    assert finished.named("session.renewed") == []
    (warning,) = finished.named("session.outdated")
    assert "until the pooler reconnects" in warning["message"]
