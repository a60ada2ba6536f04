"""A peer that acknowledges data but no longer answers is detected, and the run reconnects."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.database import fresh_database
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Process

LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
NOTICED_S = 5 + 15 + 3 + 1  # the first check, the silence, the login that gets no answer, and a margin


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(server.port) as running:
        yield running


@contextmanager
def stopped(server: PostgresServer) -> Iterator[None]:
    """Stop every process of the server; the kernel still acknowledges data."""
    assert server.pid
    children = [int(stat.parent.name) for stat in Path("/proc").glob("[0-9]*/stat") if _parent(stat) == server.pid]
    for pid in (server.pid, *children):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in (server.pid, *children):
            os.kill(pid, signal.SIGCONT)


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has just ended
        return 0


@pytest.mark.parametrize("watch_after", ["0", "1s", "1h"])
def test_a_connection_that_drops_all_data_is_closed_and_the_file_applied_on_a_new_one(
    start: Callable[..., Process], proxy: Proxy, database: Database, migrations_dir: MigrationsDir, watch_after: str
) -> None:
    database.execute("CREATE TABLE effects (n int)")
    migrations_dir.write("001.sql", "INSERT INTO effects /* swallowed */ VALUES (1)")
    migrations_dir.write("002.sql", "INSERT INTO effects VALUES (2)")
    proxy.silent_after = b"swallowed"
    process = start(DATABASE_URL=database.dsn_at(proxy.port), MIGRATE_WATCH_AFTER=watch_after)
    silent = process.wait_for("connection.silent")
    assert (silent["level"], silent["migration"]) == ("warning", "001.sql")
    proxy.silent_after = None
    ended = process.finish()
    assert (ended.exit_code, ended.report["applied"]) == (0, 2)
    # The server has not noticed the loss, so the old session would still hold the lock.
    assert [line["migration"] for line in ended.named("connection.lost")] == ["001.sql"]
    assert len(ended.named("lock.freed")) == 1
    assert database.query("SELECT n FROM effects ORDER BY n") == [(1,), (2,)]
    assert database.query(LOCKS) == [(0,)]


@pytest.mark.parametrize("while_it", ["runs a file", "asks for the lock"])
def test_a_frozen_server_ends_the_run_with_6_and_the_next_run_connects_again(
    private_server: PostgresServer, start: Callable[..., Process], migrations_dir: MigrationsDir, while_it: str
) -> None:
    sleeping = "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with fresh_database(private_server) as database, database.connect() as other:
        database.execute("CREATE TABLE effects (n int); CREATE TABLE thawed (n int)")
        migrations_dir.write(
            "001.sql", "INSERT INTO effects VALUES (1); SELECT pg_sleep(100) WHERE NOT EXISTS (TABLE thawed)"
        )
        if while_it == "asks for the lock":
            other.execute("SELECT pg_advisory_lock(48756301)")
        process = start(DATABASE_URL=database.dsn, MIGRATE_WAIT_TIMEOUT="1s")
        if while_it == "runs a file":
            eventually(lambda: database.query(sleeping))
        else:
            process.wait_for("lock.waiting")
        with stopped(private_server):
            ended = process.finish(timeout=NOTICED_S + 1 + 1)
        assert (ended.exit_code, ended.report["outcome"]) == (6, "connection_lost")
        assert len(ended.named("connection.silent")) == 1
        database.execute("INSERT INTO thawed VALUES (1)")
        other.close()
        again = start(DATABASE_URL=database.dsn).finish()
        assert (again.exit_code, again.report["applied"]) == (0, 1)
        assert database.query("SELECT n FROM effects") == [(1,)]
        assert database.query(LOCKS) == [(0,)]


@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_a_long_statement_behind_a_pooler_is_logged_and_not_interrupted(
    start: Callable[..., Process],
    database: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
    mode: str,
) -> None:
    """The process id that a pooler reports belongs to no session or to a different one."""
    database.execute("CREATE TABLE busy ()")
    bouncer = start_pgbouncer(pool_mode=mode)
    migrations_dir.write("001.sql", "SELECT * FROM busy")
    with database.connect(autocommit=False, application_name="the app") as blocker:
        blocker.execute("LOCK TABLE busy")
        process = start(DATABASE_URL=database.dsn_at(bouncer.port))
        first, second = (process.wait_for("migration.progress", timeout=30) for _ in range(2))
        assert [by["application_name"] for by in first["blocked_by"]] == ["the app"]
        assert second["elapsed_s"] > first["elapsed_s"]
    ended = process.finish()
    assert (ended.exit_code, ended.named("connection.silent"), ended.named("connection.lost")) == (0, [], [])


def test_a_long_statement_on_a_server_without_a_spare_connection_does_not_count_as_silence(
    private_server: PostgresServer, start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    """A refused login is an answer."""
    with fresh_database(private_server) as database:
        database.admin_execute(f"ALTER ROLE {database.owner} CONNECTION LIMIT 1")
        migrations_dir.write("001.sql", "SELECT pg_sleep(23)")
        ended = start(DATABASE_URL=database.dsn).finish()
        assert (ended.exit_code, ended.report["applied"]) == (0, 1)
        assert (ended.named("connection.silent"), ended.named("connection.lost")) == ([], [])
