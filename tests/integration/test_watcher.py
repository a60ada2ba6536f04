"""When the progress of a slow migration is logged, and the second connection that watches it."""

from __future__ import annotations

import logging
import re
import threading
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from predeploy import __version__, create_db
from predeploy.apply.migrator import Migrator
from predeploy.apply.run_options import RunOptions
from predeploy.connection.connect import Server
from predeploy.connection.dsn import parse_dsn
from predeploy.errors import PostgresUnavailable
from predeploy.migrations.directory import read_migrations
from predeploy.monitor import second_connection, watcher
from tests.support.database import fresh_database
from tests.support.eventually import eventually
from tests.support.postgres_server import PostgresServer
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from predeploy.connection.connect import Connection
    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.program import Event, Process

Progress = list[logging.LogRecord]


@pytest.fixture
def migrate(
    migrations_dir: MigrationsDir,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Callable[..., Progress]:
    """Run with short watcher intervals and return the progress that was logged."""
    monkeypatch.setattr(watcher, "CHECK_AFTER_S", 0.3)
    monkeypatch.setattr(watcher, "_TICK_S", 0.1)
    monkeypatch.setattr(logging.getLogger("predeploy"), "propagate", True)
    caplog.set_level(logging.INFO)

    def run(db: Server, watch_after: float = 0.2) -> Progress:
        result = Migrator(db, read_migrations(migrations_dir.path), RunOptions(watch_after=watch_after)).run()
        assert result.applied == ["001.sql"]
        return [record for record in caplog.records if getattr(record, "event", "") == "migration.progress"]

    return run


def test_the_intervals_grow(
    migrate: Callable[..., Progress], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_sleep(2)")
    elapsed: list[float] = [vars(record)["elapsed_s"] for record in migrate(Server(parse_dsn(database.dsn)))]
    assert 2 <= len(elapsed) <= 4
    assert all(later >= 1.5 * earlier for earlier, later in pairwise(elapsed))


@pytest.mark.direct("a pooler with a single backend is treated as one in transaction mode")
def test_a_watcher_that_cannot_connect_does_not_affect_the_run(
    migrate: Callable[..., Progress], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} CONNECTION LIMIT 1")
    migrations_dir.write("001.sql", "SELECT pg_sleep(0.7)")
    (only, *_) = migrate(Server(parse_dsn(database.dsn)))
    assert {"waiting_for", "wait_event"}.isdisjoint(vars(only))
    assert re.fullmatch(r"Still running 001\.sql after \d s: statement 1 of 1 \(SELECT, line 1\)", only.getMessage())


def test_no_progress_is_logged_for_a_quick_migration(
    migrate: Callable[..., Progress], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    assert migrate(Server(parse_dsn(database.dsn))) == []


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_a_slow_migration_behind_a_pooler_is_logged_and_its_connection_not_taken_for_dead(
    migrate: Callable[[Server], Progress],
    database: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
    caplog: pytest.LogCaptureFixture,
    mode: str,
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE once (); SELECT pg_sleep(1)")
    assert migrate(Server(parse_dsn(database.dsn_at(start_pgbouncer(pool_mode=mode).port))))
    events = {getattr(record, "event", "") for record in caplog.records}
    assert events.isdisjoint({"connection.silent", "connection.lost"})


def test_0_disables_progress_lines_but_not_the_check_for_a_silent_connection(
    migrate: Callable[..., Progress], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_sleep(1.5)")
    with Proxy(database.port) as proxy:
        assert migrate(Server(parse_dsn(database.dsn_at(proxy.port))), watch_after=0) == []
        assert proxy.logins > 1


def test_early_progress_lines_do_not_make_the_check_for_silence_earlier(
    migrate: Callable[..., Progress],
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    migrations_dir: MigrationsDir,
) -> None:
    """A progress query without an answer does not count as silence."""
    monkeypatch.setattr(watcher, "CHECK_AFTER_S", 60.0)
    monkeypatch.setattr(watcher, "GIVE_UP_AFTER_S", 0.0)
    monkeypatch.setattr(second_connection, "_LOGIN_S", 0.2)
    migrations_dir.write("001.sql", "SELECT pg_sleep(1.5)")

    class Deaf(Server):
        @contextmanager
        def connection(self, timeout: float | None = None) -> Iterator[Connection]:
            if timeout == 0.2:
                raise PostgresUnavailable("no answer", "timeout")
            with super().connection(timeout) as conn:
                yield conn

    assert migrate(Deaf(parse_dsn(database.dsn))) == []


@pytest.mark.parametrize("refusal", ["CONNECTION LIMIT 1", "PASSWORD 'another than before'"])
def test_a_refused_login_does_not_count_as_silence(
    migrate: Callable[..., Progress],
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    migrations_dir: MigrationsDir,
    refusal: str,
) -> None:
    monkeypatch.setattr(watcher, "GIVE_UP_AFTER_S", 0.3)
    migrations_dir.write("001.sql", "SELECT pg_sleep(2) FROM pg_advisory_xact_lock(1)")
    with database.admin_connect() as admin:
        admin.execute("SELECT pg_advisory_lock(1)")
        refuse = threading.Timer(0, _refuse, [database, admin, refusal])
        refuse.start()
        assert migrate(Server(parse_dsn(database.dsn)))
        refuse.join()


def _refuse(database: Database, admin: psycopg.Connection, refusal: str) -> None:
    """Alter the role once the migration has started and waits for the lock, then release the lock."""
    begun = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    eventually(lambda: admin.execute(begun).fetchall())
    admin.execute(f"ALTER ROLE {database.owner} {refusal}")
    admin.execute("SELECT pg_advisory_unlock(1)")


# The second connection

OURS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'pg-predeploy/%'"
SECOND_CONNECTIONS = f"SELECT pid, application_name {OURS} AND state = 'idle' AND query LIKE '%json_build_object%'"


@contextmanager
def blocked(start: Callable[..., Process], database: Database) -> Iterator[tuple[Process, Event, psycopg.Connection]]:
    """Run files that wait for the table `busy`, until the first progress line."""
    database.execute("CREATE TABLE busy ()")
    with database.connect(autocommit=False) as blocker:
        blocker.execute("LOCK TABLE busy")
        process = start(MIGRATE_WATCH_AFTER="100ms")
        yield process, process.wait_for("migration.progress"), blocker


def second_connection_pid(database: Database) -> int:
    [(pid, name)] = eventually(lambda: database.query(SECOND_CONNECTIONS))
    assert re.fullmatch(rf"pg-predeploy/{re.escape(__version__)} \S+", name)
    return int(pid)


@pytest.mark.direct("a pooler keeps its connection to the server open")
def test_the_second_connection_is_kept_while_a_file_runs_and_closed_when_it_ends(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    for name in ("001.sql", "002.sql"):
        migrations_dir.write(name, f"SELECT '{name}' FROM busy")
    with blocked(start, database) as (process, _, blocker):
        pid = second_connection_pid(database)
        for _ in range(2):
            process.wait_for("migration.progress")
            assert second_connection_pid(database) == pid
        with database.connect(autocommit=False) as next_blocker:
            queued = threading.Thread(target=next_blocker.execute, args=["LOCK TABLE busy"])
            queued.start()  # in the queue between the first and the second file
            eventually(lambda: len(database.query("SELECT FROM pg_locks WHERE NOT granted")) == 2)
            blocker.rollback()
            queued.join()
            assert process.wait_for("migration.applied")["migration"] == "001.sql"
            assert process.wait_for("migration.progress")["migration"] == "002.sql"
            assert second_connection_pid(database) != pid
    assert process.finish().exit_code == 0
    eventually(lambda: not database.query(f"SELECT {OURS}"))


@pytest.mark.direct("a pooler keeps its connection to the server open")
def test_a_terminated_second_connection_is_replaced(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "TABLE busy")
    with blocked(start, database) as (process, _, blocker):
        pid = second_connection_pid(database)
        database.query("SELECT pg_terminate_backend(%s)", pid)
        logged = process.wait_for("migration.progress")
        assert [by["pid"] for by in logged["blocked_by"]] == [blocker.info.backend_pid]
        assert second_connection_pid(database) != pid
    run = process.finish()
    assert (run.exit_code, run.named("connection.lost"), run.named("connection.silent")) == (0, [], [])


def test_a_blocked_progress_query_is_cancelled_and_repeated(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "TABLE busy")
    with blocked(start, database) as (process, _, blocker):
        with database.admin_connect(autocommit=False) as vandal:
            vandal.execute("LOCK TABLE pg_catalog.pg_locks")
            logged = process.wait_for("migration.progress")
            assert {"blocked_by", "waiting_for", "wait_event"}.isdisjoint(logged)
            assert logged["statement"] == 1
            looking = f"SELECT {OURS} AND query LIKE '%pg_locks%' AND state = 'active'"
            eventually(lambda: not _anew(vandal, looking))
        logged = process.wait_for("migration.progress", timeout=60)
        assert [by["pid"] for by in logged["blocked_by"]] == [blocker.info.backend_pid]
    run = process.finish()
    assert (run.exit_code, run.named("connection.silent")) == (0, [])


def _anew(conn: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    """Query in an open transaction, which otherwise caches what it has read about other sessions."""
    conn.execute("SELECT pg_stat_clear_snapshot()")
    return conn.execute(query).fetchall()


def test_the_second_connection_is_returned_to_the_pool_unchanged(
    migrate: Callable[..., Progress], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_sleep(1)")
    with create_db(database.dsn) as pool:
        assert migrate(pool)
        eventually(lambda: pool.get_stats()["pool_available"] == pool.get_stats()["pool_size"])
        with pool.connection() as conn:
            settings = [conn.execute(f"SHOW {name}").fetchone() for name in ("statement_timeout", "lock_timeout")]
        assert settings == [("0",), ("0",)]


def test_without_a_spare_connection_the_progress_line_is_shorter_and_nothing_else_is_logged(
    start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1;\nSELECT pg_advisory_xact_lock(1)")
    with (
        PostgresServer(settings={"max_connections": "10"}) as server,
        fresh_database(server) as database,
        database.admin_connect() as gate,
        ExitStack() as others,
    ):
        gate.execute("SELECT pg_advisory_lock(1)")
        with suppress(psycopg.OperationalError):
            while last := database.connect():
                others.callback(last.close)
        last.close()
        process = start(DATABASE_URL=database.dsn, MIGRATE_WATCH_AFTER="100ms")
        logged = process.wait_for("migration.progress")
        assert logged["message"].endswith(": statement 1 of 2 or later")
        assert set(logged) == {
            *("timestamp", "level", "message", "event"),
            *("migration", "elapsed_s", "statement_at_least", "statements"),
        }
        gate.execute("SELECT pg_advisory_unlock(1)")
        run = process.finish()
        assert (run.exit_code, {line["level"] for line in run.events}) == (0, {"info"})
