"""MIGRATE_TABLE: several applications in one database, each with a table of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run


@pytest.mark.parametrize(
    ("value", "table"),
    [
        ("orders_migrations", "orders_migrations"),
        ("Orders", "orders"),
        ('"Orders History"', '"Orders History"'),
        ("history.applied", "history.applied"),
        ('history."_migrations"', "history._migrations"),
    ],
)
def test_the_table_is_created_and_used(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, value: str, table: str
) -> None:
    database.execute("CREATE SCHEMA history")
    migrations_dir.write("001_init.sql", "CREATE TABLE users ()")
    assert run(MIGRATE_TABLE=value).report["applied"] == 1
    assert run("check", MIGRATE_TABLE=value).exit_code == 0
    assert run(MIGRATE_TABLE=value).report["skipped"] == 1
    assert database.query(f"SELECT name FROM {table}") == [("001_init.sql",)]
    assert database.query("SELECT to_regclass('_migrations')") == [(None,)]
    migrations_dir.write("002.sql", f"DELETE FROM {table}")
    removed = run(MIGRATE_TABLE=value)
    assert (removed.exit_code, removed.report["failed"]) == (1, 1)
    migrations_dir.write("002.sql", f"-- migrate:no-transaction\nDELETE FROM {table}")
    assert "must not use" in run(MIGRATE_TABLE=value).named("migration.failed")[0]["error"]


def test_two_applications_share_a_database(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001_init.sql", "CREATE TABLE users ()")
    run()
    migrations_dir.write("001_init.sql", "CREATE TABLE orders ()")
    database.execute("INSERT INTO _migrations (name) VALUES ('002_theirs.sql')")
    (warning,) = run().named("migration.changed")
    assert "if _migrations belongs to another application, set MIGRATE_TABLE" in warning["message"]
    assert run(MIGRATE_TABLE="orders_migrations").report["applied"] == 1
    assert database.query("SELECT to_regclass('orders')") == [("orders",)]


def test_a_schema_that_does_not_exist_is_an_error(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    assert run("check", MIGRATE_TABLE="nowhere.applied").exit_code == 10
    refused = run(MIGRATE_TABLE="nowhere.applied")
    assert refused.exit_code == 2
    assert refused.report["message"] == "MIGRATE_TABLE names schema nowhere, which does not exist. Create it first."


def test_a_search_path_changed_by_a_migration_does_not_hide_the_table(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE SCHEMA history")
    migrations_dir.write("001.sql", "CREATE SCHEMA app; SET search_path TO app; CREATE TABLE t ()")
    migrations_dir.write("002.sql", "CREATE TABLE u ()")
    assert run(MIGRATE_TABLE="history.applied").report["applied"] == 2
    assert database.query("SELECT count(*) FROM history.applied") == [(2,)]
