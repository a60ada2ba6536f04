"""A run with nothing to do ends without psycopg; in every other case the run starts over with psycopg.

The tests make psycopg impossible to import, so a run that needs it crashes.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import psycopg_binary
import pytest

from predeploy.apply.fast_path import MAX_S, FastPath
from predeploy.connection.dsn import parse_dsn
from predeploy.migrations.directory import read_migrations
from predeploy.migrations.migration import MigrationResult
from predeploy.sql.table_name import DEFAULT_TABLE
from tests.support.eventually import eventually
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Event, Process, Run

ROOT = Path(__file__).parents[2]
SQL = "CREATE TABLE t ()"
SIGNAL_BOUND_S = 2.0
PASSING = {"timestamp", "wait_s", "duration_ms"}  # fields that differ between two identical runs
WAITERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
OTHERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
NOT_LOADED = {
    *("psycopg", "psycopg_binary", "psycopg_pool", "tenacity", "argparse"),
    *("asyncio", "ssl", "selectors", "socket", "queue", "subprocess", "concurrent.futures", "pathlib"),
    *("decimal", "hashlib", "importlib.metadata", "email"),
    *("predeploy.connection.connect", "predeploy.connection.session", "predeploy.connection.login_errors"),
    *("predeploy.apply.migrator", "predeploy.apply.migrations_table"),
    *("rich", "predeploy.log.console", "predeploy.migrations.directives", "predeploy.migrations.source_line"),
    *("predeploy.monitor.activity", "predeploy.monitor.second_connection", "predeploy.lock.holder"),
}
MOST_MODULES = 115  # without those that the interpreter loads; two dozen of them belong to python-json-logger


@pytest.fixture
def alone(run: Callable[..., Run], no_psycopg: dict[str, str]) -> Callable[..., Run]:
    """Run the program with a psycopg that cannot be imported."""

    def run_alone(**variables: str) -> Run:
        return run(**no_psycopg, **variables)

    return run_alone


@pytest.fixture
def without_library(run: Callable[..., Run], tmp_path: Path) -> Callable[..., Run]:
    """Run the program so that it finds no libpq next to psycopg's package, although psycopg works."""
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "psycopg_binary").symlink_to(Path(psycopg_binary.__file__).parent)

    def run_without(**variables: str) -> Run:
        path = ":".join([str(tmp_path / "linked"), variables.pop("PYTHONPATH", "")]).strip(":")
        return run(PYTHONPATH=path, **variables)

    return run_without


@pytest.fixture
def applied(run: Callable[..., Run], migrations_dir: MigrationsDir) -> None:
    """A migration that has been applied."""
    migrations_dir.write("001.sql", SQL)
    assert run().report["applied"] == 1


def asked_for_psycopg(ended: Run) -> bool:
    """Return whether the run needed psycopg, and check that the fast path logged nothing."""
    if ended.exit_code == 0:
        return False
    assert [event["event"] for event in ended.events] == ["run.started", "run.crashed", "run.finished"]
    assert "psycopg was asked for" in ended.events[1]["message"]
    return True


def lasting(events: list[Event]) -> list[Event]:
    return [{key: value for key, value in event.items() if key not in PASSING} for event in events]


@pytest.mark.usefixtures("applied")
def test_a_run_with_nothing_to_do_ends_without_psycopg(alone: Callable[..., Run]) -> None:
    ended = alone()
    assert [event["event"] for event in ended.events] == ["run.started", "postgres.ready", "run.finished"]
    assert (ended.exit_code, ended.report["skipped"], ended.report["applied"]) == (0, 1, 0)
    (ready,) = ended.named("postgres.ready")
    assert ready["attempt"] == 1
    assert 0 < ready["wait_s"] < ended.report["duration_ms"] / 1000


