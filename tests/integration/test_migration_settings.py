"""Transactional migrations can read the MIGRATE_SET_ values, which end with the transaction and are never logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.connection.session import direct_profile, pooled_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from predeploy.connection.session import SessionProfile
    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.program import Run

VALUES = {"region": "eu-west-1", "user": "it's; \\ 'x' -- $$ é", "_n": "two\nlines"}
VARIABLES = {f"MIGRATE_SET_{name.upper()}": value for name, value in VALUES.items()}
READ = """INSERT INTO seen SELECT {0}, name, current_setting('predeploy.' || name, true)
          FROM unnest(ARRAY['region', 'user', '_n', 'unset']) AS name"""


def seen_in(numbers: range) -> list[tuple[int, str, str]]:
    return [(number, name, value) for number in numbers for name, value in sorted(VALUES.items())]


def seen(database: Database) -> list[tuple[int, str, str]]:
    return database.query("SELECT * FROM seen WHERE value <> '' ORDER BY number, name COLLATE \"C\"")


@pytest.fixture(autouse=True)
def _seen(database: Database) -> None:
    database.execute("CREATE TABLE seen (number int, name text, value text)")


@pytest.mark.parametrize("count", [1, 3], ids=["alone", "in one message"])
def test_the_values_can_be_read_in_each_file(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, count: int
) -> None:
    for number in range(count):
        migrations_dir.write(f"{number}.sql", f"{READ.format(number)};\nRESET ALL; SET predeploy.region = 'changed'")
    rehearsed = run("plan", "--rehearse", **VARIABLES)
    assert (rehearsed.exit_code, rehearsed.report["rehearsed"]) == (0, count)
    ended = run(**VARIABLES)
    assert (ended.exit_code, ended.report["applied"], ended.named("settings.unknown")) == (0, count, [])
    assert seen(database) == seen_in(range(count))
    migrations_dir.write("9.sql", READ.format(9))
    assert run().exit_code == 0
    assert seen(database) == seen_in(range(count)), "the values must not outlast the migrations"


def test_a_rehearsal_sets_the_values_in_each_file(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    check = "DO $$ BEGIN ASSERT current_setting('predeploy.region') = 'eu-west-1'; END $$; RESET ALL;"
    for number in range(3):
        migrations_dir.write(f"{number}.sql", f"{check} SET predeploy.region = 'changed';")
    assert run("plan", "--rehearse", MIGRATE_SET_REGION="eu-west-1").exit_code == 0
    assert run("plan", "--rehearse", MIGRATE_SET_REGION="eu-west-2").exit_code == 1
    assert database.query("SELECT to_regclass('_migrations')") == [(None,)]


@pytest.mark.direct("the test has its own pooler")
def test_the_values_can_be_read_through_a_pooler_and_are_not_left_in_the_pool(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    for number in range(3):
        migrations_dir.write(f"{number}.sql", READ.format(number))
    migrations_dir.write("3.sql", f"BEGIN ISOLATION LEVEL SERIALIZABLE; {READ.format(3)}; COMMIT")
    dsn = database.dsn_at(pgbouncer.port)
    assert run(DATABASE_URL=dsn, **VARIABLES).exit_code == 0
    assert seen(database) == seen_in(range(4))
    migrations_dir.write("9.sql", READ.format(9))
    assert run(DATABASE_URL=dsn).exit_code == 0
    assert seen(database) == seen_in(range(4))


@pytest.mark.session("no-transaction migrations need a session")
def test_a_no_transaction_migration_cannot_read_the_values(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", f"-- migrate:no-transaction\n{READ.format(1)}")
    assert run(**VARIABLES).exit_code == 0
    assert seen(database) == []


def test_the_log_never_shows_a_value(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    value = "sesame-open-4711"
    read = "current_setting('predeploy.secret')"
    migrations_dir.write("001.sql", f"DO $$ BEGIN RAISE NOTICE '%', {read}; END $$")
    migrations_dir.write("002.sql", f"DO $$ BEGIN RAISE '%', {read}; END $$")
    migrations_dir.write("003.sql", f"SELECT {read}::int")
    for command in (["plan", "--rehearse"], ["migrate"]):
        ended = run(*command, MIGRATE_SET_SECRET=value, MIGRATE_LOG_LEVEL="debug")
        assert len(ended.named("migration.failed")) == 2
        assert value not in ended.stdout
    assert "***" in ended.stdout


@pytest.mark.parametrize("name", ["MIGRATE_SET_1A", "MIGRATE_SET_A-B"])
def test_a_name_that_cannot_be_set_ends_the_run(run: Callable[..., Run], name: str) -> None:
    ended = run(**{name: "sesame-open-4711"})
    assert ended.exit_code == 2
    assert "sesame" not in ended.stdout


@pytest.mark.parametrize("profile", [direct_profile, pooled_profile])
def test_the_values_end_with_the_transaction_even_without_a_reset(profile: Callable[..., SessionProfile]) -> None:
    begin = profile(lock_timeout=0, statement_timeout=0, migration_settings=[("region", "it's")]).begin
    assert begin.sql.startswith("BEGIN")
    assert begin.sql.endswith(";SET LOCAL predeploy.\"region\"='it''s';")
