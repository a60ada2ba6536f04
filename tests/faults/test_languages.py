"""Login errors from a real server with German messages are classified like the English ones."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from predeploy.connection.connect import wait_for_postgres
from predeploy.connection.dsn import parse_dsn
from predeploy.errors import PostgresRefused, PostgresUnavailable
from tests.support.german import GermanServer
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.program import Run

ADMISSION = """\
host all barred 127.0.0.1/32 reject
host nowhere_in_sight all 127.0.0.1/32 trust
host all trusted,trusted_no_login,nobody 127.0.0.1/32 trust
host all identified 127.0.0.1/32 ident
host all all,postgres 127.0.0.1/32 scram-sha-256
"""
ROLES = (
    "CREATE ROLE someone LOGIN PASSWORD 'hunter2'",
    "CREATE ROLE barred LOGIN PASSWORD 'hunter2'",
    "CREATE ROLE no_login PASSWORD 'hunter2'",
    "CREATE ROLE trusted_no_login",
    "CREATE ROLE trusted LOGIN",
    "CREATE ROLE identified LOGIN",
    "CREATE ROLE limited LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 0",
    "CREATE DATABASE closed ALLOW_CONNECTIONS false",
    "CREATE DATABASE private",
    "REVOKE CONNECT ON DATABASE private FROM PUBLIC",
    "CREATE DATABASE recovery OWNER someone",
    "CREATE DATABASE invalid",
    "UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'invalid'",
)
SETTINGS = {"max_connections": "6", "superuser_reserved_connections": "2"}
SERVERS = {"english": PostgresServer, "german": GermanServer}


@pytest.fixture(scope="module", params=["english", "german"])
def prepared(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with SERVERS[request.param](settings=SETTINGS) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as admin:
            for statement in ROLES:
                admin.execute(statement.encode())
        hba = server.directory / "data/pg_hba.conf"
        hba.write_text(ADMISSION)
        server.restart()
        yield server


def refusal(dsn: str) -> PostgresRefused:
    with pytest.raises(PostgresRefused) as caught:
        wait_for_postgres(parse_dsn(dsn), timeout=5).close()
    assert caught.value.exit_code == 5
    return caught.value


def unavailability(dsn: str) -> PostgresUnavailable:
    with pytest.raises(PostgresUnavailable) as caught:
        wait_for_postgres(parse_dsn(dsn), timeout=0).close()
    assert caught.value.exit_code == 3
    return caught.value


@pytest.mark.parametrize(
    ("database", "user", "options", "reason"),
    [
        pytest.param("recovery", "postgres", "", "authentication", id="wrong password"),
        pytest.param("postgres", "nobody_at_all", "", "authentication", id="unknown role that would need a password"),
        pytest.param("postgres", "nobody", "", "role", id="unknown role"),
        pytest.param("postgres", "no_login", "", "role", id="no login"),
        pytest.param("postgres", "trusted_no_login", "", "role", id="no login, no password"),
        pytest.param("postgres", "identified", "", "authentication", id="another method"),
        pytest.param("postgres", "barred", "", "not_admitted", id="rejected by pg_hba.conf"),
        pytest.param("in_recovery", "someone", "", "unknown_database", id="unknown database"),
        pytest.param("invalid", "someone", "", "invalid_database", id="half-dropped database"),
        pytest.param("private", "someone", "", "privilege", id="no connect privilege"),
        pytest.param("recovery", "someone", "-c starting_up=1", "startup_parameter", id="unknown setting"),
        pytest.param("recovery", "someone", "-c work_mem=much", "startup_parameter", id="wrong setting"),
        pytest.param("recovery", "someone", "-c log_statement=all", "startup_parameter", id="setting not permitted"),
    ],
)
def test_permanent_failures_end_the_wait_at_once_for_the_same_reason(
    prepared: PostgresServer, database: str, user: str, options: str, reason: str
) -> None:
    password = "not the password" if user == "postgres" else "hunter2"
    dsn = f"{prepared.dsn(database, user, password)}?options={options.replace(' ', '%20').replace('=', '%3D')}"
    if reason == "invalid_database" and not knows_invalid_databases(prepared):
        pytest.skip("this server accepts sessions in a half-dropped database")
    assert refusal(dsn).reason == reason


def knows_invalid_databases(server: PostgresServer) -> bool:
    with psycopg.connect(server.dsn()) as admin:
        return admin.info.server_version >= 150004


def test_no_entry_in_pg_hba_conf(prepared: PostgresServer) -> None:
    hba = prepared.directory / "data/pg_hba.conf"
    before = hba.read_text()
    hba.write_text("host all postgres 127.0.0.1/32 scram-sha-256\n")
    prepared.restart()
    try:
        assert refusal(prepared.dsn("recovery", "someone", "hunter2")).reason == "not_admitted"
    finally:
        hba.write_text(before)
        prepared.restart()


@contextmanager
def all_connections_taken(server: PostgresServer) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(psycopg.connect(server.dsn("recovery", "someone", "hunter2")))
        yield


@pytest.mark.parametrize("superusers_too", [False, True], ids=["the ordinary ones", "all"])
def test_too_many_clients(prepared: PostgresServer, superusers_too: bool) -> None:
    with all_connections_taken(prepared), ExitStack() as stack:
        for _ in range(2 if superusers_too else 0):
            stack.enter_context(psycopg.connect(prepared.dsn()))
        assert unavailability(prepared.dsn("recovery", "someone", "hunter2")).reason == "too_many_clients"
    wait_for_postgres(parse_dsn(prepared.dsn("recovery", "someone", "hunter2")), timeout=20).close()


def test_temporary_failures_cause_a_wait_for_the_same_reason(prepared: PostgresServer) -> None:
    assert unavailability(prepared.dsn("recovery", "limited", "hunter2")).reason == "role_limit"
    assert unavailability(prepared.dsn("closed", "someone", "hunter2")).reason == "not_accepting"
    with psycopg.connect(prepared.dsn(), autocommit=True) as admin:
        admin.execute("ALTER DATABASE recovery SET default_transaction_read_only = on")
        try:
            assert unavailability(prepared.dsn("recovery", "someone", "hunter2")).reason == "read_only"
        finally:
            admin.execute("ALTER DATABASE recovery RESET default_transaction_read_only")


def test_the_program_exits_at_once_with_5_and_explains_what_to_change(
    prepared: PostgresServer, run: Callable[..., Run]
) -> None:
    ended = run(DATABASE_URL=prepared.dsn("in_recovery", "someone", "hunter2"), MIGRATE_WAIT_TIMEOUT="60")
    assert ended.exit_code == 5
    assert ended.report["message"].startswith("The database does not exist: create it, or fix its name")
    assert ended.report["duration_ms"] < 10_000
    assert ended.named("postgres.waiting") == []


@pytest.mark.parametrize("client", ["de_DE.UTF-8", "ja_JP.UTF-8"])
def test_the_clients_own_language_changes_nothing(run: Callable[..., Run], client: str) -> None:
    """libpq and libc translate messages only for programs that request it; pg-predeploy does not."""
    ended = run(
        DATABASE_URL="host=127.0.0.1 port=1 password=hunter2",
        MIGRATE_WAIT_TIMEOUT="0",
        LC_ALL=client,
        LANGUAGE=client[:2],
    )
    assert ended.exit_code == 3
    assert [waiting["reason"] for waiting in ended.named("postgres.waiting")] == ["refused"]
