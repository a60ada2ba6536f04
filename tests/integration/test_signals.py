"""After a signal, the server is clean, the summary line is written, and the exit code is 128 plus the signal number."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.lock.key import LOCK_KEY
from tests.support.database import fresh_database
from tests.support.eventually import eventually
from tests.support.program import ENTRYPOINT
from tests.support.proxy import free_port, silent_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Process, Program, Run

WITHIN_S = 2.0 + 3.0  # the documented limit, and a margin for a busy machine
UNCONFIRMED = "did not confirm"

SLEEPERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
WAITERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
OTHERS = "SELECT pid, state FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
LOCKED = f"SELECT pg_try_advisory_lock({LOCK_KEY})"


def ended(process: Process, signum: signal.Signals, within: float = WITHIN_S) -> Run:
    """Send the signal, check that all outputs report it, and return the run."""
    sent = time.monotonic()
    process.signal(signum)
    run = process.finish()
    assert time.monotonic() - sent < within
    assert (run.exit_code, run.report["exit_code"], run.report["outcome"]) == (
        128 + signum,
        128 + signum,
        "interrupted",
    )
    assert signum.name in run.report["message"]
    assert UNCONFIRMED not in run.report["message"]
    return run


def assert_clean(database: Database) -> None:
    """Assert that only an idle pooler session may be left on the server, with no lock and no transaction."""
    kept = {"idle"} if database.is_pooled else set()
    eventually(lambda: {state for _, state in database.admin_query(OTHERS)} <= kept)
    eventually(lambda: database.query(LOCKED) == [(True,)], 5 if database.is_pooled else 0)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_during_a_migration(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, signum: signal.Signals
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE kept ()")
    migrations_dir.write("002.sql", "CREATE TABLE gone (); SELECT pg_sleep(60)")
    migrations_dir.write("003.sql", "CREATE TABLE never ()")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    run = ended(process, signum)
    assert_clean(database)
    assert database.query("SELECT to_regclass('kept') IS NULL, to_regclass('gone'), to_regclass('never')") == [
        (False, None, None)
    ]
    assert database.query("SELECT name FROM _migrations") == [("001.sql",)]
    assert (run.report["applied"], run.report["failed"]) == (1, 0)
    assert (run.report["migration"], run.report["message"]) == (
        "002.sql",
        f"Interrupted by {signum.name} while applying 002.sql; it was rolled back",
    )


def test_while_a_migration_waits_for_a_lock(
    start: Callable[..., Process], run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    database.execute("CREATE TABLE busy ()")
    migrations_dir.write("001.sql", "ALTER TABLE busy ADD COLUMN n INT")
    with database.connect(autocommit=False) as reader:
        reader.execute("SELECT FROM busy")
        process = start()
        eventually(lambda: database.query(WAITERS))
        ended(process, signal.SIGTERM)
        eventually(lambda: not database.query(WAITERS))
        assert database.query(LOCKED) == [(True,)]
    assert run().report["applied"] == 1


def test_while_waiting_for_the_server(start: Callable[..., Process]) -> None:
    process = start(DATABASE_URL=f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/app")
    process.wait_for("postgres.waiting")
    time.sleep(0.5)  # until it pauses between attempts
    ended(process, signal.SIGTERM)


def test_while_a_login_hangs(start: Callable[..., Process]) -> None:
    with silent_port() as port:
        process = start(DATABASE_URL=f"postgresql://someone:hunter2@127.0.0.1:{port}/app")
        process.wait_for("run.started")
        time.sleep(0.3)
        ended(process, signal.SIGTERM)


def test_while_waiting_for_the_lock(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with database.connect() as holder:
        holder.execute(LOCKED)
        process = start()
        process.wait_for("lock.waiting")
        ended(process, signal.SIGTERM)
    assert_clean(database)


LATE = """
import os, signal, sys, entrypoint
def late():
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000000): pass
"""


def signalled(source: str, tmp_path: Path, **variables: str) -> list[dict[str, Any]]:
    """Run the program with a call of `late()`, which sends it SIGTERM; return its log."""
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ENTRYPOINT.parent), "HOME": str(tmp_path), **variables}
    command = [sys.executable, "-c", f"{LATE}{source}\nentrypoint.run()"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (143, "")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[-1]["event"], events[-1]["exit_code"]) == ("run.finished", 143)
    return events


@pytest.mark.parametrize("where", ["main", "_read_settings"])
def test_while_a_class_is_created(where: str, tmp_path: Path) -> None:
    """Imports create many dataclasses, and Python 3.11 replaces an exception raised there with a RuntimeError."""
    source = f"""
class Late:
    def __set_name__(self, owner, name): late()
entrypoint.{where} = lambda *_: type("Owner", (), {{"late": Late()}})
"""
    signalled(source, tmp_path)


def test_between_recording_an_applied_file_and_logging_it(
    database: Database, migrations_dir: MigrationsDir, tmp_path: Path
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    migrations_dir.write("002.sql", "SELECT pg_sleep(60)")
    source = """
