"""If a connection string is mistyped or can never be accepted by the server, the run ends at once with a remedy."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from predeploy.connection.connect import wait_for_postgres
from predeploy.connection.dsn import parse_dsn
from predeploy.errors import PostgresUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Run

AT_ONCE_S = 20  # well below the wait of 60 s
ME = "postgresql://me:Zq7xKv9w@127.0.0.1"
MISTYPED = [
    (f"{ME}/app?schema=public", "replace schema with options=-csearch_path%3DSCHEMA, or remove it."),
    (f"{ME}/app?pgbouncer=true", "remove pgbouncer."),
    (f'"{ME}/app"', "begins with a quotation mark"),
    (f"psql '{ME}/app'", "begins with psql"),
    (f"export DATABASE_URL={ME}/app", "begins with export"),
    ("postgresql://me:$(DB_PASSWORD)@127.0.0.1/app", "The password in DATABASE_URL is a placeholder"),
    ("postgresql://${DB_USER}:Zq7xKv9w@127.0.0.1/app", "The user name in DATABASE_URL is a placeholder"),
    ("postgresql://me:Zq7xKv9w%0A@127.0.0.1/app", "The password in DATABASE_URL ends with a line break"),
    ("postgresql://me:Zq7xKv9w@:5432/app", "no host between @ and the port"),
    ("postgresql://me:Zq7xKv9w@::1/app", "an IPv6 address without brackets"),
    ("postgresql://me:Zq7xKv9w@/app?host=/nowhere/.s.PGSQL.5432", "write its directory"),
    (f"{ME}:1/app?sslmode=no-verify", "write sslmode=require."),
    (f"{ME}:1,127.0.0.1:2,127.0.0.1/app?port=1,2", "host and port have different numbers of entries"),
    (f"{ME}:1/app?replication=database", "sets replication, but a replication connection cannot run migrations"),
    ("cG9zdGdyZXNxbDovL21lOlpxN3hLdjl3QDEyNy4wLjAuMS9hcHA=", "is base64-encoded"),
]
REFUSED = [
    ("min_protocol_version=3.2", "does not support the version in min_protocol_version: remove it"),
    ("gssencmode=require", "remove gssencmode=require"),
    ("options=--bogus", "rejected a parameter in the connection string: fix or remove"),
    ("options=-csearch_path", "rejected a parameter in the connection string: fix or remove"),
    ("options=-cshared_buffers%3D1", "rejected a parameter in the connection string: fix or remove"),
]


def ended_at_once(run: Callable[..., Run], dsn: str, **variables: str) -> Run:
    started = time.monotonic()
    ended = run(DATABASE_URL=dsn, MIGRATE_WAIT_TIMEOUT="60", **variables)
    assert time.monotonic() - started < AT_ONCE_S
    assert "Zq7xKv9w" not in ended.stdout
    return ended


@pytest.mark.parametrize(("dsn", "text"), MISTYPED)
def test_a_mistyped_connection_string_ends_the_run_at_once(run: Callable[..., Run], dsn: str, text: str) -> None:
    ended = ended_at_once(run, dsn)
    assert (ended.exit_code, ended.report["code"]) == (2, "STORAGE_DB_URL_INVALID")
    assert text in ended.report["message"]


def test_a_line_break_after_the_connection_string_in_a_file_is_ignored(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, tmp_path: Path
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    (tmp_path / "url").write_text(f"{database.dsn}\r\n")
    assert run(DATABASE_URL=None, DATABASE_URL_FILE=str(tmp_path / "url")).exit_code == 0


@pytest.mark.direct("a pooler handles these parameters itself")
@pytest.mark.parametrize(("parameter", "text"), REFUSED)
def test_an_option_that_the_server_never_accepts_ends_the_run_at_once(
    run: Callable[..., Run], database: Database, parameter: str, text: str
) -> None:
    if "protocol" in parameter and int(database.query("SHOW server_version_num")[0][0]) >= 180_000:
        pytest.skip("Postgres 18 supports this protocol")
    ended = ended_at_once(run, f"{database.dsn}?{parameter}")
    assert ended.exit_code == 5
    assert text in ended.report["message"]


@pytest.mark.direct("a pooler accepts any database name")
def test_the_error_for_a_missing_database_name_explains_what_libpq_used(
    run: Callable[..., Run], database: Database
) -> None:
    nameless = database.dsn.removesuffix(f"/{database.name}")
    ended = ended_at_once(run, nameless)
    assert ended.exit_code == 5
    assert "has no database name, so libpq used the user name: add the database name" in ended.report["message"]
    ended = ended_at_once(run, f"{nameless}/nowhere")
    assert "The database does not exist: create it" in ended.report["message"]


@pytest.mark.direct("a server before Postgres 17 closes the connection")
def test_a_server_that_closes_a_direct_tls_handshake_may_be_too_old(database: Database) -> None:
    dsn = parse_dsn(f"{database.dsn}?sslmode=require&sslnegotiation=direct")
    with pytest.raises(PostgresUnavailable) as caught:
        wait_for_postgres(dsn, timeout=0)
    if caught.value.reason != "closed":
        pytest.skip("a newer server without TLS")
    assert "sslnegotiation=direct requires Postgres 17 or newer" in str(caught.value)


@pytest.mark.parametrize("password", ["a${DB_PASSWORD}", "$(1)", "cG9zdGdyZXNxbDovL21l", "jdbc:x", "Zq\nKv", "{x}"])
def test_a_password_that_only_resembles_a_mistake_works(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir, password: str
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    database.admin_execute(f"ALTER ROLE {database.owner} PASSWORD '{password}'")
    dsn = database.dsn.replace(quote(database.password, safe=""), quote(password, safe=""))
    assert run(DATABASE_URL=dsn).exit_code == 0
