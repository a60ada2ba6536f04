"""After a signal, the server is clean, the summary line is written, and the exit code is 128 plus the signal number."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from predeploy.lock.key import LOCK_KEY
from tests.support.database import fresh_database
from tests.support.eventually import eventually
from tests.support.program import ENTRYPOINT
from tests.support.proxy import Proxy, free_port, silent_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.pgbouncer import PgBouncer
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Process, Program, Run

WITHIN_S = 2.0 + 3.0  # the documented limit, and a margin for a busy machine
NEEDS_SESSION = pytest.mark.session("a no-transaction migration")
UNCONFIRMED = "did not confirm"
MAY_RUN = "statements already sent may still take effect"
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP]

# The first catches one cancel, the second catches every cancel.
CATCHES_ONE = "DO $$BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(60); END$$"
CATCHES_ALL = "DO $$BEGIN LOOP BEGIN {}; EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END$$"

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


@pytest.mark.parametrize("signum", SIGNALS)
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


@contextmanager
def ignored(signum: signal.Signals) -> Iterator[None]:
    """Start processes with the signal ignored, as under nohup or after `trap '' INT`."""
    before = signal.signal(signum, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signum, before)


@pytest.mark.parametrize("signum", SIGNALS)
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, signum: signal.Signals
) -> None:
    database.execute("CREATE TABLE gate ()")
    migrations_dir.write("001.sql", "SELECT FROM gate")
    with database.connect(autocommit=False) as keeper:
        keeper.execute("LOCK TABLE gate")
        with ignored(signum):
            process = start()
        eventually(lambda: database.query(WAITERS))
        process.signal(signum)
        time.sleep(0.3)
        assert database.query(WAITERS)
    run = process.finish()
    assert (run.exit_code, run.report["applied"]) == (0, 1)


@pytest.mark.parametrize("signum", SIGNALS)
def test_as_the_first_process_of_a_container(
    database: Database, migrations_dir: MigrationsDir, tmp_path: Path, signum: signal.Signals
) -> None:
    """The kernel drops a signal to PID 1 if PID 1 has no handler for it."""
    unshare = ["unshare", *(["--user"] if os.geteuid() else []), "--pid", "--fork", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a PID namespace needs unshare and the permission to use it")
    migrations_dir.write("001.sql", "SELECT pg_sleep(60)")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "DATABASE_URL": database.dsn}
    environ["MIGRATIONS_DIR"] = str(migrations_dir)
    command = [*unshare, sys.executable, str(ENTRYPOINT)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        eventually(lambda: database.query(SLEEPERS))
        (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        sent = time.monotonic()
        os.kill(int(child), signum)
        stdout, _ = process.communicate(timeout=60)
        assert time.monotonic() - sent < WITHIN_S
    report = json.loads(stdout.splitlines()[-1])
    assert (process.returncode, report["exit_code"]) == (128 + signum, 128 + signum)
    assert_clean(database)


def test_a_migration_that_catches_a_cancel_is_cancelled_again(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", CATCHES_ONE)
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    run = ended(process, signal.SIGTERM)
    assert_clean(database)
    assert run.report["message"] == "Interrupted by SIGTERM while applying 001.sql; it was rolled back"
    assert run.named("session.terminated") == []


NO_TRANSACTION = "-- migrate:no-transaction\n"


@pytest.mark.parametrize("prefix", ["", pytest.param(NO_TRANSACTION, marks=NEEDS_SESSION)])
def test_a_migration_that_catches_every_cancel_is_terminated(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, prefix: str
) -> None:
    migrations_dir.write("001.sql", prefix + CATCHES_ALL.format("PERFORM pg_sleep(60)"))
    process = start()
    eventually(lambda: database.query(SLEEPERS))
    run = ended(process, signal.SIGTERM)
    assert_clean(database)
    (terminated,) = run.named("session.terminated")
    assert (terminated["migration"], terminated["wait_event"]) == ("001.sql", "PgSleep")
    assert MAY_RUN not in run.report["message"]
    assert "may still" not in run.report["message"]
    assert database.query("SELECT name FROM _migrations") == []


def test_a_rehearsed_migration_that_catches_every_cancel_is_terminated(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", CATCHES_ALL.format("PERFORM pg_sleep(60)"))
    process = start("plan", "--rehearse")
    eventually(lambda: database.query(SLEEPERS))
    run = ended(process, signal.SIGTERM)
    assert_clean(database)
    assert len(run.named("session.terminated")) == 1


UNSENT = """
from predeploy.connection import query_message
def wait(conn, generator, waited=query_message._wait):
    if conn.pgconn.flush():
        late()
    return waited(conn, generator)
