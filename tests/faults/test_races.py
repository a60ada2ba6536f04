"""Many runners at once, on every path: each migration is applied once, no runner fails, nothing is left behind."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from predeploy.lock.key import LOCK_KEY
from tests.support.database import fresh_database
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Process, Run

FILES = 10
ADVISORY_LOCKS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
# Two runners in the same migration at the same time would violate the unique constraint of `inside`.
MARK = "INSERT INTO effects VALUES ({n}); INSERT INTO inside VALUES ({n}); DELETE FROM inside WHERE n = {n}"


@pytest.fixture
def crowd(private_server: PostgresServer) -> Iterator[Database]:
    """A database on a server that accepts many connections."""
    with psycopg.connect(private_server.dsn(), autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET max_connections = 120")
    private_server.restart()
    with fresh_database(private_server) as database:
        database.execute("CREATE TABLE effects (n int); CREATE TABLE inside (n int UNIQUE)")
        yield database


@contextmanager
def held(database: Database) -> Iterator[None]:
    """Hold the migration lock in another tool's session."""
    with database.connect(application_name="another tool") as foreign:
        foreign.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        yield


def write_files(migrations_dir: MigrationsDir) -> list[str]:
    for number in range(FILES):
        migrations_dir.write(f"{number:03}.sql", MARK.format(n=number))
    return [f"{number:03}.sql" for number in range(FILES)]


def assert_applied_once(database: Database, finished: list[Run], names: list[str]) -> None:
    assert [run.exit_code for run in finished] == [0] * len(finished)
    assert sorted(line["migration"] for run in finished for line in run.named("migration.applied")) == names
    assert {run.report["applied"] + run.report["skipped"] for run in finished} == {len(names)}
    assert [name for (name,) in database.query("SELECT name FROM _migrations ORDER BY name")] == names
    assert database.query("SELECT n FROM effects ORDER BY n") == [(n,) for n in range(FILES)]
    eventually(lambda: database.query(ADVISORY_LOCKS) == [(0,)])


@pytest.mark.parametrize(
    ("runners", "way"),
    [*((runners, way) for runners in (2, 10) for way in ("direct", "transaction", "session")), (50, "mixed")],
)
def test_runners_share_the_work_and_none_fails(
    start: Callable[..., Process],
    crowd: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
    runners: int,
    way: str,
) -> None:
    names = write_files(migrations_dir)
    ways = [crowd.dsn]
    for mode in ("transaction", "session"):
        if way in {mode, "mixed"}:
            bouncer = start_pgbouncer(crowd.server, mode, default_pool_size=60 if mode == "session" else 5)
            ways.append(crowd.dsn_at(bouncer.port))
    ways = ways[way not in {"direct", "mixed"} :]
    with held(crowd):  # until all runners have started
        processes = [start(DATABASE_URL=ways[number % len(ways)]) for number in range(runners)]
        for process in processes:
            process.wait_for("lock.waiting", timeout=60)
    assert_applied_once(crowd, [process.finish(timeout=120) for process in processes], names)


def test_runners_start_one_by_one_while_the_first_builds_an_index_concurrently(
    start: Callable[..., Process],
    crowd: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
) -> None:
    """A waiter whose poll kept a snapshot would deadlock with the index build."""
    crowd.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id; CREATE TABLE gate (n int)")
    build = "CREATE INDEX CONCURRENTLY one ON t (id)"
    migrations_dir.write("000.sql", f"-- migrate:no-transaction\nSELECT * FROM gate;\n{build};\n")
    migrations_dir.write("001.sql", MARK.format(n=1))
    pooled = crowd.dsn_at(start_pgbouncer(crowd.server).port)
    with crowd.connect(autocommit=False) as keeper:
        keeper.execute("LOCK TABLE gate")
        first = start(DATABASE_URL=crowd.dsn)
        eventually(lambda: crowd.query("SELECT FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted"))
        others = [start(DATABASE_URL=dsn) for dsn in (crowd.dsn, pooled) * 4]
        for process in others:
            process.wait_for("lock.waiting", timeout=60)
    finished = [process.finish(timeout=60) for process in (first, *others)]
    assert [run.exit_code for run in finished] == [0] * len(finished)
    assert crowd.query("SELECT indisvalid FROM pg_index WHERE indexrelid = 'one'::regclass") == [(True,)]
    assert crowd.query("SELECT n FROM effects") == [(1,)]


