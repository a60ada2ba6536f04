"""The health check always returns within five seconds, and its pool recovers."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from psycopg_pool import PoolTimeout

import predeploy.connection.health
from predeploy import DbHealth, StorageError, check_db_health, create_db, run_migrations
from predeploy.connection.connect import Server
from predeploy.connection.dsn import parse_dsn
from predeploy.errors import PostgresRefused, PostgresUnavailable
from tests.support.eventually import eventually
from tests.support.proxy import Proxy, free_port, silent_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg_pool import ConnectionPool

    from predeploy.connection.connect import ConnectionSource
    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.postgres_server import PostgresServer

ANSWER_S = 5.0
MARGIN_S = 0.5  # between the deadline and the result
OTHERS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
"""
SOURCES = pytest.mark.parametrize(
    "source", [create_db, lambda dsn: Server(parse_dsn(dsn))], ids=["pool", "one connection"]
)


@contextmanager
def opened(source: Callable[[str], Any], dsn: str) -> Iterator[Any]:
    with ExitStack() as stack:
        db = source(dsn)
        if not isinstance(db, Server):
            stack.callback(db.close, timeout=1)
        yield db


def unhealthy(db: ConnectionSource) -> DbHealth:
    """Run the check; assert that it returns in time and reports a failure."""
    started = time.monotonic()
    health = check_db_health(db)
    assert time.monotonic() - started < predeploy.connection.health.HEALTH_TIMEOUT_S + MARGIN_S
    assert not health.ok
    assert health.error
    assert 0 < health.latency_ms < ANSWER_S * 1000
    return health


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the limit from five seconds to one, for cases that use all of it."""
    monkeypatch.setattr("predeploy.connection.health.HEALTH_TIMEOUT_S", 1.0)


def test_a_result_is_returned_within_five_seconds() -> None:
    assert predeploy.connection.health.HEALTH_TIMEOUT_S + MARGIN_S <= ANSWER_S


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@SOURCES
def test_a_permanent_refusal_is_reported_at_once_and_the_next_check_succeeds_once_it_is_fixed(
    database: Database, source: Callable[[str], Any]
) -> None:
    dsn = database.server.dsn(database.name, database.owner, "not the password")
    with opened(source, dsn) as db:
        for _ in range(2):
            health = unhealthy(db)
            assert health.latency_ms < 2000, "the check waited although waiting cannot help"
            assert "fix them in the connection string" in (health.error or "")
        with database.server_connect() as admin:
            admin.execute(f"ALTER ROLE {database.owner} PASSWORD 'not the password'")
        assert check_db_health(db).ok


def test_a_refused_request_to_the_pool_has_the_servers_reason(
    database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    dsn = database.server.dsn("nowhere", database.owner, database.password)
    with opened(create_db, dsn) as db, pytest.raises(PostgresRefused, match="The database does not exist"):
        run_migrations(db, migrations_dir.path)
    dsn = f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/app"
    with opened(create_db, dsn) as db, pytest.raises(PostgresUnavailable, match="refused"), db.connection(timeout=0.5):
        pass


def test_an_earlier_refusal_is_not_reported_again_during_the_next_login(
    server: PostgresServer, database: Database
) -> None:
    with Proxy(server.port) as proxy, opened(create_db, database.dsn_at(proxy.port)) as db:
        proxy.refusals = [("28P01", "password authentication failed")] * 2
        with pytest.raises(PostgresRefused), db.connection():
            pass
        eventually(lambda: not proxy.refusals)
        proxy.silent_after = b"SCRAM-SHA-256"
        with pytest.raises(PoolTimeout), db.connection(timeout=1):
            pass


def test_a_waiting_request_succeeds_when_the_server_starts(private_server: PostgresServer) -> None:
    private_server.stop()
    with opened(create_db, private_server.dsn()) as db:
        late = threading.Timer(0.5, private_server.start)
        late.start()
        with db.connection(timeout=30) as conn:
            assert conn.execute("SELECT 1").fetchone() == (1,)
        late.join()


def test_a_request_to_an_exhausted_pool_keeps_its_place_in_the_queue(database: Database) -> None:
    with create_db(database.dsn, max_size=1) as db, ThreadPoolExecutor(1) as other:
        with db.connection():
            before = db.get_stats()["requests_num"]
            waiting = other.submit(check_db_health, db)
            eventually(lambda: db.get_stats().get("requests_waiting"))
            time.sleep(1)
            assert db.get_stats()["requests_num"] - before == 1, "the request was queued more than once"
        assert waiting.result().ok


@pytest.mark.usefixtures("impatient")
@SOURCES
def test_a_server_that_never_answers(source: Callable[[str], Any]) -> None:
    with silent_port() as port, opened(source, f"postgresql://someone:hunter2@127.0.0.1:{port}/app") as db:
        unhealthy(db)


@pytest.mark.usefixtures("impatient")
@SOURCES
def test_a_server_that_hangs_during_the_query(
    server: PostgresServer, database: Database, source: Callable[[str], Any]
) -> None:
    with Proxy(server.port) as proxy, opened(source, database.dsn_at(proxy.port)) as db:
        proxy.silent_after = b"SELECT 1"
        assert "no response" in (unhealthy(db).error or "")
        proxy.silent_after = None
        assert eventually(lambda: check_db_health(db).ok)


@pytest.mark.usefixtures("impatient")
def test_the_connection_to_a_frozen_backend_is_replaced(database: Database) -> None:
    with opened(create_db, database.dsn) as db:
        assert check_db_health(db).ok
        [(backend,)] = database.query(OTHERS)
        with frozen(backend):
            unhealthy(db)
            assert check_db_health(db).ok, "the next connection does not work"
        eventually(lambda: (backend,) not in database.query(OTHERS))


@pytest.mark.usefixtures("impatient")
def test_checks_of_a_frozen_server_do_not_exhaust_the_pool(private_server: PostgresServer) -> None:
    assert private_server.pid
    threads = threading.active_count()
    with create_db(private_server.dsn(), max_size=2) as db:
        assert check_db_health(db).ok
        with frozen(private_server.pid), ThreadPoolExecutor(6) as callers:
            with db.connection() as kept:
                list(callers.map(unhealthy, [db] * 6))
            assert kept.closed or kept.execute("SELECT 1").fetchone() == (1,)
        eventually(lambda: check_db_health(db).ok)
        with db.connection(timeout=5), db.connection(timeout=5):
            pass
    eventually(lambda: threading.active_count() <= threads)


@pytest.mark.usefixtures("impatient")
def test_an_exhausted_pool_is_reported_as_such(database: Database) -> None:
    with create_db(database.dsn, max_size=1) as db:
        with db.connection():
            assert "pool" in (unhealthy(db).error or "")
        assert check_db_health(db).ok


def test_a_connection_that_died_in_the_pool_does_not_mean_that_the_server_is_down(database: Database) -> None:
    with create_db(database.dsn) as db:
        with ExitStack() as stack:
            for _ in range(3):
                stack.enter_context(db.connection())
        database.execute(f"SELECT pg_terminate_backend(pid) FROM ({OTHERS}) AS others")
        eventually(lambda: not database.query(OTHERS))
        health = check_db_health(db)
    assert (health.ok, health.error) == (True, None)


def test_a_closed_pool_is_not_healthy(database: Database) -> None:
    db = create_db(database.dsn)
    assert check_db_health(db).ok
    db.close()
    unhealthy(db)


def test_any_exception_from_the_source_is_reported_in_the_result() -> None:
    class Broken:
        def connection(self, timeout: float | None = None) -> Any:
            raise LookupError(f"hunter2 {timeout}")

    assert unhealthy(Broken()).error == "LookupError"


def test_a_pool_has_the_documented_limits(database: Database) -> None:
    with opened(create_db, database.dsn) as db:
        assert (db.min_size, db.max_size, db.max_idle) == (0, 10, 20.0)
        assert db.reconnect_timeout == 0, "attempts must be caused by waiting requests and must not become rarer"
        with db.connection() as conn:
            parameters = conn.info.get_parameters()
    assert parameters["connect_timeout"] == "10"
    assert create_db(database.dsn, max_size=3).max_size == 3


def test_connect_timeout_in_the_url_overrides_the_default(database: Database) -> None:
    with opened(create_db, f"{database.dsn}?connect_timeout=7") as db, db.connection() as conn:
        assert conn.info.get_parameters()["connect_timeout"] == "7"


@pytest.mark.direct("a pooler keeps the backends of clients that have disconnected")
def test_a_pool_opens_nothing_until_it_is_used(database: Database) -> None:
    threads = threading.active_count()
    db: ConnectionPool[Any] = create_db(database.dsn)
    time.sleep(0.3)
    assert database.query(OTHERS) == []
    assert threading.active_count() == threads
    with db.connection():
        assert len(database.query(OTHERS)) == 1
    db.close()
    eventually(lambda: not database.query(OTHERS))


def test_many_threads_may_use_the_pool_first_at_the_same_time(database: Database) -> None:
    with opened(create_db, database.dsn) as db, ThreadPoolExecutor(8) as callers:
        assert all(health.ok for health in callers.map(check_db_health, [db] * 8))


def test_a_bad_url_is_rejected_before_anything_is_opened() -> None:
    with pytest.raises(StorageError, match="begins with mysql://") as caught:
        create_db("mysql://someone:hunter2@db/app")
    assert caught.value.code == "STORAGE_DB_URL_INVALID"


@pytest.mark.usefixtures("impatient")
def test_the_pools_own_log_does_not_contain_the_url(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    password = "hunter2/@:%"
    dsn = database.server.dsn(database.name, database.owner, password)
    with caplog.at_level(logging.DEBUG, logger="psycopg.pool"), opened(create_db, dsn) as db:
        unhealthy(db)
        eventually(lambda: "error connecting" in caplog.text)
    assert dsn not in caplog.text
    assert password not in caplog.text
    assert database.owner not in caplog.text