def test_without_the_library_psycopg_gives_the_same_result_and_log(
    alone: Callable[..., Run],
    without_library: Callable[..., Run],
    run: Callable[..., Run],
    migrations_dir: MigrationsDir,
    no_psycopg: dict[str, str],
) -> None:
    for name in ("001.sql", "002.sql", "003.sql", "004.sql"):
        migrations_dir.write(name, "SELECT 1")
    assert run().report["applied"] == 4
    migrations_dir.write("002.sql", "SELECT 2")
    (migrations_dir.path / "003.sql").unlink()
    by_libpq, by_psycopg = alone(), without_library()
    assert lasting(by_libpq.events) == lasting(by_psycopg.events)
    assert [event["migration"] for event in by_libpq.named("migration.changed")] == ["002.sql"]
    assert [event["migration"] for event in by_libpq.named("migration.missing")] == ["003.sql"]
    crashed = without_library(**no_psycopg)  # as soon as it reads the connection string
    assert [event["event"] for event in crashed.events] == ["run.crashed", "run.finished"], "the library was found"


NAMES = [
    "a b.sql",
    "'quoted'.sql",
    'a"b.sql',
    "100%s.sql",
    "back\\slash.sql",
    "tab\t.sql",
    "ü.sql",
    "🐘.sql",
    "{n}.sql",
]


