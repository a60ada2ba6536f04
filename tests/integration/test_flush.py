"""MIGRATE_COMMIT=run: commits that do not wait for the disk, and one that makes all of them durable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.database import Database, fresh_database
from tests.support.eventually import eventually
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Process, Run

SEEN = "INSERT INTO seen (synchronous) SELECT current_setting('synchronous_commit')"
AT_GATE = "SELECT 1 FROM pg_locks WHERE relation = 'gate'::regclass AND NOT granted"
NO_TRANSACTION = "-- migrate:no-transaction\n"
FLUSHED = "SELECT pg_current_wal_flush_lsn() > max(written) FROM seen"


@pytest.fixture
def lazy_database() -> Iterator[Database]:
    """On a server that writes its log by itself only every ten seconds."""
    with PostgresServer(settings={"wal_writer_delay": "10s"}) as server, fresh_database(server) as fresh:
        fresh.execute("CREATE TABLE seen (synchronous text, written pg_lsn DEFAULT pg_current_wal_insert_lsn())")
        yield fresh


def applied(run: Run) -> list[tuple[str, bool]]:
    return [(line["migration"], line.get("flushed", True)) for line in run.named("migration.applied")]


def test_only_the_last_transaction_waits_for_the_disk(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE seen (synchronous text)")
    for name in ("001.sql", "002.sql", "003.sql"):
        migrations_dir.write(name, SEEN)
    ended = run(MIGRATE_COMMIT="run")
    assert database.query("SELECT synchronous FROM seen") == [("off",), ("off",), ("on",)]
    assert applied(ended) == [("001.sql", False), ("002.sql", False), ("003.sql", True)]
    assert ended.named("run.flushed") == []


def test_by_default_every_transaction_does(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE seen (synchronous text)")
    for name in ("001.sql", "002.sql"):
        migrations_dir.write(name, SEEN)
    ended = run()
    assert database.query("SELECT synchronous FROM seen") == [("on",), ("on",)]
    assert applied(ended) == [("001.sql", True), ("002.sql", True)]


def test_a_no_transaction_file_waits_too(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE seen (synchronous text)")
    migrations_dir.write("001.sql", SEEN)
    migrations_dir.write("002.sql", NO_TRANSACTION + SEEN)
    migrations_dir.write("003.sql", SEEN)
    ended = run(MIGRATE_COMMIT="run")
    assert applied(ended) == [("001.sql", False), ("002.sql", True), ("003.sql", True)]


@pytest.mark.session("a pooler's sessions commit each")
@pytest.mark.parametrize("last", ["SELECT 1 / 0", "SELEC 1", "COMMIT"])
def test_a_run_whose_last_file_fails_flushes_by_itself(
    lazy_database: Database, run: Callable[..., Run], migrations_dir: MigrationsDir, last: str
) -> None:
    migrations_dir.write("001.sql", SEEN)
    migrations_dir.write("002.sql", SEEN)
    migrations_dir.write("003.sql", last)
    ended = run(MIGRATE_COMMIT="run", DATABASE_URL=lazy_database.dsn)
    assert applied(ended) == [("001.sql", False), ("002.sql", False)]
    assert len(ended.named("run.flushed")) == 1
    assert lazy_database.query(FLUSHED) == [(True,)]


@pytest.mark.session("a pooler's sessions commit each")
def test_what_a_crash_of_the_server_takes_away_is_applied_again(
    start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    with PostgresServer(settings={"wal_writer_delay": "10s"}) as server, fresh_database(server) as database:
        database.execute("CREATE TABLE effects (n int); CREATE TABLE gate ()")
        migrations_dir.write("001.sql", "INSERT INTO effects VALUES (1)")
        migrations_dir.write("002.sql", "INSERT INTO effects VALUES (2)")
        migrations_dir.write("003.sql", "SELECT * FROM gate; INSERT INTO effects VALUES (3)")
        keeper = database.connect(autocommit=False)
        keeper.execute("LOCK TABLE gate")
        process = start(MIGRATE_COMMIT="run", DATABASE_URL=database.dsn)
        eventually(lambda: database.query(AT_GATE))
        server.restart("immediate")
        keeper.close()
        ended = process.finish()
        assert [line["migration"] for line in ended.named("migration.undone")] == ["001.sql", "002.sql"]
        assert ended.exit_code == 0
        assert (ended.report["applied"], ended.report["failed"]) == (3, 0)
        assert database.query("SELECT n FROM effects ORDER BY n") == [(1,), (2,), (3,)]
