"""What is told of a migration that takes long."""

from __future__ import annotations

import logging
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from predeploy import watcher
from predeploy.migrations import read_migrations
from predeploy.migrator import Migrator
from predeploy.postgres import Server
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer

Progress = list[logging.LogRecord]


@pytest.fixture
def migrate(
    migrations_dir: MigrationsDir,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Callable[[Server], Progress]:
    """Run with an impatient watcher and return what it said."""
    monkeypatch.setattr(watcher, "FIRST_AFTER_S", 0.2)
    monkeypatch.setattr(watcher, "_TICK_S", 0.1)
    monkeypatch.setattr(logging.getLogger("predeploy"), "propagate", True)
    caplog.set_level(logging.INFO)

    def run(db: Server) -> Progress:
        result = Migrator(db, read_migrations(migrations_dir.path)).run()
        assert result.applied == ["001.sql"]
        return [record for record in caplog.records if getattr(record, "event", "") == "migration.progress"]

    return run


def test_a_blocked_migration_names_who_blocks_it(
    migrate: Callable[[Server], Progress], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE busy ()")
    migrations_dir.write("001.sql", "ALTER TABLE busy ADD COLUMN more int")
    with database.connect(autocommit=False, application_name="the app") as blocker:
        blocker.execute("LOCK TABLE busy")
        timer = threading.Timer(1.5, blocker.rollback)
        timer.start()
        first, *_ = migrate(Server(database.dsn))
        timer.join()
        told: dict[str, Any] = vars(first)
        (by,) = told["blocked_by"]
        assert (by["pid"], by["application_name"], by["user"]) == (blocker.info.backend_pid, "the app", database.owner)
        assert by["state"] == "idle in transaction"
    assert (told["migration"], told["wait_event_type"], told["wait_event"]) == ("001.sql", "Lock", "relation")
    assert 0.2 <= told["elapsed_s"] < 1.5
    assert f"blocked by the app (pid {by['pid']}, idle in transaction)" in first.getMessage()


def test_the_intervals_grow(
    migrate: Callable[[Server], Progress], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_sleep(2)")
    elapsed: list[float] = [vars(record)["elapsed_s"] for record in migrate(Server(database.dsn))]
    assert 2 <= len(elapsed) <= 4
    assert all(later >= 1.5 * earlier for earlier, later in pairwise(elapsed))


@pytest.mark.direct("a pooler that has one backend for us looks like one in transaction mode")
def test_a_watcher_that_cannot_connect_harms_nobody(
    migrate: Callable[[Server], Progress], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} CONNECTION LIMIT 1")
    migrations_dir.write("001.sql", "SELECT pg_sleep(0.7)")
    (only, *_) = migrate(Server(database.dsn))
    assert "blocked_by" not in vars(only)
    assert only.getMessage().startswith("001.sql has run for ")


def test_a_quick_migration_is_not_talked_about(
    migrate: Callable[[Server], Progress], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    assert migrate(Server(database.dsn)) == []


@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_behind_a_pooler_what_takes_long_is_told_of_and_not_taken_for_a_dead_line(
    migrate: Callable[[Server], Progress],
    database: Database,
    migrations_dir: MigrationsDir,
    start_pgbouncer: Callable[..., PgBouncer],
    caplog: pytest.LogCaptureFixture,
    mode: str,
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE once (); SELECT pg_sleep(1)")
    assert migrate(Server(database.dsn_at(start_pgbouncer(pool_mode=mode).port)))
    events = {getattr(record, "event", "") for record in caplog.records}
    assert events.isdisjoint({"connection.silent", "connection.lost"})


@pytest.mark.parametrize("refusal", ["CONNECTION LIMIT 1", "PASSWORD 'another than before'", "NOLOGIN"])
def test_a_refused_login_is_an_answer_and_no_silence(
    migrate: Callable[[Server], Progress],
    monkeypatch: pytest.MonkeyPatch,
    database: Database,
    migrations_dir: MigrationsDir,
    refusal: str,
) -> None:
    monkeypatch.setattr(watcher, "SILENCE_S", 0.3)
    migrations_dir.write("001.sql", "SELECT pg_sleep(2) FROM pg_advisory_xact_lock(1)")
    with database.admin_connect() as admin:
        admin.execute("SELECT pg_advisory_lock(1)")
        refuse = threading.Timer(0, _refuse, [database, admin, refusal])
        refuse.start()
        assert migrate(Server(database.dsn))
        refuse.join()


def _refuse(database: Database, admin: psycopg.Connection, refusal: str) -> None:
    """Alter the role once the migration has begun, which waits for the lock until then."""
    begun = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    eventually(lambda: admin.execute(begun).fetchall())
    admin.execute(f"ALTER ROLE {database.owner} {refusal}")
    admin.execute("SELECT pg_advisory_unlock(1)")
