"""Renamed files, copies, and MIGRATE_STRICT, on a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

SEED = "INSERT INTO seeds VALUES (1)"


@pytest.fixture
def renamed(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    """An applied migration `2_seed.sql` that has been renamed to `002_seed.sql`."""
    migrations_dir.write("1_seeds.sql", "CREATE TABLE seeds (id int)")
    old = migrations_dir.write("2_seed.sql", SEED)
    assert run().report["applied"] == 2
    old.rename(migrations_dir.path / "002_seed.sql")


@pytest.mark.usefixtures("renamed")
def test_a_renamed_file_does_not_run_again(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    check = run("check")
    assert (check.exit_code, check.report["pending"]) == (0, 0)
    assert {event["migration"]: event["state"] for event in run("status").named("migration.status")} == {
        "002_seed.sql": "applied",
        "1_seeds.sql": "applied",
    }
    finished = run()
    assert (finished.exit_code, finished.report["applied"], finished.report["skipped"]) == (0, 0, 2)
    (warning,) = finished.named("migration.renamed")
    assert (warning["migration"], warning["level"]) == ("002_seed.sql", "warning")
    assert "2_seed.sql" in warning["message"]
    again = run()
    assert (again.named("migration.renamed"), again.named("migration.missing")) == ([], [])
    assert database.query("SELECT count(*) FROM seeds") == [(1,)]
    rows = database.query("SELECT name, checksum FROM _migrations WHERE name LIKE '%seed.sql' ORDER BY name")
    assert [name for name, _ in rows] == ["002_seed.sql", "2_seed.sql"]
    assert rows[0][1] == rows[1][1]
    migrations_dir.write("003_more.sql", SEED.replace("1", "3"))
    assert run().report["applied"] == 1


def test_the_same_content_under_another_name_is_an_error(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("1_seeds.sql", "CREATE TABLE seeds (id int)")
    old = migrations_dir.write("2_seed.sql", SEED)
    run()
    old.rename(migrations_dir.path / "3_first_user.sql")
    assert run("plan").exit_code == 1
    finished = run()
    assert (finished.exit_code, finished.report["failed"], finished.report["applied"]) == (1, 1, 0)
    error = finished.named("migration.failed")[0]
    assert error["migration"] == "3_first_user.sql"
    assert error["error"].startswith("has the same content as 2_seed.sql")
    assert database.query("SELECT count(*) FROM seeds") == [(1,)]
    migrations_dir.write("3_first_user.sql", f"-- again\n{SEED}")
    assert run().report["applied"] == 1


@pytest.mark.parametrize(
    ("strict", "name"),
    [
        ("changed", "1.sql"),
        ("missing", "2.sql"),
        ("late", "15.sql"),
        ("misordered", "15.sql"),
        ("ignored", "x.pgsql"),
    ],
)
def test_a_strict_finding_is_an_error_before_anything_runs(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, strict: str, name: str
) -> None:
    for number in (1, 2, 3):
        migrations_dir.write(f"{number}.sql", f"SELECT {number}")
    run()
    migrations_dir.write("1.sql", "SELECT 4")
    (migrations_dir.path / "2.sql").unlink()
    migrations_dir.write("15.sql", "CREATE TABLE late ()")
    migrations_dir.write("x.pgsql", "")
    for command in ("check", "migrate"):
        finished = run(command, MIGRATE_STRICT=strict)
        assert (finished.exit_code, finished.report["failed"]) == (1, 1)
        assert finished.report["first_failure"]["migration"] == name
    assert finished.report["not_run"] == 1
    every = run("migrate", MIGRATE_STRICT="all")
    assert (every.exit_code, every.report["failed"]) == (1, 5)
    assert database.query("SELECT to_regclass('late')") == [(None,)]
    assert run("check").exit_code == 10
    assert run().report["applied"] == 1


@pytest.mark.usefixtures("renamed")
def test_a_renamed_file_is_a_strict_finding(run: Callable[..., Run], database: Database) -> None:
    for command in ("check", "migrate"):
        assert run(command, MIGRATE_STRICT="renamed").exit_code == 1
    assert database.query("SELECT count(*) FROM _migrations") == [(2,)]


def test_strict_findings_are_found_without_the_driver(
    run: Callable[..., Run], migrations_dir: MigrationsDir, no_psycopg: dict[str, str]
) -> None:
    migrations_dir.write("1.sql", "SELECT 1")
    migrations_dir.write("2.sql", "SELECT 1")
    run()
    migrations_dir.write("1.sql", "SELECT 2")
    finished = run(**no_psycopg, MIGRATE_STRICT="all")
    assert (finished.exit_code, finished.report["failed"], finished.report["skipped"]) == (1, 1, 1)
    assert finished.named("migration.changed")[0]["level"] == "error"
    assert run(**no_psycopg, MIGRATE_STRICT="missing,late").exit_code == 0


def test_a_name_recorded_in_another_unicode_form_is_applied(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("caf\u00e9.sql", "CREATE TABLE once ()")
    assert run().report["applied"] == 1
    database.execute("UPDATE _migrations SET name = normalize(name, NFD)")
    (migrations_dir.path / "caf\u00e9.sql").rename(migrations_dir.path / "cafe\u0301.sql")
    for _ in range(2):
        assert (run().report["skipped"], run().named("migration.missing")) == (1, [])
        database.execute("UPDATE _migrations SET name = normalize(name, NFC)")
