"""The second login, for the code: bounded, without a trace of itself, and with whatever password."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import pq

from predeploy.connection.login_sqlstate import refused_with
from tests.support.eventually import eventually
from tests.support.proxy import Proxy, free_port, silent_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.database import Database
    from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.direct("a pooler answers logins itself")


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(server.port) as running:
        yield running


def parameters(dsn: str, **others: str) -> dict[bytes, bytes]:
    given = {o.keyword: o.val for o in pq.Conninfo.parse(dsn.encode()) if o.val is not None}
    return given | {key.encode(): value.encode() for key, value in others.items()}


def test_the_servers_code_and_the_function_that_it_came_from(database: Database) -> None:
    assert refused_with(parameters(database.dsn, dbname="nowhere")) == [("3D000", "InitPostgres")]
    assert refused_with(parameters(database.dsn, password="no")) == [("28P01", "auth_failed")]


@pytest.mark.parametrize(
    "password", ["it's", "back\\slash", "\\'", " ", "= dbname=postgres", "\nB\t9\tErrorResponse\t"]
)
def test_a_password_is_taken_as_it_is(database: Database, password: str) -> None:
    with database.server_connect() as admin:
        admin.execute(psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}").format(_name(database), password))
    assert refused_with(parameters(database.dsn, dbname="nowhere", password=password)) == [("3D000", "InitPostgres")]


def _name(database: Database) -> psycopg.sql.Identifier:
    return psycopg.sql.Identifier(database.owner)


def test_a_text_that_looks_like_a_code_is_none(proxy: Proxy, database: Database) -> None:
    proxy.refusals = [("08P01", 'x" F "a.c" C "28P01" M "')]
    assert refused_with(parameters(database.dsn_at(proxy.port))) == [("08P01", "")]


def test_an_answer_that_names_no_function_is_lent_none_by_the_next(proxy: Proxy, database: Database) -> None:
    proxy.refusals = [("57P03", "the database system is starting up")]  # whereupon libpq goes on to the next host
    hosts = {"host": "127.0.0.1,127.0.0.1", "port": f"{proxy.port},{database.server.port}"}
    answers = refused_with(parameters(database.dsn, password="no", **hosts))
    assert answers == [("57P03", ""), ("28P01", "auth_failed")]


def test_a_login_that_works_says_nothing_and_leaves_no_session(database: Database) -> None:
    assert refused_with(parameters(database.dsn, application_name="second login")) == []
    eventually(lambda: not database.query("SELECT FROM pg_stat_activity WHERE application_name = 'second login'"))


def test_nobody_there_says_nothing() -> None:
    assert refused_with(parameters(f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/app")) == []


@pytest.mark.parametrize("full", [False, True])
def test_no_answer_is_waited_for_no_longer_than_the_connect_timeout(full: bool) -> None:
    started = time.monotonic()
    with silent_port(full=full) as port:
        assert refused_with(parameters(f"host=127.0.0.1 port={port} connect_timeout=1")) == []
    assert 1 <= time.monotonic() - started < 5


def test_nothing_is_left_open(database: Database) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        refused_with(parameters(database.dsn, password="no"))
        refused_with(parameters(database.dsn))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
