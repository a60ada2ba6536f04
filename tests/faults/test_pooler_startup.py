"""Errors that PgBouncer itself sends: its refusals end the run, and problems with its server are waited for."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import psycopg
import pytest

from predeploy.connection.connect import wait_for_postgres
from predeploy.connection.dsn import parse_dsn
from predeploy.errors import PostgresRefused, PostgresUnavailable
from tests.support.database import fresh_database

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Process


def refusal(dsn: str) -> str:
    with pytest.raises(PostgresRefused) as caught:
        wait_for_postgres(parse_dsn(dsn), timeout=10).close()
    return caught.value.reason


def unavailability(dsn: str, timeout: float = 0) -> str:
    with pytest.raises(PostgresUnavailable) as caught:
        wait_for_postgres(parse_dsn(dsn), timeout=timeout).close()
    return caught.value.reason


@pytest.mark.parametrize("setting", ["scram-sha-256", "md5", "plain"])
def test_a_wrong_password_and_an_unknown_role(
    start_pgbouncer: Callable[..., PgBouncer], database: Database, setting: str
) -> None:
    pooler = start_pgbouncer(auth_type=setting)
    assert refusal(pooler.dsn(database.name, database.owner, "not the password")) == "authentication"
    assert refusal(pooler.dsn(database.name, "nobody_at_all", "hunter2")) == "authentication"


def test_an_unknown_database(start_pgbouncer: Callable[..., PgBouncer]) -> None:
    """Use a role that PgBouncer itself knows: it would look up other roles' secrets in the missing database."""
    assert refusal(start_pgbouncer().dsn("nowhere")) == "unknown_database"


def test_an_option_that_poolers_do_not_accept(start_pgbouncer: Callable[..., PgBouncer], database: Database) -> None:
    dsn = start_pgbouncer().dsn(database.name, database.owner, database.password)
    assert refusal(f"{dsn}?options=-c%20geqo%3Doff") == "startup_parameter"


def test_tls_that_the_pooler_does_not_support(start_pgbouncer: Callable[..., PgBouncer], database: Database) -> None:
    dsn = start_pgbouncer().dsn(database.name, database.owner, database.password)
    assert refusal(f"{dsn}?sslmode=require") == "tls"


def test_too_many_clients(start_pgbouncer: Callable[..., PgBouncer], database: Database) -> None:
    pooler = start_pgbouncer(max_client_conn=2)
    dsn = pooler.dsn(database.name, database.owner, database.password)
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(psycopg.connect(dsn))
        assert unavailability(dsn) == "too_many_clients"
    wait_for_postgres(parse_dsn(dsn), timeout=20).close()


@pytest.mark.parametrize("known", [False, True], ids=["from the start", "after a connection"])
def test_a_server_that_is_down_behind_the_pooler_is_waited_for(
    private_server: PostgresServer,
    start_pgbouncer: Callable[..., PgBouncer],
    start: Callable[..., Process],
    migrations_dir: MigrationsDir,
    known: bool,
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with fresh_database(private_server) as database:
        pooler = start_pgbouncer(private_server, query_wait_timeout=2)
        dsn = pooler.dsn(database.name, database.owner, database.password)
        if known:
            wait_for_postgres(parse_dsn(dsn), timeout=20).close()
        private_server.stop()
        process = start(DATABASE_URL=dsn)
        reason = process.wait_for("postgres.waiting")["reason"]
        private_server.start()
        ended = process.finish()
        assert (ended.exit_code, ended.report["applied"]) == (0, 1)
        assert reason in {"pooler", "timeout", "shutting_down"}


def test_a_paused_database_is_waited_for(
    database: Database, start_pgbouncer: Callable[..., PgBouncer], start: Callable[..., Process]
) -> None:
    pooler = start_pgbouncer(query_wait_timeout=1)
    dsn = pooler.dsn(database.name, database.owner, database.password)
    wait_for_postgres(parse_dsn(dsn), timeout=20).close()
    pooler.console(f"PAUSE {database.name}")
    assert unavailability(dsn, timeout=3) == "pooler"
    process = start("status", DATABASE_URL=dsn)
    assert process.wait_for("postgres.waiting")["reason"] == "pooler"
    pooler.console(f"RESUME {database.name}")
    assert process.finish().exit_code == 0
