"""Session state that a file leaves behind does not affect the next file or the program's own statements."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from predeploy import create_db, run_migrations
from predeploy.connection.parameters import APPLICATION

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

LEFT_BEHIND = {
    "an empty search_path, as pg_dump writes it": "SELECT pg_catalog.set_config('search_path', '', false)",
    "another search_path": "CREATE SCHEMA other; SET search_path = other",
    "a timeout": "SET statement_timeout = '1ms'; SET lock_timeout = '1ms'",
    "a read-only session": "SET default_transaction_read_only = on; SET default_transaction_isolation = serializable",
    "old string syntax": "SELECT set_config('standard_conforming_strings', 'off', false)",
    "another encoding": "SELECT set_config('client_encoding', 'LATIN1', false)",
    "temporary tables": "CREATE TEMP TABLE probe (id int)",
    "a prepared statement": "PREPARE probe AS SELECT 1",
    "a held cursor": "DECLARE probe CURSOR WITH HOLD FOR SELECT 1",
    "a listener": "LISTEN probe",
    "a notification": "LISTEN probe; NOTIFY probe, 'x'",
    "silence": "SET client_min_messages = error",
}
NO_TRANSACTION = "-- migrate:no-transaction\n"
MANY = ("old string syntax", "temporary tables", "a prepared statement", "a held cursor", "a listener", "silence")
ALL_OF_THEM = "; ".join(LEFT_BEHIND[name] for name in (*MANY, "another search_path", "a read-only session"))


@pytest.mark.parametrize(
    ("leaving", "failing"),
    [
        *(pytest.param(leaving, False, id=name) for name, leaving in LEFT_BEHIND.items()),
        pytest.param(ALL_OF_THEM, True, id="failed"),
        pytest.param(NO_TRANSACTION + ALL_OF_THEM, False, id="no-transaction"),
        pytest.param(NO_TRANSACTION + ALL_OF_THEM, True, id="no-transaction, failed"),
    ],
)
def test_the_next_file_starts_in_a_fresh_session(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, leaving: str, failing: bool
) -> None:
    migrations_dir.write("001.sql", f"{leaving};" + ("SELECT 1/0;" if failing else ""))
    migrations_dir.write(
        "002.sql",
        r"""
        CREATE TABLE state AS SELECT current_schema() AS schema, 'ü\n'::text AS literal, current_user::text AS who,
            current_setting('statement_timeout') AS timeout, current_setting('transaction_isolation') AS isolation,
            current_setting('client_min_messages') AS messages, to_regclass('pg_temp.probe') AS temporary,
            (SELECT count(*) FROM pg_prepared_statements) AS prepared, (SELECT count(*) FROM pg_cursors) AS cursors,
            (SELECT count(*) FROM pg_listening_channels()) AS channels
        """,
    )
    migrations_dir.write("003.sql", "SELECT 1")
    finished = run()
    assert finished.exit_code == (1 if failing else 0)
    assert finished.named("lock.lost") == []
    (state,) = database.query("SELECT * FROM state")
    expected = ("public", r"ü\n", database.owner, "0", "read committed", "notice", None, 0, 0, 0)
    assert state == expected
    assert ("003.sql",) in database.query("SELECT name FROM public._migrations")


@pytest.mark.parametrize("act", ["SET ROLE {other}", "SET SESSION AUTHORIZATION {other}"])
def test_a_changed_role_is_reset(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, act: str
) -> None:
    other = f"{database.owner}_other"
    database.admin_execute(
        f"CREATE ROLE {other}; GRANT {other} TO {database.owner}; ALTER ROLE {database.owner} SUPERUSER;"
    )
    migrations_dir.write("001.sql", act.format(other=other))
    migrations_dir.write("002.sql", "CREATE TABLE who AS SELECT current_user::text, session_user::text AS session")
    try:
        assert run().exit_code == 0
        assert database.query("SELECT * FROM who") == [(database.owner, database.owner)]
    finally:
        database.admin_execute(f"DROP ROLE {other}")


def test_a_role_that_is_set_at_login_is_kept(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    group = f"{database.owner}_group"
    database.admin_execute(
        f"CREATE ROLE {group}; GRANT {group} TO {database.owner}; ALTER ROLE {database.owner} SET role = {group};"
        f"ALTER SCHEMA public OWNER TO {group}"
    )
    for number in (1, 2):
        migrations_dir.write(f"00{number}.sql", f"CREATE TABLE t{number} ()")
    try:
        assert run().exit_code == 0
        owners = database.query("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        assert owners == [(group,)]
    finally:
        database.admin_execute(f"DROP OWNED BY {group} CASCADE; DROP ROLE {group}")


@pytest.mark.direct("a pooler rejects the options in a connection string, or applies them to itself")
def test_settings_in_the_connection_string_survive_the_reset(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE SCHEMA app")
    for number in (1, 2):
        migrations_dir.write(f"00{number}.sql", f"CREATE TABLE t{number} ()")
    assert run(DATABASE_URL=f"{database.dsn}?options=-csearch_path%3Dapp").exit_code == 0
    tables = database.query("SELECT tablename FROM pg_tables WHERE schemaname = 'app' ORDER BY 1")
    assert tables == [("_migrations",), ("t1",), ("t2",)]


def test_a_file_that_releases_the_lock_causes_a_warning(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SELECT pg_advisory_unlock_all()")
    finished = run()
    assert finished.exit_code == 0
    assert len(finished.named("lock.lost")) == 1


def test_a_pooled_connection_is_returned_unchanged(database: Database, migrations_dir: MigrationsDir) -> None:
    migrations_dir.write("001.sql", "SET search_path = nowhere; CREATE TEMP TABLE t ()")
    with create_db(database.dsn, max_size=1) as pool:
        with pool.connection() as conn:
            for _ in range(8):  # psycopg prepares the statement on the server from the sixth execution
                conn.execute("SELECT 1 + %s", [1])
        assert run_migrations(pool, migrations_dir.path).applied == ["001.sql"]
        with pool.connection() as conn:
            assert conn.autocommit is False
            assert conn.prepare_threshold == 5
            for _ in range(8):
                assert conn.execute("SELECT 1 + %s", [1]).fetchone() == (2,)
            assert conn.execute("SELECT current_schema()").fetchone() == ("public",)
            assert conn.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone() == (0,)


KEEPALIVES = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "8000",
}


@pytest.mark.direct("a pooler rejects the options in a connection string, or applies them to itself")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        (
            "-c tcp_keepalives_idle=77 -c tcp_user_timeout=9s",
            {"tcp_keepalives_idle": "77", "tcp_user_timeout": "9000"},
        ),
    ],
    ids=["the program's", "the connection string's"],
)
def test_the_server_detects_a_dead_client_as_fast_as_the_connection_string_allows(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, options: str, expected: dict[str, str]
) -> None:
    values = ", ".join(f"current_setting('{name}') AS {name}" for name in KEEPALIVES)
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", f"CREATE TABLE seen AS SELECT {values}")  # after a reset
    assert run(DATABASE_URL=f"{database.dsn}?options={quote(options)}").exit_code == 0
    (seen,) = database.query("SELECT * FROM seen")
    assert dict(zip(KEEPALIVES, seen, strict=True)) == {**KEEPALIVES, **expected}


SEEN = "INSERT INTO seen SELECT current_setting('application_name')"


def test_application_name_contains_the_running_migration(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE seen (name text)")
    long = f"005_{'ü' * 70}.sql"
    for name in ("001_a.sql", "002_b's.sql", "003_\\.sql", long):
        migrations_dir.write(name, SEEN)
    migrations_dir.write("004.sql", f"-- migrate:no-transaction\n{SEEN}")
    migrations_dir.write("006.sql", f"BEGIN ISOLATION LEVEL SERIALIZABLE;\n{SEEN};\nCOMMIT;")
    finished = run()
    assert finished.report["applied"] == 6
    assert finished.named("postgres.notice") == []
    names = ["001_a.sql", "002_b's.sql", "003_\\.sql", "004.sql", f"005_{'?' * 40}", "006.sql"]
    assert database.query("SELECT name FROM seen ORDER BY name") == [(f"{APPLICATION} {name}",) for name in names]


@pytest.mark.direct("PgBouncer may set the name itself")
def test_a_name_from_the_connection_string_or_the_environment_is_kept(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE seen (name text)")
    migrations_dir.write("001.sql", SEEN)
    run(DATABASE_URL=f"{database.dsn}?application_name=deploy")
    migrations_dir.write("002.sql", SEEN)
    run(PGAPPNAME="ci")
    assert database.query("SELECT name FROM seen") == [("deploy",), ("ci",)]


def test_commits_are_synchronous_whatever_the_role_or_the_migration_sets(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    """A deferred trigger runs at COMMIT, so it sees the setting with which the migration is committed."""
    database.admin_execute(f"ALTER ROLE {database.owner} SET synchronous_commit = off")
    database.execute("""
        CREATE TABLE seen (file text, setting text);
        CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                UPDATE seen SET setting = current_setting('synchronous_commit') WHERE file = NEW.file;
                RETURN NULL;
            END
        $$;
        CREATE CONSTRAINT TRIGGER see AFTER INSERT ON seen DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION see();
    """)
    migrations_dir.write("001.sql", "INSERT INTO seen VALUES ('001')")
    migrations_dir.write("002.sql", "SET LOCAL synchronous_commit = off; INSERT INTO seen VALUES ('002')")
    migrations_dir.write("003.sql", "SET Synchronous_Commit TO off; INSERT INTO seen VALUES ('003')")
    migrations_dir.write("004.sql", "-- migrate:no-transaction\nINSERT INTO seen VALUES ('004')")
    migrations_dir.write("005.sql", "SET LOCAL synchronous_commit = remote_write; INSERT INTO seen VALUES ('005')")
    assert run().report["applied"] == 5
    assert database.query("SELECT setting FROM seen ORDER BY file") == [("on",)] * 4 + [("remote_write",)]
