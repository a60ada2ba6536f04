"""Every tool's directive works. A near miss is logged, and named in the advice if a statement fails because of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

FOREIGN = (
    "-- postgres-migrations disable-transaction",
    "-- atlas:txmode none",
    "--! no-transaction",
    "-- +migrate Up notransaction",
    "-- a comment\n-- migrate:up transaction:false",
)
FOLLOWED, UNKNOWN, LATE = (
    "no other text may follow it",
    "write -- migrate:no-transaction",
    "it must come before the first statement",
)
NEARLY = {
    "-- migrate:no-transaction (the index needs it)\n": (1, FOLLOWED),
    "/* migrate:no-transaction */\n": (1, UNKNOWN),
    "-- migrate: no-transaction\n": (1, UNKNOWN),
    "-- +goose DisableTransaction\n": (1, UNKNOWN),
    "-- migrate:up transaction:no\n": (1, UNKNOWN),
    "SET lock_timeout = '1s';\n-- migrate:no-transaction\n": (2, LATE),
}


@pytest.mark.session("no-transaction migrations need a session")
def test_the_directives_of_other_tools_work(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    for number, directive in enumerate(FOREIGN):
        migrations_dir.write(f"{number:03}.sql", f"{directive}\nVACUUM;\n")
    ended = run()
    assert (ended.exit_code, ended.report["applied"]) == (0, len(FOREIGN))
    assert ended.named("migration.directive_ignored") == []


def test_a_near_miss_is_reported_by_each_command_and_named_in_the_advice(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE t (x int)")
    names = []
    for number, start in enumerate(NEARLY):
        names.append(f"{number:03}.sql")
        migrations_dir.write(names[-1], f"{start}CREATE INDEX CONCURRENTLY i{number} ON t (x);")
    migrations_dir.write("999.sql", "-- needs no transaction\nSELECT 1")
    for command in (["plan"], ["plan", "--rehearse"], ["migrate"]):
        ended = run(*command)
        events = ended.named("migration.directive_ignored")
        assert [(e["migration"], e["line"]) for e in events] == [
            (name, line) for name, (line, _) in zip(names, NEARLY.values(), strict=True)
        ]
        assert {e["level"] for e in events} == {"warning"}
        for event, (line, reason) in zip(events, NEARLY.values(), strict=True):
            assert event["message"] == f"{event['migration']}: line {line} is not read as a directive: {reason}"
    failed = ended.named("migration.failed")
    assert [e["sqlstate"] for e in failed] == ["25001"] * len(NEARLY)
    assert [e["advice"] for e in failed] == [
        f"Fix line {line}, which is not read as a directive: {reason}." for line, reason in NEARLY.values()
    ]
    assert database.query("SELECT name FROM _migrations") == [("999.sql",)]
    assert run().exit_code == 1


def test_a_near_miss_in_an_applied_file_is_not_reported(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "-- migrate:no-transaction;\nSELECT 1")
    assert len(run().named("migration.directive_ignored")) == 1
    migrations_dir.write("002.sql", "SELECT 1")
    assert run().named("migration.directive_ignored") == []