query_message._wait = wait
"""


def test_an_incomplete_message_does_not_run(database: Database, migrations_dir: MigrationsDir, tmp_path: Path) -> None:
    migrations_dir.write("001.sql", f"CREATE TABLE never AS SELECT length('{'x' * 40_000_000}')")
    events = signalled(UNSENT, tmp_path, DATABASE_URL=database.dsn, MIGRATIONS_DIR=str(migrations_dir))
    assert_clean(database)
    assert events[-1]["message"] == "Interrupted by SIGTERM while applying 001.sql; it was rolled back"
    assert database.query("SELECT to_regclass('never')") == [(None,)]


BLOCKED = {
    "it catches every cancel": {"001": CATCHES_ALL.format("LOCK TABLE busy")},
    "another migration follows in the message": {"001": "LOCK TABLE busy", "002": "CREATE TABLE never ()"},
}


@pytest.mark.parametrize("why", BLOCKED)
def test_the_log_names_the_session_that_blocks_a_terminated_migration(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, why: str
) -> None:
    database.execute("CREATE TABLE busy ()")
    for name, text in BLOCKED[why].items():
        migrations_dir.write(f"{name}.sql", text)
    with database.connect(autocommit=False, application_name="reader") as reader:
        reader.execute("SELECT FROM busy")
        process = start()
        eventually(lambda: database.query(WAITERS))
        run = ended(process, signal.SIGTERM)
        eventually(lambda: not database.query(WAITERS))
        assert database.query(LOCKED) == [(True,)]
        (terminated,) = run.named("session.terminated")
        assert terminated["level"] == "warning"
        assert (
            f"001.sql: waiting for AccessExclusiveLock on busy, blocked by reader (pid {reader.info.backend_pid}, "
            in terminated["message"]
        )
    assert_clean(database)
    assert run.report["message"] == "Interrupted by SIGTERM while applying 001.sql; it was rolled back"
    assert database.query("SELECT to_regclass('never')") == [(None,)]


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


@NEEDS_SESSION
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


@pytest.mark.parametrize("following", [{}, {"002": "CREATE TABLE never ()"}], ids=["one", "several"])
def test_a_frozen_session_does_not_delay_the_exit(
    start: Callable[..., Process], database: Database, migrations_dir: MigrationsDir, following: dict[str, str]
) -> None:
    for name, text in {"001": "SELECT pg_sleep(60)", **following}.items():
        migrations_dir.write(f"{name}.sql", text)
    process = start()
    [(backend,)] = eventually(lambda: database.query(SLEEPERS))
    os.kill(backend, signal.SIGSTOP)
    try:
        sent = time.monotonic()
        process.terminate()
        time.sleep(0.5)  # until the run is ending, which a second signal must not interrupt
        process.signal(signal.SIGINT)
        run = process.finish()
        assert time.monotonic() - sent < WITHIN_S
        assert (run.exit_code, run.report["exit_code"]) == (143, 143)
        assert UNCONFIRMED in run.report["message"], "the report must mention that the migration may still commit"
        assert MAY_RUN in run.report["message"]
    finally:
        os.kill(backend, signal.SIGCONT)
    assert_clean(database)
    assert database.query("SELECT to_regclass('never')") == [(None,)]


@pytest.mark.parametrize(
    ("prefix", "fate"),
    [("", MAY_RUN), pytest.param(NO_TRANSACTION, "and the last one may still be running", marks=NEEDS_SESSION)],
    ids=["transaction", "no transaction"],
)
def test_a_frozen_server_does_not_delay_the_exit(
    private_server: PostgresServer, program: Program, migrations_dir: MigrationsDir, prefix: str, fate: str
) -> None:
    migrations_dir.write("001.sql", f"{prefix}SELECT pg_sleep(60)")
    with fresh_database(private_server) as database:
        process = program.start(DATABASE_URL=database.dsn)
        [(backend,)] = eventually(lambda: database.query(SLEEPERS))
        stopped = [pid for pid in (private_server.pid, backend) if pid]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            sent = time.monotonic()
            process.terminate()
            run = process.finish()
            assert time.monotonic() - sent < WITHIN_S
            assert run.exit_code == 143
            assert fate in run.report["message"]
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


def test_the_session_of_a_silent_connection_is_terminated_over_another_one(
    program: Program, database: Database, migrations_dir: MigrationsDir
) -> None:
    """The cancel takes effect, but the server's response does not arrive."""
    migrations_dir.write("001.sql", "SELECT pg_sleep(60), 'silence'")
    with Proxy(database.port) as proxy:
        proxy.silent_after = b"canceling"
        process = program.start(DATABASE_URL=database.dsn_at(proxy.port))
        eventually(lambda: database.query(SLEEPERS))
        run = ended(process, signal.SIGTERM)
        assert_clean(database)
    assert run.report["message"] == "Interrupted by SIGTERM while applying 001.sql; it was rolled back"


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


