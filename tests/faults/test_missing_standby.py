"""While COMMIT waits for a missing synchronous standby, a signal ends the run in time, and its report is accurate.

A cancelled COMMIT takes effect, and the server then continues with the rest of the message.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.invariants import Ended
from tests.faults.plan import EFFECTS, File
from tests.support.database import fresh_database
from tests.support.eventually import eventually
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Program

WITHIN_S = 2.0 + 3.0  # the documented limit, and a margin for a busy machine
WAITING = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'"
SESSIONS = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
KINDS = {
    "many files in one message": ("plain", "ddl", "plain", "notice", "plain"),
    "a file without a transaction": ("plain", "no-transaction", "plain"),
    "a file in several messages": ("big", "plain"),
}


@pytest.fixture(scope="module")
def own_server() -> Iterator[PostgresServer]:
    with PostgresServer() as running:
        yield running


@pytest.fixture
def own_database(own_server: PostgresServer) -> Iterator[Database]:
    with fresh_database(own_server) as database:
        yield database


@pytest.fixture
def set_standby(own_database: Database) -> Iterator[Callable[[str], None]]:
    """A function that sets the name of the standby that each COMMIT waits for; an empty name disables the wait."""

    def set_name(name: str) -> None:
        own_database.admin_execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
        own_database.admin_query("SELECT pg_reload_conf()")
        eventually(lambda: own_database.admin_query("SHOW synchronous_standby_names") == [(name,)])

    yield set_name
    set_name("")


@pytest.mark.parametrize("kinds", KINDS.values(), ids=KINDS)
def test_sigterm_ends_a_run_that_waits_for_a_missing_standby(
    own_database: Database,
    set_standby: Callable[[str], None],
    program: Program,
    migrations_dir: MigrationsDir,
    kinds: tuple[str, ...],
) -> None:
    own_database.execute(EFFECTS)
    migrations_dir.write("000.sql", "SELECT 1")
    assert program.run(DATABASE_URL=own_database.dsn).exit_code == 0
    files = [File(f"{number:03}.sql", kind) for number, kind in enumerate(kinds, 1)]
    for file in files:
        migrations_dir.write(file.name, file.sql)
    set_standby("nobody")
    process = program.start(DATABASE_URL=own_database.dsn)
    eventually(lambda: own_database.query(WAITING))
    sent = time.monotonic()
    process.terminate()
    run = process.finish()
    assert time.monotonic() - sent < WITHIN_S
    assert run.exit_code == 128 + signal.SIGTERM
    set_standby("")
    eventually(lambda: not own_database.query(SESSIONS))
    print(run.report["message"])
    rows = {name for (name,) in own_database.query("SELECT name FROM _migrations")}
    reported = Ended("the run", run.exit_code, run.stdout, "").applied
    assert {*reported} <= rows
    assert run.report["applied"] == len(reported)
    if "it was rolled back" in run.report["message"]:
        assert run.report["migration"] not in rows
    for file in files:
        if file.transactional:
            assert effects(own_database, file) == dict.fromkeys(file.effects, 1 if file.name in rows else 0)
    again = program.run(DATABASE_URL=own_database.dsn)
    assert (again.exit_code, again.report["applied"]) == (0, len(files) + 1 - len(rows))
    for file in files:
        if file.transactional:
            assert effects(own_database, file) == dict.fromkeys(file.effects, 1)


def effects(database: Database, file: File) -> dict[int, int]:
    """Return how often each effect of a file exists."""
    counted = dict(database.query("SELECT statement, count(*) FROM effects WHERE migration = %s GROUP BY 1", file.name))
    return {number: counted.get(number, 0) for number in file.effects}
