"""`status`, `check`, `health` and the options of the command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from predeploy import __version__

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run


def test_status_lists_every_migration_with_its_state_and_changes_nothing(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    gone = migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", "SELECT 2")
    migrations_dir.write("003.sql", "SELECT 3")
    run("migrate")
    gone.unlink()
    migrations_dir.write("002.sql", "SELECT 22")
    migrations_dir.write("004.sql", "SELECT 4")
    finished = run("status")
    assert finished.exit_code == 0
    states = [
        (line["migration"], line["state"], bool(line["applied_at"])) for line in finished.named("migration.status")
    ]
    assert states == [
        ("001.sql", "missing", True),
        ("002.sql", "changed", True),
        ("003.sql", "applied", True),
        ("004.sql", "pending", False),
    ]
    assert [finished.report[state] for state in ("applied", "pending", "changed", "missing")] == [1, 1, 1, 1]
    assert database.query("SELECT count(*) FROM _migrations") == [(3,)]


def test_check_exits_with_10_while_a_migration_is_pending_and_creates_no_table(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    finished = run("check")
    assert (finished.exit_code, finished.report["outcome"], finished.report["pending"]) == (10, "pending", 1)
    assert database.query("SELECT to_regclass('_migrations')") == [(None,)]
    run()
    assert run("check").exit_code == 0


def test_status_and_check_work_on_a_read_only_server(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    run()
    database.admin_execute(f"ALTER ROLE {database.owner} SET default_transaction_read_only = on")
    assert [run(command).exit_code for command in ("status", "check")] == [0, 0]


def test_health_reports_the_latency(run: Callable[..., Run]) -> None:
    report = run("health").report
    assert report["exit_code"] == 0
    assert report["latency_ms"] > 0


def test_help_needs_no_settings(run: Callable[..., Run]) -> None:
    finished = run("--help", as_json=False, DATABASE_URL=None)
    assert finished.exit_code == 0
    assert "exit codes" in finished.stdout


def test_the_version_is_printed(run: Callable[..., Run]) -> None:
    finished = run("--version", as_json=False, DATABASE_URL=None)
    assert (finished.exit_code, finished.stdout) == (0, f"pg-predeploy {__version__}\n")


def test_the_first_line_names_the_command_and_the_directory(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    started = run().events[0]
    assert started["event"] == "run.started"
    assert (started["host"], started["port"]) == ("127.0.0.1", database.port)
    assert (started["version"], started["migrations_dir"]) == (__version__, str(migrations_dir))
    assert set(started) == {
        "timestamp", "level", "message", "event", "version", "host", "port", "migrations_dir",
    }  # fmt: skip


def test_unknown_variables_that_begin_with_migrate_cause_a_warning(run: Callable[..., Run]) -> None:
    finished = run(MIGRATE_SERVICE_HOST="10.0.0.1")
    assert finished.exit_code == 0
    assert finished.named("settings.unknown")[0]["names"] == ["MIGRATE_SERVICE_HOST"]


def test_text_format_is_readable(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", "SELECT nothing")
    lines = run(as_json=False, MIGRATE_LOG_FORMAT="text").stdout.splitlines()
    at = r"\d{4}-\d\d-\d\dT[\d:.]{12}Z"
    assert re.fullmatch(rf"{at} info    Applied 001\.sql \([\d.]+ ms\)", lines[-4])
    assert re.fullmatch(
        rf"{at} error   Failed: 002\.sql:1:8: .* \(SQLSTATE 42703 undefined_column, SELECT\)", lines[-3]
    )
    assert lines[-2].startswith("    advice: Fix the name of the column")
    assert re.fullmatch(rf"{at} error   1 failed \(002\.sql\), .* \(exit code 1, [\d.]+ m?s\)", lines[-1])


def test_status_in_text_has_one_line_per_migration_and_the_counts_at_the_end(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    gone = migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", "SELECT 2")
    run()
    gone.unlink()
    migrations_dir.write("002.sql", "SELECT 22")
    migrations_dir.write("3 with a long name.sql", "SELECT 3")
    database.execute("UPDATE _migrations SET applied_at = '2026-11-22 12:34:56+01'")
    assert run("status", as_json=False, MIGRATE_LOG_FORMAT="text", PGTZ="Asia/Kolkata").stdout.splitlines() == [
        "missing 001.sql  2026-11-22 11:34:56Z",
        "changed 002.sql  2026-11-22 11:34:56Z",
        "pending 3 with a long name.sql",
        "0 applied, 1 pending, 1 changed, 1 missing",
    ]


def test_check_in_text_is_one_line(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("0.sql", "SELECT 1")
    run()
    finished = run("check", as_json=False, MIGRATE_LOG_FORMAT="text")
    assert (finished.exit_code, finished.stdout) == (0, "No pending migrations\n")
    for number in range(1, 3):
        migrations_dir.write(f"{number}.sql", "SELECT 1")
    finished = run("check", as_json=False, MIGRATE_LOG_FORMAT="text")
    assert (finished.exit_code, finished.stdout) == (10, "2 pending: 1.sql, 2.sql\n")


def test_check_names_the_first_few_migrations(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    for number in range(8):
        migrations_dir.write(f"{number}.sql", "SELECT 1")
    assert run("check").report["message"] == "8 pending: 0.sql, 1.sql, 2.sql, 3.sql, 4.sql and 3 more"


@pytest.mark.parametrize("command", ["migrate", "status"])
def test_the_json_option_overrides_the_variable(
    run: Callable[..., Run], migrations_dir: MigrationsDir, command: str
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    finished = run(command, "--json", MIGRATE_LOG_FORMAT="text")
    assert finished.events[0]["event"] == "run.started"
    assert finished.report["outcome"] in {"succeeded", "pending"}


def test_the_json_option_applies_before_the_settings_are_read(run: Callable[..., Run]) -> None:
    finished = run("--json", MIGRATE_LOG_FORMAT="none of ours")
    assert (finished.exit_code, finished.report["outcome"]) == (2, "misconfigured")
