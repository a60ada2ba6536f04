"""Many files in one message: each is logged and reported separately, and none affects another."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.faults.fault_proxy import FaultProxy
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Process, Run

SLEEPERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


def names(run: Run, event: str) -> list[str]:
    return [line["migration"] for line in run.named(event)]


def queries(server: PostgresServer, database: Database, run: Callable[..., Run]) -> tuple[int, Run]:
    """Run through a proxy that counts the messages that contain SQL."""
    with FaultProxy(server.port) as proxy:
        proxy.begin()
        ended = run(DATABASE_URL=database.dsn_at(proxy.port))
        sent = [message.kind for message in proxy.end() if message.sender == "client"]
    return sent.count("Q") + sent.count("P"), ended


@pytest.mark.direct("the test has its own proxy")
def test_the_number_of_round_trips_does_not_grow_with_the_number_of_files(
    server: PostgresServer, database: Database, run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("000.sql", "CREATE TABLE effects (n int)")
    one, ended = queries(server, database, run)
    assert ended.report["applied"] == 1
    for number in range(1, 201):
        migrations_dir.write(f"{number:03}.sql", f"INSERT INTO effects VALUES ({number});")
    many, ended = queries(server, database, run)
    assert ended.report["applied"] == 200
    assert many <= one + 3  # four messages
    assert database.query("SELECT count(*), count(DISTINCT n) FROM effects") == [(200, 200)]


UNLIKE = {
    "SELEC 1": [3],
    "SELECT 1 / 0": [3],
    "INSERT INTO effects VALUES (1)": [3],
    "DROP EXTENSION plpgsql": [],
    "DELETE FROM _migrations WHERE name = '003.sql'": [3],
}


@pytest.mark.parametrize("text", UNLIKE)
@pytest.mark.parametrize("size", [18_000, 40_000], ids=["in its middle", "at its end"])
def test_a_prepared_message_is_discarded_if_the_previous_one_ends_unexpectedly(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, text: str, size: int
) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} SUPERUSER")
    database.execute("CREATE TABLE effects (n int PRIMARY KEY, at int GENERATED ALWAYS AS IDENTITY)")
    texts = [f"INSERT INTO effects VALUES ({number}); SELECT '{'x' * size}'" for number in range(1, 21)]
    texts[2] = text
    for number, sql in enumerate(texts, 1):
        migrations_dir.write(f"{number:03}.sql", sql)
    ended = run()
    failed = UNLIKE[text]
    assert names(ended, "migration.failed") == [f"{number:03}.sql" for number in failed]
    assert names(ended, "migration.applied") == [f"{n:03}.sql" for n in range(1, 21) if n not in failed]
    assert database.query("SELECT n FROM effects ORDER BY at") == [(n,) for n in range(1, 21) if n != 3]
    assert ended.named("connection.lost") == []


def test_messages_are_bounded(database: Database, run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    database.execute("CREATE TABLE seen (size int)")
    for number in range(12):  # three of them fill a message
        text = f"INSERT INTO seen SELECT length(current_query()); SELECT '{'x' * 40_000}'"
        migrations_dir.write(f"{number:03}.sql", text)
    assert run().report["applied"] == 12
    assert database.query("SELECT count(*), min(size) > 100000, max(size) < 140000 FROM seen") == [(12, True, True)]


def test_each_file_is_logged_when_it_is_committed_while_later_files_still_run(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    migrations_dir.write("002.sql", "CREATE TABLE b ()")
    migrations_dir.write("003.sql", "SELECT pg_sleep(60)")
    migrations_dir.write("004.sql", "CREATE TABLE d ()")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    assert [process.wait_for("migration.applied")["migration"] for _ in range(2)] == ["001.sql", "002.sql"]
    process.signal(signal.SIGTERM)
    ended = process.finish()
    assert (ended.exit_code, ended.report["applied"]) == (143, 2)
    assert database.query("SELECT to_regclass('d')") == [(None,)]


def test_progress_names_the_right_file_if_several_share_a_message(
    start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a ()")
    migrations_dir.write("002.sql", "SELECT 1;\nSELECT pg_sleep(60)")
    process = start(MIGRATE_WATCH_AFTER="1")
    logged = process.wait_for("migration.progress")
    assert logged["migration"] == "002.sql"
    process.terminate()
    process.finish()


def test_an_error_names_its_own_file_line_and_column_and_the_others_are_applied(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a (n int PRIMARY KEY);")
    migrations_dir.write("002.sql", "-- first a comment\nINSERT INTO a VALUES (1);\n  INSERT INTO a VALUES (1);")
    migrations_dir.write("003.sql", "SELECT 1;\n\n  SELEC 2;")
    migrations_dir.write("004.sql", "\n\nSELECT 1,\n  nothing FROM a; -- the end")
    migrations_dir.write("005.sql", "CREATE TABLE e () -- the end")
    migrations_dir.write("006.sql", "CREATE TABLE f ()")
    ended = run()
    assert names(ended, "migration.applied") == ["001.sql", "005.sql", "006.sql"]
    places = [(e["migration"], e["sqlstate"], e["line"], e.get("column")) for e in ended.named("migration.failed")]
    assert places == [("002.sql", "23505", 3, None), ("003.sql", "42601", 3, 3), ("004.sql", "42703", 4, 3)]
    assert [e["after_failure"] for e in ended.named("migration.failed")] == [False, True, True]
    assert (ended.exit_code, ended.named("connection.lost")) == (1, [])
    assert database.query("SELECT count(*) FROM a") == [(0,)]


def test_a_migration_that_fails_in_a_shared_message_does_not_run_again_by_itself(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE SEQUENCE runs")  # a sequence is not rolled back
    for number in range(1, 6):
        migrations_dir.write(f"{number:03}.sql", "SELECT nextval('runs')" + ("; SELECT 1 / 0" if number == 3 else ""))
    ended = run()
    assert names(ended, "migration.failed") == ["003.sql"]
    assert names(ended, "migration.applied") == ["001.sql", "002.sql", "004.sql", "005.sql"]
    assert ended.named("migration.failed")[0]["sqlstate"] == "22012"
    assert database.query("SELECT last_value FROM runs") == [(5,)]


def test_many_files_with_syntax_errors_are_each_logged(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    for number in range(20):
        migrations_dir.write(f"{number:03}.sql", "SELECT 1" if number % 4 == 0 else "SELEC 1")
    ended = run()
    assert names(ended, "migration.applied") == [f"{number:03}.sql" for number in range(0, 20, 4)]
    assert names(ended, "migration.failed") == [f"{number:03}.sql" for number in range(20) if number % 4]


def test_a_notice_is_logged_with_its_file_but_the_programs_own_notices_are_not_logged(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    for name in ("001.sql", "002.sql", "003.sql"):
        migrations_dir.write(name, f"DO $$BEGIN RAISE NOTICE 'this is {name}'; RAISE WARNING 'and this'; END$$")
    notices = run().named("postgres.notice")
    assert [(line["migration"], line["level"], line["severity"], line["message"]) for line in notices] == [
        (name, level, severity, f"{severity} from {name}: {text}")
        for name in ("001.sql", "002.sql", "003.sql")
        for level, severity, text in (("info", "NOTICE", f"this is {name}"), ("warning", "WARNING", "and this"))
    ]


def test_transaction_settings_of_a_file_do_not_affect_the_next_one(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE seen (isolation text, read_only text)")
    seen = "INSERT INTO seen SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')"
    names = ("isolation = serializable", "read_only = on", "deferrable = on")
    migrations_dir.write("001.sql", "; ".join(f"SET default_transaction_{name}" for name in names))
    migrations_dir.write("002.sql", seen)
    assert run().report["applied"] == 2
    assert database.query("SELECT * FROM seen") == [("read committed", "off")]


def test_each_file_has_its_own_message_if_the_role_cannot_raise_notices(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute("REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC")
    for name in ("001.sql", "002.sql", "003.sql"):
        migrations_dir.write(name, "SELECT 1")
    ended = run()
    assert names(ended, "migration.applied") == ["001.sql", "002.sql", "003.sql"]
    assert ended.named("connection.lost") == []


def test_a_file_that_prevents_notices_does_not_affect_other_files(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} SUPERUSER")
    migrations_dir.write("001.sql", "CREATE TABLE effects (n int)")
    migrations_dir.write("002.sql", "DROP EXTENSION plpgsql; INSERT INTO effects VALUES (2)")
    for name in ("003.sql", "004.sql"):
        migrations_dir.write(name, f"INSERT INTO effects VALUES ({name[:3]})")
    ended = run()
    assert names(ended, "migration.applied") == ["001.sql", "002.sql", "003.sql", "004.sql"]
    assert (ended.exit_code, ended.named("connection.lost")) == (0, [])
    assert database.query("SELECT n FROM effects ORDER BY n") == [(2,), (3,), (4,)]


def test_each_row_has_the_time_of_its_own_file(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", "SELECT pg_sleep(0.3)")
    migrations_dir.write("003.sql", "SELECT 1")
    run()
    (first,), (second,), (third,) = database.query("SELECT applied_at FROM _migrations ORDER BY name")
    assert first < second
    assert (third - second).total_seconds() >= 0.3