def test_names_may_contain_any_characters(
    run: Callable[..., Run], alone: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    for name in NAMES:
        migrations_dir.write(name, "SELECT 1")
    assert run().report["applied"] == len(NAMES)
    ended = alone()
    assert (ended.exit_code, ended.report["skipped"], len(ended.events)) == (0, len(NAMES), 3)


def test_an_ambiguous_name_is_left_to_psycopg(
    run: Callable[..., Run], alone: Callable[..., Run], migrations_dir: MigrationsDir, database: Database
) -> None:
    migrations_dir.write("001.sql", SQL)
    assert run().report["applied"] == 1
    database.execute("INSERT INTO _migrations (name, checksum) VALUES (E'002.sql\\nx\\n003.sql', 'x')")
    migrations_dir.write("002.sql", "SELECT 1")
    assert asked_for_psycopg(alone())
    assert run().report["applied"] == 1
    assert asked_for_psycopg(alone())


@pytest.mark.parametrize(
    ("checksum", "changed"),
    [("NULL", 0), ("''", 0), ("repeat('0', 64)", 1)],
    ids=["null", "empty", "another"],
)
@pytest.mark.usefixtures("applied")
def test_a_table_created_by_another_implementation_is_accepted(
    alone: Callable[..., Run], database: Database, checksum: str, changed: int
) -> None:
    database.execute(f"UPDATE _migrations SET checksum = {checksum}")
    ended = alone()
    assert (ended.exit_code, len(ended.named("migration.changed"))) == (0, changed)


@pytest.mark.usefixtures("applied")
def test_a_table_without_checksums_is_accepted(alone: Callable[..., Run], database: Database) -> None:
    database.execute("ALTER TABLE _migrations DROP COLUMN checksum")
    ended = alone()
    assert (ended.exit_code, len(ended.events)) == (0, 3)


def test_a_thousand_files_are_compared_one_by_one(
    alone: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    names = [f"{number:04}.sql" for number in range(1000)]
    for name in names:
        migrations_dir.write(name, f"SELECT '{name}'")
    database.execute(
        "CREATE TABLE _migrations (name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ DEFAULT now(), checksum TEXT)"
    )
    with database.connect() as conn, conn.cursor() as cursor:
        rows = [(name, hashlib.sha256(f"SELECT '{name}'".encode()).hexdigest()) for name in names]
        rows[500] = ("0500.sql", "another")
        cursor.executemany("INSERT INTO _migrations (name, checksum) VALUES (%s, %s)", rows)
    ended = alone()
    assert ended.report["skipped"] == 1000
    assert [event["migration"] for event in ended.named("migration.changed")] == ["0500.sql"]
    database.execute("DELETE FROM _migrations WHERE name = '0700.sql'")
    assert asked_for_psycopg(alone())


# Cases that are left to psycopg


def no_table(database: Database) -> None:
    database.execute("DROP TABLE _migrations")


def one_row_less(database: Database) -> None:
    database.execute("DELETE FROM _migrations")


def another_table(database: Database) -> None:
    database.execute("ALTER TABLE _migrations DROP COLUMN applied_at")


def no_privilege(database: Database) -> None:
    database.admin_execute("ALTER TABLE _migrations OWNER TO CURRENT_USER")


def a_notice(database: Database) -> None:
    database.execute("""
        ALTER TABLE _migrations RENAME TO kept;
        CREATE FUNCTION passed(text) RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'look'; RETURN $1; END$$;
        CREATE VIEW _migrations AS SELECT passed(name) AS name, applied_at, checksum FROM kept;
    """)


LEFT = [no_table, one_row_less, another_table, no_privilege, a_notice]


@pytest.mark.parametrize("change", LEFT, ids=lambda change: change.__name__)
@pytest.mark.direct("a backend kept by a pooler does not have the new settings")
@pytest.mark.usefixtures("applied")
def test_all_other_cases_are_left_to_psycopg_without_a_log_line(
    alone: Callable[..., Run], database: Database, change: Callable[[Database], None]
) -> None:
    change(database)
    assert asked_for_psycopg(alone())
    eventually(lambda: not database.admin_query(OTHERS))


@pytest.mark.parametrize("change", ["PASSWORD 'another'", "NOLOGIN"])
@pytest.mark.direct("a pooler answers by itself")
@pytest.mark.usefixtures("applied")
def test_a_login_that_can_never_succeed_is_attempted_once(
    alone: Callable[..., Run], proxy: Proxy, database: Database, change: str
) -> None:
    database.admin_execute(f"ALTER ROLE {database.owner} {change}")
    ended = alone(DATABASE_URL=database.dsn_at(proxy.port))
    assert (ended.exit_code, ended.report["outcome"], proxy.logins) == (5, "refused", 1)


@pytest.mark.usefixtures("applied")
def test_a_wait_of_zero_works_and_skips_the_fast_path(run: Callable[..., Run], alone: Callable[..., Run]) -> None:
    ended = run(MIGRATE_WAIT_TIMEOUT="0")
    assert (ended.exit_code, ended.report["skipped"]) == (0, 1)
    assert asked_for_psycopg(alone(MIGRATE_WAIT_TIMEOUT="0"))


@pytest.fixture
def proxy(database: Database) -> Iterator[Proxy]:
    with Proxy(database.port) as running:
        yield running


@pytest.mark.parametrize("pooler", ["pgbouncer", "session_pgbouncer"])
@pytest.mark.usefixtures("applied")
def test_the_fast_path_works_through_a_pooler_and_leaves_no_setting_behind(
    alone: Callable[..., Run], database: Database, request: pytest.FixtureRequest, pooler: str
) -> None:
    dsn = database.dsn_at(request.getfixturevalue(pooler).port)
    assert alone(DATABASE_URL=dsn).exit_code == 0
    with psycopg.connect(dsn, autocommit=True) as conn:
        assert conn.execute("SHOW statement_timeout").fetchall() == [("0",)]


@pytest.mark.parametrize("silent_after", [b"SCRAM-SHA-256", b"string_agg"], ids=["login", "question"])
@pytest.mark.direct("a pooler has already logged in and sends no queries of its own")
@pytest.mark.usefixtures("applied")
def test_an_unanswered_fast_path_counts_towards_the_wait(
    run: Callable[..., Run], proxy: Proxy, database: Database, silent_after: bytes
) -> None:
    """The fast path uses half of MIGRATE_WAIT_TIMEOUT; psycopg's unanswered login is cut off after the other half."""
    proxy.silent_after = silent_after
    ended = run(DATABASE_URL=database.dsn_at(proxy.port), MIGRATE_WAIT_TIMEOUT="2")
    if silent_after == b"string_agg":
        (ready,) = ended.named("postgres.ready")
        assert (ended.exit_code, ready["attempt"], proxy.logins) == (0, 1, 2)
        assert ready["wait_s"] >= 1
    else:
        assert (ended.exit_code, proxy.logins) == (3, 2)
        (waiting,) = ended.named("postgres.waiting")
        assert (waiting["reason"], waiting["timeout_s"], waiting["wait_s"] >= 1.9) == ("timeout", 2.0, True)
        assert 2 <= ended.report["duration_ms"] / 1000 < 3 + 1


@pytest.mark.parametrize("silent_after", [b"SCRAM-SHA-256", b"string_agg"], ids=["login", "question"])
@pytest.mark.usefixtures("applied")
def test_a_signal_ends_an_unanswered_fast_path(
    start: Callable[..., Process], proxy: Proxy, database: Database, silent_after: bytes
) -> None:
    proxy.silent_after = silent_after
    process = start(DATABASE_URL=database.dsn_at(proxy.port))
    eventually(lambda: proxy.logins == 1)
    time.sleep(0.3)  # until the server is silent
    sent = time.monotonic()
    process.terminate()
    ended = process.finish()
    assert time.monotonic() - sent < SIGNAL_BOUND_S
    assert proxy.logins == 1, "psycopg has logged in"
    assert (ended.exit_code, ended.report["exit_code"], ended.report["message"]) == (143, 143, "Interrupted by SIGTERM")


@pytest.mark.usefixtures("applied")
def test_a_fast_path_that_is_blocked_by_a_lock_leaves_no_session_waiting(
    start: Callable[..., Process], database: Database
) -> None:
    with database.connect(autocommit=False) as holder:
        holder.execute("LOCK TABLE _migrations")
        process = start()
        eventually(lambda: database.query(WAITERS))
        process.kill()
        process.finish(as_json=False)
        eventually(lambda: not database.query(WAITERS), MAX_S + 5)


@pytest.mark.parametrize("silent_after", [None, b"SCRAM-SHA-256", b"string_agg"], ids=["seen", "login", "question"])
@pytest.mark.direct("a pooler keeps its sessions")
@pytest.mark.usefixtures("applied")
def test_no_thread_or_session_outlives_the_fast_path(
    proxy: Proxy, database: Database, migrations_dir: MigrationsDir, silent_after: bytes | None
) -> None:
    proxy.silent_after = silent_after
    migrations_dir.write("001.sql", SQL)
    result = MigrationResult()
    fast_path = FastPath(parse_dsn(database.dsn_at(proxy.port)), DEFAULT_TABLE, wait_timeout=1)
    seen = fast_path.everything_is_applied(read_migrations(migrations_dir.path), (), result)
    assert (seen, result.skipped) == (True, ["001.sql"]) if silent_after is None else (False, [])
    eventually(lambda: "pg-predeploy-background" not in {thread.name for thread in threading.enumerate()})
    if seen:  # a silent proxy does not close connections either
        eventually(lambda: not database.query(OTHERS))


def loaded(environ: dict[str, str]) -> dict[str, Any]:
    source = f"""
import json, sys
before = set(sys.modules)
import entrypoint
exit_code = entrypoint.main([], {environ!r})
print(json.dumps({{"exit_code": exit_code, "modules": sorted(set(sys.modules) - before)}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, env={}, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    ended: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return ended


@pytest.mark.usefixtures("applied")
def test_a_run_with_nothing_to_do_loads_only_what_it_needs(
    database: Database, migrations_dir: MigrationsDir, tmp_path: Path
) -> None:
    environ = {
        "DATABASE_URL": database.dsn,
        "MIGRATIONS_DIR": str(migrations_dir),
        "MIGRATE_LOG_FORMAT": "json",
        "MIGRATE_TERMINATION_LOG": str(tmp_path / "message"),
    }
    ended = loaded(environ)
    assert ended["exit_code"] == 0
    assert NOT_LOADED.intersection(ended["modules"]) == set()
    assert len(ended["modules"]) <= MOST_MODULES, ended["modules"]
