"""Directories of other tools: rollback files, folders, numeric order, and directories without migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

RESULTS = "SELECT name FROM _migrations ORDER BY applied_at, name"


@pytest.mark.parametrize(
    ("up", "down"),
    [
        ("001_users.up.sql", "001_users.down.sql"),
        ("001_users.sql", "001_users.rollback.sql"),
        ("V1__users.sql", "U1__users.sql"),
        ("V1__users.sql", "beforeMigrate.sql"),
        ("1_users/up.sql", "1_users/down.sql"),
    ],
)
def test_a_rollback_never_runs(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, up: str, down: str
) -> None:
    database.execute("CREATE TABLE users (id int); INSERT INTO users VALUES (1)")
    migrations_dir.write(up, "CREATE TABLE IF NOT EXISTS users (id int)")
    migrations_dir.write(down, "DROP TABLE IF EXISTS users")
    for command in ("plan", "migrate", "migrate"):
        finished = run(command)
        assert finished.exit_code == 0
        assert [event["names"] for event in finished.named("migration.ignored")] == [[down]]
    assert finished.report["skipped"] == 1
    assert database.query("SELECT id FROM users") == [(1,)]
    assert database.query(RESULTS) == [(up,)]


def test_a_rollback_that_an_earlier_version_ran_is_not_missing(
    run: Callable[..., Run], migrations_dir: MigrationsDir, database: Database
) -> None:
    migrations_dir.write("1.up.sql", "SELECT 1")
    run()
    database.execute("INSERT INTO _migrations (name) VALUES ('1.down.sql')")
    migrations_dir.write("1.down.sql", "SELECT 2")
    finished = run()
    assert (finished.exit_code, finished.report["skipped"], finished.named("migration.missing")) == (0, 1, [])


def test_a_rollback_without_its_migration_is_an_error_and_the_run_continues(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("1_a.down.sql", "CREATE TABLE wrong ()")
    migrations_dir.write("2_b.sql", "SELECT 1")
    finished = run()
    assert (finished.exit_code, finished.report["failed"], finished.report["applied"]) == (1, 1, 1)
    assert finished.named("migration.failed")[0]["error"].startswith("this is a rollback file")
    assert database.query(RESULTS) == [("2_b.sql",)]


def test_folders_are_recorded_by_their_paths_in_order(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("20240102_b/migration.sql", "INSERT INTO a VALUES (1)")
    migrations_dir.write("20240101_a/migration.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("migration_lock.toml", "")
    assert run("check").exit_code == 10
    assert run().report["applied"] == 2
    assert database.query(RESULTS) == [("20240101_a/migration.sql",), ("20240102_b/migration.sql",)]
    migrations_dir.write("20240101_a/migration.sql", "CREATE TABLE other ()")
    again = run()
    assert [event["migration"] for event in again.named("migration.changed")] == ["20240101_a/migration.sql"]
    assert again.report["skipped"] == 2


def test_files_that_are_not_read_cause_one_warning(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    for name in ("001.sql", "002.pgsql", "003.sql.txt", "004.SQL", "007.sql ", "20240101_init/migration.sql"):
        migrations_dir.write(name, "SELECT 1")
    finished = run()
    assert finished.report["applied"] == 1
    (warning,) = finished.named("migration.ignored")
    assert (warning["level"], warning["count"]) == ("warning", 5)
    assert warning["names"] == ["002.pgsql", "003.sql.txt", "004.SQL", "007.sql ", "20240101_init/migration.sql"]
    assert "20240101_init/migration.sql" in warning["message"]


def test_a_directory_without_migrations_is_reported_as_such(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    for command in ("migrate", "check", "status"):
        empty = run(command)
        assert empty.exit_code == 0
        assert empty.report["message"] == f"No migrations: the directory {migrations_dir} contains no migration files"
        missing = run(command, MIGRATIONS_DIR="/nowhere/at/all")
        assert missing.exit_code == 0
        assert missing.report["message"] == "No migrations: the directory /nowhere/at/all does not exist"
    migrations_dir.write("001.sql", "SELECT 1")
    run()
    assert run().report["message"] == "No pending migrations (1 already applied)"


@pytest.mark.parametrize(
    "value", ["{} ", " {}", "'{}'", '"{}"', "{}/*.sql", "file://{}", "s3://bucket/x", "~/migrations"]
)
def test_a_directory_that_seems_mistyped_is_an_error_if_it_does_not_exist(
    run: Callable[..., Run], migrations_dir: MigrationsDir, value: str
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    finished = run(MIGRATIONS_DIR=value.format(migrations_dir))
    assert finished.exit_code == 2
    assert finished.report["message"].startswith(
        "The directory in MIGRATIONS_DIR does not exist. The value seems mistyped"
    )


def test_a_directory_with_an_unusual_name_is_used(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("it's *new* /001.sql", "SELECT 1")
    assert run(MIGRATIONS_DIR=f"{migrations_dir}/it's *new* ").report["applied"] == 1


def test_numeric_order_runs_version_10_after_version_2(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("V1__a.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("V2__b.sql", "CREATE TABLE b (id int)")
    migrations_dir.write("V10__c.sql", "ALTER TABLE b ADD COLUMN c int")
    assert [event["migration"] for event in run("plan").named("migration.misordered")] == ["V10__c.sql"]
    finished = run(MIGRATE_ORDER="numeric")
    assert (finished.exit_code, finished.named("migration.misordered")) == (0, [])
    assert database.query(RESULTS) == [("V1__a.sql",), ("V2__b.sql",), ("V10__c.sql",)]
    migrations_dir.write("V3__late.sql", "SELECT 1")
    late = run(MIGRATE_ORDER="numeric")
    assert [event["migration"] for event in late.named("migration.late")] == ["V3__late.sql"]
    migrations_dir.write("V2.0__b.sql", "SELECT 1")
    refused = run(MIGRATE_ORDER="numeric")
    assert (refused.exit_code, refused.report["message"]) == (
        2,
        "V2.0__b.sql and V2__b.sql have the same version. Rename one of them.",
    )


def test_a_flyway_directory_runs_as_it_does_in_flyway(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("R__view.sql", "CREATE OR REPLACE VIEW v AS SELECT id FROM a")
    migrations_dir.write("U1__a.sql", "DROP TABLE IF EXISTS a")
    migrations_dir.write("V1__a.sql", "CREATE TABLE a (id int)")
    first = run(MIGRATE_ORDER="numeric", MIGRATE_STRICT="all")
    assert first.exit_code == 0
    assert [event["migration"] for event in first.named("migration.applied")] == ["V1__a.sql", "R__view.sql"]
    migrations_dir.write("R__view.sql", "CREATE OR REPLACE VIEW v AS SELECT id, 1 AS one FROM a")
    again = run(MIGRATE_ORDER="numeric", MIGRATE_STRICT="all")
    assert [event["migration"] for event in again.named("migration.applied")] == ["R__view.sql"]
    assert database.query("SELECT count(one) FROM v") == [(0,)]
