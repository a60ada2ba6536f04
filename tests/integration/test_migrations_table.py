"""`_migrations`, which other implementations of the protocol read and write as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from predeploy.lock.key import LOCK_KEY
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.program import Process, Run

THEIRS = "CREATE TABLE _migrations (name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"


def test_name_and_applied_at_follow_the_protocol_and_other_columns_are_nullable(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    run()
    columns = database.query(
        "SELECT column_name, data_type, is_nullable, column_default FROM information_schema.columns"
        " WHERE table_name = '_migrations' ORDER BY ordinal_position"
    )
    assert columns == [
        ("name", "text", "NO", None),
        ("applied_at", "timestamp with time zone", "NO", "now()"),
        ("checksum", "text", "YES", None),
    ]
    assert database.query(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = '_migrations'::regclass AND contype = 'p'"
    ) == [("PRIMARY KEY (name)",)]
    database.execute("INSERT INTO _migrations (name) VALUES ('theirs.sql')")  # as other implementations write it


def test_a_table_of_another_implementation_is_reused(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute(f"{THEIRS}; INSERT INTO _migrations (name) VALUES ('001.sql')")
    migrations_dir.write("001.sql", "SELECT 1/0")
    assert run().report["skipped"] == 1
    assert database.query("SELECT count(*) FROM pg_attribute WHERE attname = 'checksum'") == [(0,)], (
        "the table was altered although nothing was pending"
    )
    migrations_dir.write("002.sql", "SELECT 2")
    assert run().report["applied"] == 1
    rows = database.query("SELECT name, length(checksum) FROM _migrations ORDER BY name")
    assert rows == [("001.sql", None), ("002.sql", 64)]


def test_a_table_that_can_be_written_but_not_altered_is_used_without_checksums(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"{THEIRS}; GRANT SELECT, INSERT ON _migrations TO {database.owner}")
    migrations_dir.write("001.sql", "SELECT 1")
    finished = run()
    assert finished.exit_code == 0
    assert len(finished.named("table.unaltered")) == 1
    migrations_dir.write("001.sql", "SELECT 2")
    assert run().named("migration.changed") == []


def test_a_column_that_cannot_be_added_now_does_not_delay_the_run(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute(THEIRS)
    migrations_dir.write("001.sql", "SELECT 1")
    with database.connect(autocommit=False) as reader:
        reader.execute("SELECT * FROM _migrations")
        finished = run()
    assert finished.exit_code == 0
    assert len(finished.named("table.unaltered")) == 1


def test_the_table_is_found_on_the_search_path_and_always_written_there(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute('CREATE SCHEMA "My Schema"')
    database.execute(THEIRS.replace("_migrations", '"My Schema"._migrations'))
    database.admin_execute(f"""ALTER ROLE {database.owner} SET search_path = public, "My Schema" """)
    migrations_dir.write("001.sql", "CREATE SCHEMA other; SET search_path = other; CREATE TABLE other._migrations ()")
    migrations_dir.write("002.sql", "SELECT 1")
    assert run().report["applied"] == 2
    assert database.query('SELECT name FROM "My Schema"._migrations ORDER BY 1') == [("001.sql",), ("002.sql",)]
    assert run().report["skipped"] == 2


REFUSED = {
    "may not read": (
        "CREATE TABLE _migrations (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
        5,
        "GRANT SELECT, INSERT",
    ),
    "may not insert": (f"{THEIRS}; GRANT SELECT ON _migrations TO {{owner}}", 5, "GRANT SELECT, INSERT"),
    "may not create": (
        "ALTER SCHEMA public OWNER TO CURRENT_USER; REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        5,
        "GRANT CREATE",
    ),
    "no schema": ("ALTER ROLE {owner} SET search_path = nowhere", 5, "search_path"),
    "not our table": (
        "CREATE TABLE _migrations (id int); GRANT ALL ON _migrations TO {owner}",
        2,
        "has no name or applied_at",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_problem_with_the_table_is_reported_with_a_remedy(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, case: str
) -> None:
    setup, exit_code, says = REFUSED[case]
    database.admin_execute(setup.format(owner=database.owner))
    migrations_dir.write("001.sql", "SELECT 1")
    finished = run()
    assert (finished.exit_code, finished.report["failed"]) == (exit_code, 0)
    assert says in finished.report["message"]


@pytest.fixture
def schema_owner(database: Database) -> Database:
    """Make the role the owner of the schema `app`, with no other privilege than to log in."""
    database.admin_execute(
        f"ALTER DATABASE {database.name} OWNER TO CURRENT_USER; REVOKE ALL ON SCHEMA public FROM PUBLIC;"
        f"REVOKE ALL ON DATABASE {database.name} FROM PUBLIC;"
        f"GRANT CONNECT ON DATABASE {database.name} TO {database.owner};"
        f"CREATE SCHEMA app AUTHORIZATION {database.owner}; ALTER ROLE {database.owner} SET search_path = app"
    )
    return database


@pytest.mark.session("no-transaction migrations need a session")
def test_a_role_that_owns_one_schema_and_nothing_else_can_run_everything(
    run: Callable[..., Run], schema_owner: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a (id int)")
    migrations_dir.write("002.sql", "-- migrate:no-transaction\nCREATE INDEX CONCURRENTLY one ON a (id);")
    migrations_dir.write("003.sql", "INSERT INTO a VALUES (1);\n" * 50_000)
    migrations_dir.write("004.sql", "DO $$BEGIN PERFORM count(*) FROM _migrations; END$$")
    assert run(MIGRATE_LOCK_TIMEOUT="5s", MIGRATE_STATEMENT_TIMEOUT="1m").report["applied"] == 4
    assert run("status").report["applied"] == 4
    assert (run("check").exit_code, run("health").exit_code) == (0, 0)
    assert run().report["skipped"] == 4
    assert schema_owner.query("SELECT count(*) FROM app._migrations") == [(4,)]


def test_a_schema_owner_can_run_through_a_pooler(
    run: Callable[..., Run], schema_owner: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE a (id int)")
    assert run(DATABASE_URL=schema_owner.dsn_at(pgbouncer.port)).report["applied"] == 1


def test_a_schema_owner_can_wait_and_reconnect_after_a_lost_connection(
    start: Callable[..., Process], schema_owner: Database, migrations_dir: MigrationsDir
) -> None:
    database = schema_owner
    database.execute("CREATE SEQUENCE app.attempts")
    migrations_dir.write("001.sql", "SELECT pg_sleep(60 * (nextval('attempts') = 1)::int)")
    with database.admin_connect(application_name="an administrator") as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        process = start()
        logged = process.wait_for("lock.waiting")["holder"]
        assert logged["pid"] == holder.info.backend_pid
    sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
    [(pid,)] = eventually(lambda: database.query(sleeping))
    database.query("SELECT pg_terminate_backend(%s)", pid)
    assert process.finish().report["applied"] == 1


@pytest.mark.direct("a backend that a pooler has kept does not know new settings")
@pytest.mark.parametrize("style", ["German", "SQL, DMY", "Postgres"])
@pytest.mark.parametrize("time", ["'2026-11-22 12:34:56+01'", "'infinity'", "'0044-03-15 12:00:00+00 BC'"])
def test_the_table_is_read_whatever_the_style_of_dates(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, style: str, time: str
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    run()
    database.execute(f"UPDATE _migrations SET applied_at = {time}")
    database.admin_execute(
        f"ALTER DATABASE {database.name} SET datestyle = {style}; "
        f"ALTER DATABASE {database.name} SET timezone = 'Asia/Kolkata'; "
        f"ALTER DATABASE {database.name} SET intervalstyle = sql_standard"
    )
    migrations_dir.write("002.sql", "SELECT 2")
    for command in ("check", "plan", "plan --rehearse"):
        assert run(*command.split()).exit_code in {0, 10}
    status = run("status").named("migration.status")
    shown = {"'2026-11-22 12:34:56+01'": "2026-11-22T11:34:56+00:00", "'infinity'": "infinity"}
    assert status[0]["applied_at"] == shown.get(time, "0044-03-15T17:53:28+05:53:28 BC")
    assert run("status", as_json=False, MIGRATE_LOG_FORMAT="text").exit_code == 0
    assert run().report["applied"] == 1


@pytest.mark.direct("a backend that a pooler has kept does not know new settings")
def test_lines_of_the_server_log_are_not_notices(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"""
        ALTER ROLE {database.owner} SET client_min_messages = debug5;
        ALTER ROLE {database.owner} SET log_statement = 'all';
        ALTER ROLE {database.owner} SET log_duration = on;
        ALTER ROLE {database.owner} SET session_preload_libraries = 'auto_explain';
        ALTER ROLE {database.owner} SET auto_explain.log_level = warning;
        ALTER ROLE {database.owner} SET auto_explain.log_min_duration = 0;
    """)
    migrations_dir.write("001.sql", "CREATE TABLE cards (number text); INSERT INTO cards VALUES ('4111111111111111')")
    migrations_dir.write("002.sql", "-- migrate:no-transaction\nINSERT INTO cards VALUES (4111111111111112)")
    migrations_dir.write("003.sql", "DO $$BEGIN RAISE NOTICE 'seen'; END$$")
    finished = run()
    assert finished.report["applied"] == 3
    assert [(notice["severity"], notice["migration"]) for notice in finished.named("postgres.notice")] == [
        ("NOTICE", "003.sql")
    ]
    assert "411111111111" not in finished.stdout
    assert finished.stderr == ""


def test_an_unlogged_table_causes_a_warning(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE UNLOGGED TABLE _migrations (name text PRIMARY KEY, applied_at timestamptz DEFAULT now())")
    migrations_dir.write("001.sql", "SELECT 1")
    (warning,) = run().named("table.unlogged")
    assert 'run ALTER TABLE "public"."_migrations" SET LOGGED' in warning["message"]
    database.execute("ALTER TABLE _migrations SET LOGGED")
    migrations_dir.write("002.sql", "SELECT 2")
    assert run().named("table.unlogged") == []


def test_a_file_that_is_not_utf8_is_reported_with_its_line(
    run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    (migrations_dir.path / "001.sql").write_bytes(b"SELECT 1;\nSELECT '\xe4';\n")
    finished = run()
    (failed,) = finished.named("migration.failed")
    assert (failed["line"], failed["error"]) == (2, "invalid UTF-8; save the file as UTF-8")
    assert finished.report["first_failure"]["line"] == 2
