"""`plan` logs the migrations that would run, and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.catalog import snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run


def test_pending_migrations_are_logged_in_order_with_actions_and_locks(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE users (id int PRIMARY KEY); CREATE TABLE orders (user_id int);")
    run()
    migrations_dir.write(
        "002.sql",
        "-- users of orders\nALTER TABLE orders ADD note text, ADD FOREIGN KEY (user_id) REFERENCES users;\n"
        "CREATE TABLE new (id int);INSERT INTO users VALUES (1);INSERT INTO new VALUES (1);",
    )
    migrations_dir.write("003.sql", "-- migrate:no-transaction\nCREATE INDEX CONCURRENTLY i ON orders (user_id)")
    migrations_dir.write("004.sql", "DO $$BEGIN DELETE FROM users; END$$")
    finished = run("plan")
    planned = finished.named("migration.planned")
    assert finished.exit_code == 0
    fields = ("migration", "transactional", "statements", "kinds", "locks", "unknown")
    assert [tuple(line[field] for field in fields) for line in planned] == [
        (
            "002.sql",
            True,
            4,
            {
                "ALTER TABLE ... ADD COLUMN": 1,
                "ALTER TABLE ... ADD FOREIGN KEY": 1,
                "CREATE TABLE": 1,
                "INSERT": 2,
            },
            [
                {"relation": "public.orders", "mode": "ACCESS EXCLUSIVE"},
                {"relation": "public.users", "mode": "SHARE ROW EXCLUSIVE"},
            ],
            False,
        ),
        (
            "003.sql",
            False,
            1,
            {"CREATE INDEX CONCURRENTLY": 1},
            [{"relation": "public.orders", "mode": "SHARE UPDATE EXCLUSIVE"}],
            False,
        ),
        ("004.sql", True, 1, {"DO": 1}, [], True),
    ]
    assert planned[0]["message"] == (
        "Would run 002.sql in a transaction: ALTER TABLE ... ADD COLUMN, ALTER TABLE ... ADD FOREIGN KEY, "
        "CREATE TABLE, 2 x INSERT; ACCESS EXCLUSIVE on public.orders; SHARE ROW EXCLUSIVE on public.users"
    )
    assert "rehearse to see" in planned[2]["message"]
    assert (finished.report["pending"], finished.report["message"]) == (3, "3 pending, 0 would fail")


def test_a_plan_changes_nothing_and_creates_no_table(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE users (id serial PRIMARY KEY); INSERT INTO users DEFAULT VALUES")
    migrations_dir.write("001.sql", "ALTER TABLE users ADD name text; INSERT INTO users DEFAULT VALUES;")
    before = snapshot(database)
    assert run("plan").exit_code == 0
    assert snapshot(database) == before
    assert database.query("SELECT to_regclass('_migrations')") == [(None,)]


def test_a_plan_never_waits_for_a_lock(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE users (id int)")
    migrations_dir.write("001.sql", "DROP TABLE users")
    with database.connect() as conn, database.connect() as other:
        conn.execute("SELECT pg_advisory_lock(48756301)")
        other.execute("BEGIN; LOCK TABLE users")
        finished = run("plan")
    (planned,) = finished.named("migration.planned")
    assert planned["locks"] == [{"relation": "public.users", "mode": "ACCESS EXCLUSIVE"}]


def test_a_rejected_migration_is_reported_and_the_others_are_planned(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1;\nCOMMIT")
    migrations_dir.write("002.sql", b"SELECT '\xff'")
    migrations_dir.write("003.sql", "COPY t FROM STDIN;\n1\n\\.\n")
    migrations_dir.write("004.sql", "-- migrate:no-transaction\nDELETE FROM _migrations")
    migrations_dir.write("005.sql", "SELECT 1")
    finished = run("plan")
    assert finished.exit_code == 1
    failed = finished.named("migration.failed")
    assert [(line["migration"], line.get("line"), line["after_failure"]) for line in failed] == [
        ("001.sql", 2, False),
        ("002.sql", 1, True),
        ("003.sql", 1, True),
        ("004.sql", 2, True),
    ]
    assert [line["migration"] for line in finished.named("migration.planned")] == ["005.sql"]
    assert (finished.report["pending"], finished.report["failed"]) == (5, 4)


def test_a_plan_works_on_a_read_only_server_and_without_usage_on_a_schema(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute("CREATE SCHEMA locked_up; CREATE TABLE locked_up.secret (id int)")
    database.admin_execute(f"ALTER ROLE {database.owner} SET default_transaction_read_only = on")
    migrations_dir.write("001.sql", "SELECT * FROM locked_up.secret")
    finished = run("plan")
    assert finished.exit_code == 0
    assert finished.named("migration.planned")[0]["locks"] == [{"relation": "locked_up.secret", "mode": "ACCESS SHARE"}]


def test_unqualified_names_after_a_change_of_search_path_are_unknown(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SET search_path = other; DROP TABLE users;")
    migrations_dir.write("002.sql", "SELECT pg_catalog.set_config('search_path', '', false); DROP TABLE public.users;")
    migrations_dir.write("003.sql", "SELECT set_config('search_path', 'x', false); DROP TABLE users;")
    migrations_dir.write("004.sql", "DROP TABLE users; SET search_path = other;")
    lines = run("plan").named("migration.planned")
    assert [line["unknown"] for line in lines] == [True, False, True, False]


def test_a_function_that_an_earlier_migration_creates_is_unknown(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE FUNCTION clean_up() RETURNS void LANGUAGE sql AS 'SELECT'")
    migrations_dir.write("002.sql", "SELECT clean_up()")
    lines = run("plan").named("migration.planned")
    assert [line["unknown"] for line in lines] == [False, True]


def test_a_plan_shows_only_sql_keywords(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write(
        "001.sql",
        "ALTER ROLE app PASSWORD 'hunter2'; CREATE USER u PASSWORD 'hunter3'; INSERT INTO t VALUES ('hunter4');"
        "hunter5; ALTER TABLE t hunter6; CREATE hunter7 x; DROP hunter8; ALTER INDEX i hunter9; REINDEX hunter10 x;"
        "ALTER TABLE t ALTER c hunter11 hunter12; ALTER hunter13; ALTER TABLE t SET hunter14",
    )
    finished = run("plan")
    assert finished.exit_code == 0
    assert "hunter" not in finished.stdout.lower()


def test_a_plan_with_nothing_pending_succeeds(run: Callable[..., Run]) -> None:
    finished = run("plan")
    assert (finished.exit_code, finished.report["message"]) == (0, "0 pending, 0 would fail")


def test_a_text_plan_has_one_line_per_file(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE users (id int PRIMARY KEY); CREATE TABLE orders (user_id int)")
    migrations_dir.write("001.sql", "ALTER TABLE orders ADD FOREIGN KEY (user_id) REFERENCES users; DROP TABLE users")
    migrations_dir.write("002.sql", "-- migrate:no-transaction\nVACUUM orders; SELECT 1; SELECT 2; DO $$BEGIN END$$")
    finished = run("plan", as_json=False, MIGRATE_LOG_FORMAT="text")
    messages = [event["message"] for event in run("plan").named("migration.planned")]
    assert finished.stdout.splitlines()[1:3] == messages  # after the warning that the schema is not empty
    rehearsed = run("plan", "--rehearse", as_json=False, MIGRATE_LOG_FORMAT="text").stdout
    assert "Would fail: 001.sql:1: cannot drop table users" in rehearsed