from predeploy.apply import run_state
class Late(list):
    def append(self, name):
        super().append(name)
        late()
class RunState(run_state.RunState):
    def __init__(self, *args):
        super().__init__(*args)
        self.result.applied = Late()
run_state.RunState = RunState
"""
    events = signalled(source, tmp_path, DATABASE_URL=database.dsn, MIGRATIONS_DIR=str(migrations_dir))
    assert [line["migration"] for line in events if line["event"] == "migration.applied"] == ["001.sql"]
    assert events[-1]["applied"] == 1


AHEAD = {
    "a chunk": """
from predeploy.apply import loop
from predeploy.migrations import validate
loop.MAX_MESSAGE_CHARS = 0  # each migration is sent by itself
calls = iter([None, late])
validate.ChunkReader.read_ahead = lambda reader: (call := next(calls)) and call()
""",
    "a batch": """
from predeploy.apply import batch
def compose(self, executions, composed=batch.Batch.compose):
    if executions[0].migration.name == "003.sql":
        late()
    return composed(self, executions)
batch.Batch.compose = compose
""",
}


@pytest.mark.parametrize("what", AHEAD)
def test_while_the_next_message_is_prepared(
    database: Database, migrations_dir: MigrationsDir, tmp_path: Path, what: str
) -> None:
    for name, text in {"001": "SELECT 1", "002": "SELECT pg_sleep(60)", "003": "SELECT 3", "004": "SELECT 4"}.items():
        migrations_dir.write(f"{name}.sql", f"{text}; SELECT '{'x' * 62_000}'")
    events = signalled(AHEAD[what], tmp_path, DATABASE_URL=database.dsn, MIGRATIONS_DIR=str(migrations_dir))
    assert UNCONFIRMED not in events[-1]["message"]
    assert events[-1]["applied"] == len(database.query("SELECT FROM _migrations"))
    assert_clean(database)


@pytest.mark.parametrize("delay_ms", [0, 20, 75, 150])
def test_at_the_start(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, delay_ms: int
) -> None:
    """The signal is reported in full unless it arrives before Python has started: then it kills the process."""
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    process = start()
    time.sleep(delay_ms / 1000)
    sent = time.monotonic()
    process.terminate()
    run = process.finish()
    assert time.monotonic() - sent < WITHIN_S
    assert run.exit_code in {0, 143}
    if run.killed:
        assert run.stdout == ""
        return
    assert run.report["exit_code"] == run.exit_code
    assert run.report["applied"] == database.query("SELECT to_regclass('t') IS NOT NULL")[0][0]


def test_while_the_driver_is_loaded(start: Callable[..., Process], tmp_path: Path) -> None:
    """The slowest import takes half a second if there is no byte code yet."""
    (tmp_path / "psycopg.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'loading')!r}).touch()\ntime.sleep(60)"
    )
    process = start(PYTHONPATH=str(tmp_path))
    eventually((tmp_path / "loading").exists)
    ended(process, signal.SIGTERM)


def test_where_python_discards_exceptions(start: Callable[..., Process], tmp_path: Path) -> None:
    """Python does this for some microseconds at the end of each import; the test makes it longer."""
    (tmp_path / "psycopg.py").write_text(
        "import pathlib, time\n"
        "class Swallowing:\n"
        "    def __del__(self):\n"
        f"        pathlib.Path({str(tmp_path / 'loading')!r}).touch()\n"
        "        time.sleep(60)\n"
        "Swallowing()\n"
        "time.sleep(60)\n"
    )
    process = start(PYTHONPATH=str(tmp_path))
    eventually((tmp_path / "loading").exists)
    ended(process, signal.SIGTERM)


def test_a_second_signal_changes_nothing(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_sleep(60)")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    process.terminate()
    eventually(lambda: not database.query(SLEEPERS))
    if process.running:
        process.signal(signal.SIGINT)
    run = process.finish()
    assert (run.exit_code, run.report["exit_code"]) == (143, 143)
    assert_clean(database)


def test_two_signals_at_once_count_as_one(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_sleep(60)")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    os.kill(process.pid, signal.SIGSTOP)  # so that both are pending when the process continues
    process.signal(signal.SIGTERM)
    process.signal(signal.SIGINT)
    os.kill(process.pid, signal.SIGCONT)
    run = process.finish()
    assert run.exit_code in {130, 143}
    assert run.report["exit_code"] == run.exit_code
    assert len(run.named("run.finished")) == 1
    assert_clean(database)


def test_while_a_no_transaction_statement_runs(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "-- migrate:no-transaction\nCREATE TABLE kept ();\nSELECT pg_sleep(60);\n")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    run = ended(process, signal.SIGTERM)
    assert_clean(database)
    assert database.query("SELECT to_regclass('kept') IS NOT NULL") == [(True,)]
    assert database.query("SELECT name FROM _migrations") == []
    assert run.report["applied"] == 0
    assert run.report["message"].startswith(
        "Interrupted by SIGTERM while applying 001.sql without a transaction; "
        "some of its statements may have taken effect. "
    )


def test_a_frozen_server_does_not_delay_the_exit(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT pg_sleep(60)")
    process = start()
    [(backend,)] = eventually(lambda: database.query(SLEEPERS))
    os.kill(backend, signal.SIGSTOP)
    try:
        process.terminate()
        time.sleep(0.5)  # until the run is ending, which a second signal must not interrupt
        process.signal(signal.SIGINT)
        sent = time.monotonic()
        run = process.finish()
        assert time.monotonic() - sent < WITHIN_S
        assert (run.exit_code, run.report["exit_code"]) == (143, 143)
        assert UNCONFIRMED in run.report["message"], "the report must mention that the migration may still commit"
    finally:
        os.kill(backend, signal.SIGCONT)
    assert_clean(database)


def test_after_a_kill_the_next_run_waits_until_the_server_has_noticed(
    start: Callable[..., Process], run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    if int(database.query("SHOW server_version_num")[0][0]) < 140_000:
        pytest.skip("Postgres before 14 cannot detect that its client was killed")
    path = migrations_dir.write("001.sql", "CREATE TABLE t (); SELECT pg_sleep(60)")
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    process.kill()
    assert process.finish().exit_code == 137
    path.write_text("CREATE TABLE t ()")
    killed = time.monotonic()
    again = run(MIGRATE_LOCK_WAIT_TIMEOUT="30")
    assert (again.exit_code, again.report["applied"]) == (0, 1)
    assert time.monotonic() - killed < 20, "the server did not cancel the killed client's statement"


class Unread:
    """The program, with a pipe that the test controls as its stdout."""

    def __init__(self, database: Database, migrations_dir: MigrationsDir, home: Path) -> None:
        self.reader, self._writer = os.pipe()
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "DATABASE_URL": database.dsn,
            "MIGRATIONS_DIR": str(migrations_dir),
        }

    def fill(self) -> None:
        os.set_blocking(self._writer, False)
        size = fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, 4096)
        assert os.write(self._writer, b"\n" * size) == size
        os.set_blocking(self._writer, True)

    def start(self, *, closed: bool = False) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ENTRYPOINT)]
        if closed:
            command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
        try:
            return subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=self._writer, stderr=subprocess.PIPE
            )
        finally:
            os.close(self._writer)


@pytest.mark.parametrize(("sql", "exit_code"), [("CREATE TABLE t ()", 0), ("CREATE TABLE t (); SELECT 1/0", 1)])
@pytest.mark.parametrize("how", ["reader gone", "closed from the start"])
def test_a_stdout_without_a_reader_changes_nothing(
    database: Database, migrations_dir: MigrationsDir, tmp_path: Path, how: str, sql: str, exit_code: int
) -> None:
    migrations_dir.write("001.sql", sql)
    unread = Unread(database, migrations_dir, tmp_path)
    os.close(unread.reader)
    process = unread.start(closed=how != "reader gone")
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (exit_code, b"")
    assert database.query("SELECT to_regclass('t') IS NOT NULL") == [(exit_code == 0,)]


def test_a_stdout_that_is_not_read_does_not_delay_the_exit(
    database: Database, migrations_dir: MigrationsDir, tmp_path: Path
) -> None:
    unread = Unread(database, migrations_dir, tmp_path)
    unread.fill()
    process = unread.start()
    try:
        time.sleep(1)  # until it blocks on the first line
        assert process.poll() is None, "the program did not wait for its reader"
        sent = time.monotonic()
        process.terminate()
        _, stderr = process.communicate(timeout=30)
        assert (process.returncode, stderr) == (143, b"")
        assert time.monotonic() - sent < WITHIN_S
    finally:
        process.kill()
        os.close(unread.reader)


def test_a_commit_that_takes_effect_despite_the_signal_is_reported_as_applied(
    private_server: PostgresServer, program: Program, migrations_dir: MigrationsDir
) -> None:
    """Cancelling a COMMIT that waits for a standby does not undo it: the server only stops waiting."""
    migrations_dir.write("001.sql", "CREATE TABLE first ()")
    with fresh_database(private_server) as database:
        program.run(DATABASE_URL=database.dsn)
        migrations_dir.write("002.sql", "CREATE TABLE second ()")
        database.admin_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        database.admin_query("SELECT pg_reload_conf()")
        eventually(lambda: database.admin_query("SHOW synchronous_standby_names") == [("nobody",)])
        process = program.start(DATABASE_URL=database.dsn)
        eventually(lambda: database.query("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
        run = ended(process, signal.SIGTERM)
        database.admin_execute("ALTER SYSTEM RESET synchronous_standby_names")
        database.admin_query("SELECT pg_reload_conf()")
        assert database.query("SELECT name FROM _migrations ORDER BY name") == [("001.sql",), ("002.sql",)]
        assert run.report["applied"] == 1
        assert [event["migration"] for event in run.named("migration.applied")] == ["002.sql"]
