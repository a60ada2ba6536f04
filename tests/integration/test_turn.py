"""Of runners that start at once one goes ahead; the others wait for what it does without having loaded psycopg."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from predeploy.apply.fast_path import LONGEST_S
from predeploy.apply.turn import LONGEST_S as LONGEST_TURN_S
from predeploy.apply.turn import TURN_KEY, take_turn
from predeploy.connection import libpq
from predeploy.connection.conninfo import written
from predeploy.connection.dsn import parse_dsn
from predeploy.lock.key import LOCK_KEY
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Process, Run

SIGNAL_BOUND_S = 1.4
SQL = "CREATE TABLE t ()"
TURN = f"SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = {TURN_KEY} AND granted"
MADE = """
    CREATE TABLE t ();
    CREATE TABLE _migrations (name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now(), checksum TEXT);
    INSERT INTO _migrations (name) VALUES ('001.sql')
"""
SESSIONS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture(autouse=True)
def pending(migrations_dir: MigrationsDir) -> None:
    """A file to apply."""
    migrations_dir.write("001.sql", SQL)


@pytest.mark.direct("through a pooler nobody waits like this")
@pytest.mark.parametrize("key", [TURN_KEY, LOCK_KEY], ids=["gets ready", "is at work"])
def test_who_waits_while_another_goes_ahead_never_needs_psycopg(
    start: Callable[..., Process], database: Database, no_psycopg: dict[str, str], key: int
) -> None:
    with database.connect() as ahead:
        ahead.execute(f"SELECT pg_advisory_lock({key})")
        waiter = start(**no_psycopg)
        waiter.wait_for("turn.waiting")
        ahead.execute(MADE)
    ended = waiter.finish()
    assert (ended.exit_code, ended.report["skipped"]) == (0, 1)
    names = [event["event"] for event in ended.events]
    assert names == ["run.started", "turn.waiting", "postgres.ready", "run.finished"]


@pytest.mark.direct("through a pooler nobody waits like this")
def test_who_has_waited_in_vain_goes_ahead(start: Callable[..., Process], database: Database) -> None:
    with database.connect() as ahead:
        ahead.execute(f"SELECT pg_advisory_lock({TURN_KEY})")
        waiter = start()
        waiter.wait_for("turn.waiting")
    ended = waiter.finish()
    assert (ended.exit_code, ended.report["applied"]) == (0, 1)


@pytest.mark.direct("through a pooler nobody waits like this")
def test_a_turn_that_never_ends_delays_the_others_and_no_more(
    run: Callable[..., Run], database: Database, server: PostgresServer
) -> None:
    log = server.directory / "log"
    before = log.stat().st_size
    with database.connect() as stuck:
        stuck.execute(f"SELECT pg_advisory_lock({TURN_KEY})")
        ended = run()
    assert (ended.exit_code, ended.report["applied"], len(ended.named("turn.waiting"))) == (0, 1, 1)
    logged = log.read_bytes()[before:]
    assert logged.count(b'relation "_migrations" does not exist') == 1, "an error for each look"
    assert ended.report["duration_ms"] >= 1000 * LONGEST_S
    assert ended.named("postgres.ready")[0]["wait_s"] < LONGEST_S, "the server was there all the time"


@pytest.mark.direct("through a pooler nobody waits like this")
def test_a_wait_for_a_turn_is_a_part_of_that_for_the_lock(start: Callable[..., Process], database: Database) -> None:
    with database.connect() as holder:
        holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
        waiter = start(MIGRATE_LOCK_WAIT_TIMEOUT="3")
        waiter.wait_for("turn.waiting")
        assert waiter.wait_for("lock.waiting")["wait_s"] >= 1.4
        ended = waiter.finish()
    assert ended.exit_code == 4
    assert "was not free within 3 s" in ended.report["message"]
    assert 3000 <= ended.report["duration_ms"] < 3000 + 1400


def test_without_time_for_the_lock_nobody_waits_for_a_turn(run: Callable[..., Run], database: Database) -> None:
    with database.connect() as stuck:
        stuck.execute(f"SELECT pg_advisory_lock({TURN_KEY})")
        ended = run(MIGRATE_LOCK_WAIT_TIMEOUT="0")
    assert (ended.exit_code, ended.report["applied"], ended.named("turn.waiting")) == (0, 1, [])


@pytest.mark.direct("through a pooler nobody waits like this")
def test_a_signal_ends_the_wait_for_a_turn(start: Callable[..., Process], database: Database) -> None:
    with database.connect() as stuck:
        stuck.execute(f"SELECT pg_advisory_lock({TURN_KEY})")
        waiter = start()
        waiter.wait_for("turn.waiting")
        sent = time.monotonic()
        waiter.terminate()
        ended = waiter.finish()
        assert time.monotonic() - sent < SIGNAL_BOUND_S
    assert (ended.exit_code, ended.report["message"]) == (143, "Ended by SIGTERM.")
    assert database.query("SELECT to_regclass('t')") == [(None,)]


@pytest.mark.direct("a pooler keeps its sessions")
def test_a_turn_ends_when_the_lock_is_held(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE gate ()")
    migrations_dir.write("001.sql", "SELECT FROM gate")
    with database.connect(autocommit=False) as keeper:
        keeper.execute("LOCK TABLE gate")
        runner = start()
        runner.wait_for("lock.acquired")
        eventually(lambda: not database.query(TURN), LONGEST_TURN_S - 2)  # before the server ends it
        eventually(lambda: len(database.query(SESSIONS)) == 2)  # the keeper's and the one that applies
    assert runner.finish().exit_code == 0


@pytest.mark.direct("the limit is the server's")
def test_who_may_have_one_connection_only_gives_up_its_turn(run: Callable[..., Run], database: Database) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} CONNECTION LIMIT 1")
    ended = run()
    assert (ended.exit_code, ended.report["applied"]) == (0, 1)
    assert ended.named("postgres.waiting") == []
    assert ended.report["duration_ms"] < 1000 * LONGEST_TURN_S, "it was the server that ended the turn"


def test_a_pooler_with_one_connection_is_not_kept_busy_by_a_turn(
    run: Callable[..., Run], database: Database, start_pgbouncer: Callable[..., PgBouncer]
) -> None:
    pooler = start_pgbouncer(pool_mode="session", default_pool_size=1)
    ended = run(DATABASE_URL=database.dsn_at(pooler.port))
    assert (ended.exit_code, ended.report["applied"]) == (0, 1)
    assert ended.report["duration_ms"] < 1000 * LONGEST_TURN_S, "it was the server that ended the turn"


@pytest.mark.direct("what waits there is a pooler's client")
def test_a_turn_that_is_taken_by_a_process_that_stops_ends_by_itself(
    run: Callable[..., Run], database: Database
) -> None:
    """The server ends the transaction; it is begun here as the program begins it."""
    library = libpq.load()
    assert library
    session = libpq.Session(library, written(parse_dsn(database.dsn)), time.monotonic() + 20)
    assert take_turn(session).is_ours
    assert len(database.query(TURN)) == 1
    eventually(lambda: not database.query(TURN), LONGEST_TURN_S + 5)
    session.close()
    assert run().exit_code == 0