@contextmanager
def no_standby(server: PostgresServer) -> Iterator[Database]:
    """Yield a database on a server whose commits wait for a synchronous standby that does not exist."""
    with fresh_database(server) as database:
        database.execute("CREATE TABLE _migrations (name text PRIMARY KEY, applied_at timestamptz, checksum text)")
        database.admin_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        database.admin_query("SELECT pg_reload_conf()")
        eventually(lambda: database.admin_query("SHOW synchronous_standby_names") == [("nobody",)])
        try:
            yield database
        finally:
            database.admin_execute("ALTER SYSTEM RESET synchronous_standby_names")
            database.admin_query("SELECT pg_reload_conf()")


@pytest.mark.parametrize("through", ["direct", "transaction"])
@pytest.mark.parametrize("names", [("001",), ("001", "002", "003")], ids=["one", "several"])
def test_a_commit_that_takes_effect_despite_the_signal_is_reported_as_applied(
    private_server: PostgresServer,
    start_pgbouncer: Callable[..., PgBouncer],
    program: Program,
    migrations_dir: MigrationsDir,
    names: tuple[str, ...],
    through: str,
) -> None:
    """Ending the wait of a COMMIT for a standby does not undo the COMMIT, and the later migrations do not begin."""
    for name in names:
        migrations_dir.write(f"{name}.sql", f"CREATE TABLE t{name} ()")
    with no_standby(private_server) as database:
        dsn = database.dsn
        if through == "transaction":
            dsn = database.dsn_at(start_pgbouncer(private_server).port)
        process = program.start(DATABASE_URL=dsn)
        eventually(lambda: database.query("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
        run = ended(process, signal.SIGTERM)
        kept = {"idle"} if through == "transaction" else set()
        assert {state for _, state in database.admin_query(OTHERS)} <= kept
        assert database.query(LOCKED) == [(True,)]
        time.sleep(0.3)
        assert database.query("SELECT name FROM _migrations") == [("001.sql",)]
        tables = "SELECT relname FROM pg_class WHERE relname LIKE 't00_'"
        assert database.query(tables) == [("t001",)]
    assert run.report["message"] == "Interrupted by SIGTERM while applying 001.sql; it was committed"
    assert run.report["applied"] == 1
    assert [event["migration"] for event in run.named("migration.applied")] == ["001.sql"]
    expected = ["waiting for a synchronous standby to confirm the commit"] if len(names) > 1 else []
    assert [event["message"].rpartition(": ")[2] for event in run.named("session.terminated")] == expected


@pytest.mark.parametrize("names", [("001",), ("001", "002")], ids=["one", "several"])
def test_behind_a_transaction_mode_pooler_the_session_is_found_and_terminated(
    program: Program, database: Database, migrations_dir: MigrationsDir, pgbouncer: PgBouncer, names: tuple[str, ...]
) -> None:
    for name in names:
        migrations_dir.write(f"{name}.sql", CATCHES_ALL.format("PERFORM pg_sleep(60)"))
    process = program.start(DATABASE_URL=database.dsn_at(pgbouncer.port))
    eventually(lambda: database.query(SLEEPERS))
    run = ended(process, signal.SIGTERM)
    eventually(lambda: {state for _, state in database.admin_query(OTHERS)} <= {"idle"})
    assert database.query(LOCKED) == [(True,)]
    assert [event["migration"] for event in run.named("session.terminated")] == ["001.sql"]
    assert run.report["message"] == "Interrupted by SIGTERM while applying 001.sql; it was rolled back"