@pytest.mark.parametrize("way", ["direct", "transaction"])
def test_without_working_advisory_locks_the_claim_alone_limits_each_file_to_one_runner(
    start: Callable[..., Process],
    private_server: PostgresServer,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
    way: str,
) -> None:
    """As on engines that speak Postgres's protocol and whose advisory lock functions do nothing."""
    names = write_files(migrations_dir)
    with fresh_database(private_server) as database:
        with psycopg.connect(private_server.dsn(database.name), autocommit=True) as conn:
            conn.execute("SET allow_system_table_mods = on")
            for function in ("pg_try_advisory_lock", "pg_try_advisory_xact_lock", "pg_advisory_unlock"):
                body = f"CREATE OR REPLACE FUNCTION pg_catalog.{function}(bigint) RETURNS bool LANGUAGE sql VOLATILE"
                conn.execute(f"{body} AS 'SELECT true'")
        # Slow enough that the runners meet in each file.
        for name in names:
            (migrations_dir.path / name).write_text(MARK.format(n=int(name[:3])) + "; SELECT pg_sleep(0.1)")
        database.execute("CREATE TABLE effects (n int); CREATE TABLE inside (n int UNIQUE)")
        dsn = database.dsn if way == "direct" else database.dsn_at(start_pgbouncer(private_server).port)
        with database.connect(autocommit=False) as keeper:
            # All runners read `_migrations` before any of them may write.
            processes = [start(DATABASE_URL=dsn)]
            processes[0].wait_for("migration.applied")
            keeper.execute("LOCK TABLE _migrations IN SHARE MODE")
            processes += [start(DATABASE_URL=dsn) for _ in range(7)]
            waiting = "SELECT count(*) FROM pg_locks WHERE relation = '_migrations'::regclass AND NOT granted"
            eventually(lambda: database.query(waiting)[0][0] >= 5)
        assert_applied_once(database, [process.finish(timeout=60) for process in processes], names)


def test_an_engine_without_advisory_locks_is_reported(
    run: Callable[..., Run], private_server: PostgresServer, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with fresh_database(private_server) as database:
        with psycopg.connect(private_server.dsn(database.name), autocommit=True) as conn:
            conn.execute("SET allow_system_table_mods = on")
            conn.execute("ALTER FUNCTION pg_catalog.pg_try_advisory_lock(bigint) RENAME TO gone")
        ended = run(DATABASE_URL=database.dsn)
        assert (ended.exit_code, ended.report["applied"]) == (5, 0)
        assert "pg_try_advisory_lock" in ended.report["message"]


def test_runners_wait_for_a_foreign_holder_that_takes_and_releases_the_lock_repeatedly(
    start: Callable[..., Process],
    crowd: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
) -> None:
    """The lock is taken and released all the time, as by another implementation's runners."""
    names = write_files(migrations_dir)
    pooled = crowd.dsn_at(start_pgbouncer(crowd.server).port)
    over = threading.Event()

    def come_and_go() -> None:
        with crowd.connect() as foreign:
            for _ in range(2000):
                if over.is_set():
                    break
                foreign.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
                foreign.execute(f"SELECT pg_sleep(0.01), pg_advisory_unlock({LOCK_KEY})")

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        processes = [start(DATABASE_URL=dsn) for dsn in (crowd.dsn, pooled, pooled)]
        finished = [process.finish(timeout=90) for process in processes]
    finally:
        over.set()
        other.join()
    assert_applied_once(crowd, finished, names)
