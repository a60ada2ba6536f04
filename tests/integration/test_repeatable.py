"""Repeatable migrations run after all other migrations, and again whenever they change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.test_migrations_table import THEIRS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Process, Run

VIEW = "-- migrate:repeatable\nCREATE OR REPLACE VIEW v AS SELECT {} AS n FROM a; INSERT INTO runs VALUES ({})"


@pytest.fixture(params=["one", "many"])
def others(migrations_dir: MigrationsDir, request: pytest.FixtureRequest) -> None:
    """Write the migrations before the view; if there are several, the view is sent in the same message."""
    migrations_dir.write("1_a.sql", "CREATE TABLE a (); CREATE TABLE runs (n int)")
    for number in range(5 if request.param == "many" else 0):
        migrations_dir.write(f"2_{number}.sql", "SELECT 1")


@pytest.mark.usefixtures("others")
def test_a_repeatable_file_runs_last_and_again_when_it_changes(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("0_view.sql", VIEW.format(1, 1))
    first = run()
    assert first.exit_code == 0
    assert [event["migration"] for event in first.named("migration.applied")][-1] == "0_view.sql"
    assert run().report["applied"] == 0
    migrations_dir.write("0_view.sql", VIEW.format(2, 2))
    assert run("check").exit_code == 10
    assert [event["migration"] for event in run("plan").named("migration.planned")] == ["0_view.sql"]
    assert run("plan", "--rehearse").exit_code == 0
    migrations_dir.write("3_next.sql", "INSERT INTO runs VALUES (0)")
    second = run()
    assert [event["migration"] for event in second.named("migration.applied")] == ["3_next.sql", "0_view.sql"]
    assert (second.named("migration.changed"), second.named("migration.late")) == ([], [])
    assert database.query("SELECT n FROM runs") == [(1,), (0,), (2,)]
    assert database.query("SELECT count(*), count(DISTINCT checksum) FROM _migrations WHERE name = '0_view.sql'") == [
        (1, 1)
    ]
    assert run(MIGRATE_STRICT="all").report["applied"] == 0


def test_a_failed_repeatable_file_keeps_its_old_checksum(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("v.sql", "-- migrate:repeatable\nSELECT 1")
    run()
    before = database.query("SELECT checksum, applied_at FROM _migrations")
    migrations_dir.write("v.sql", "-- migrate:repeatable\nSELECT 1 / 0")
    for _ in range(2):
        finished = run()
        assert (finished.exit_code, finished.named("migration.failed")[0]["sqlstate"]) == (1, "22012")
    assert database.query("SELECT checksum, applied_at FROM _migrations") == before


def test_a_repeatable_file_may_run_without_a_transaction(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    for number in (1, 2):
        migrations_dir.write("v.sql", f"-- migrate:repeatable\n-- migrate:no-transaction\nVACUUM; SELECT {number}")
        assert run().report["applied"] == 1
    assert database.query("SELECT count(*) FROM _migrations") == [(1,)]


@pytest.mark.direct("a pooler does not hold the lock between transactions")
def test_only_one_of_two_runners_applies_a_change(
    start: Callable[..., Process], run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("1.sql", "CREATE TABLE runs (n int)")
    migrations_dir.write("v.sql", VIEW.format(1, 1).replace("FROM a", ""))
    run()
    migrations_dir.write("v.sql", VIEW.format(2, 2).replace("FROM a", ""))
    finished = [process.finish() for process in [start() for _ in range(3)]]
    assert [one.exit_code for one in finished] == [0, 0, 0]
    assert sum(one.report["applied"] for one in finished) == 1
    assert database.query("SELECT n FROM runs") == [(1,), (2,)]


def test_a_change_that_another_runner_made_meanwhile_is_kept(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    """Another implementation, which does not take the lock, updates the row just before the claim."""
    migrations_dir.write("1.sql", "CREATE TABLE runs (n int)")
    migrations_dir.write("v.sql", "-- migrate:repeatable\nINSERT INTO runs VALUES (1)")
    run()
    migrations_dir.write("v.sql", "-- migrate:repeatable\nINSERT INTO runs VALUES (2)")
    migrations_dir.write("2.sql", "-- migrate:no-transaction\nSELECT 1")
    migrations_dir.write("3.sql", "UPDATE _migrations SET checksum = 'theirs' WHERE name = 'v.sql'")
    finished = run()
    assert (finished.exit_code, [e["migration"] for e in finished.named("migration.skipped")]) == (0, ["v.sql"])
    assert database.query("SELECT n FROM runs") == [(1,)]


def test_a_table_without_checksums_is_an_error_for_repeatable_files_only(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"{THEIRS}; GRANT SELECT, INSERT ON _migrations TO {database.owner}")
    migrations_dir.write("1.sql", "SELECT 1")
    migrations_dir.write("v.sql", "-- migrate:repeatable\nSELECT 1")
    finished = run()
    assert (finished.exit_code, finished.report["applied"], finished.report["failed"]) == (1, 1, 1)
    assert "needs a checksum column" in finished.named("migration.failed")[0]["error"]
