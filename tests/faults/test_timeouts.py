"""No wait exceeds its limit if the peer falls silent or disconnects at any of the first turns, or if DNS is silent."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from predeploy.connection.connect import MIN_LOGIN_S
from predeploy.monitor.watcher import CHECK_AFTER_S, GIVE_UP_AFTER_S
from tests.support.database import fresh_database
from tests.support.failing_proxy import FailingProxy, Failure
from tests.support.namespaces import entrypoint_with_names
from tests.support.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Process, Run

LOGIN_TURNS = 8  # requests and answers before the first query: TLS, start-up, and two for SCRAM
FAST_PATH_TURNS = LOGIN_TURNS + 3  # one query, its answer, and the end of the session
TURNS = range(1, FAST_PATH_TURNS + 21)
WAIT_S = 2.0
LOGIN_BOUND_S = WAIT_S + MIN_LOGIN_S
WATCHER_LOGIN_S = 3.0 + 0.5  # the login timeout after the silence, and the polling interval
BOUNDS = {
    "silent": CHECK_AFTER_S + GIVE_UP_AFTER_S + WATCHER_LOGIN_S + LOGIN_BOUND_S,
    "cut": LOGIN_BOUND_S,
}
MARGIN_S = 1.0
SIGNAL_BOUND_S = 2.0


@contextmanager
def failing(
    database: Database, program: Program, turn: int, failure: Failure, wait_s: float
) -> Iterator[tuple[FailingProxy, Process]]:
    """Start a process with its own proxy, and continue when the proxy has failed."""
    with FailingProxy(database.server.port, turn, failure) as proxy:
        # Disable Kerberos encryption, because only some machines request it first.
        dsn = f"{database.dsn_at(proxy.port)}?gssencmode=disable"
        process = program.start(DATABASE_URL=dsn, MIGRATE_WAIT_TIMEOUT=str(wait_s))
        assert proxy.failed.wait(30), f"turn {turn} never came"
        yield proxy, process


@pytest.fixture
def many_files(migrations_dir: MigrationsDir) -> None:
    """Write files for more turns than the tests check."""
    for number in range(12):  # one message each, because files that share a message add no turns
        migrations_dir.write(f"{number:03}.sql", f"-- migrate:no-transaction\nCREATE TABLE t{number} ()")


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("failure", ["silent", "cut"])
def test_a_connection_that_fails_permanently_ends_the_run_within_its_limit(
    server: PostgresServer, program: Program, failure: Failure, record_property: Callable[[str, object], None]
) -> None:
    """The processes start one after the other, so that none waits for a processor, and then wait in parallel."""

    def ended(proxy: FailingProxy, process: Process) -> tuple[Run, float]:
        run = process.finish()
        return run, time.monotonic() - proxy.failed_at

    # The proxies end before any database is dropped, because dropping waits for sessions that are logging in.
    with ExitStack() as databases, ExitStack() as proxies, ThreadPoolExecutor(len(TURNS)) as waiters:
        results = []
        for turn in TURNS:
            database = databases.enter_context(fresh_database(server))
            proxy, process = proxies.enter_context(failing(database, program, turn, failure, WAIT_S))
            results.append((turn, waiters.submit(ended, proxy, process)))
        for turn, result in results:
            run, elapsed = result.result()
            in_login = turn <= FAST_PATH_TURNS + LOGIN_TURNS
            bound = LOGIN_BOUND_S if in_login else BOUNDS[failure]
            record_property(f"{failure} at turn {turn}", f"{elapsed:.2f} s of {bound:.2f}, exit code {run.exit_code}")
            assert run.exit_code == run.report["exit_code"] == (3 if in_login else 6), f"turn {turn}: {run.stdout}"
            assert elapsed < bound + MARGIN_S, f"turn {turn}: {run.stdout}"


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("turn", TURNS)
def test_sigterm_ends_a_run_whose_connection_is_silent(
    database: Database, program: Program, turn: int, record_property: Callable[[str, object], None]
) -> None:
    with failing(database, program, turn, "silent", 60) as (_, process):
        sent = time.monotonic()
        process.terminate()
        run = process.finish()
        elapsed = time.monotonic() - sent
    record_property(f"SIGTERM at turn {turn}", f"{elapsed:.2f} s of {SIGNAL_BOUND_S}")
    assert run.exit_code == run.report["exit_code"] == 143
    assert elapsed < SIGNAL_BOUND_S


@pytest.fixture
def without_dns(migrations_dir: MigrationsDir, tmp_path: Path) -> Iterator[Program]:
    """The program with a name server that accepts every query and answers none."""
    defaults = {
        "DATABASE_URL": "postgresql://someone:hunter2@db.internal/app",
        "MIGRATIONS_DIR": str(migrations_dir),
    }
    entrypoint, _ = entrypoint_with_names(tmp_path, deaf=True)
    program = Program(defaults, tmp_path / "processes", (), entrypoint)
    yield program
    program.close()


def test_the_run_ends_in_time_if_dns_never_answers(without_dns: Program) -> None:
    run = without_dns.run(MIGRATE_WAIT_TIMEOUT=str(WAIT_S))
    assert run.exit_code == 3
    assert [waiting["reason"] for waiting in run.named("postgres.waiting")] == ["timeout"]
    assert WAIT_S <= run.report["duration_ms"] / 1000 < LOGIN_BOUND_S + MARGIN_S


def test_sigterm_ends_a_run_that_waits_for_dns(without_dns: Program) -> None:
    process = without_dns.start()
    process.wait_for("run.started")
    time.sleep(0.5)  # until the DNS query is sent
    sent = time.monotonic()
    process.terminate()
    run = process.finish()
    assert time.monotonic() - sent < SIGNAL_BOUND_S
    assert (run.exit_code, run.report["exit_code"]) == (143, 143)


def test_a_stopped_server_ends_the_wait_in_time_and_a_signal_sooner(
    private_server: PostgresServer, program: Program
) -> None:
    assert private_server.pid
    with fresh_database(private_server) as database:
        os.kill(private_server.pid, signal.SIGSTOP)
        try:
            run = program.run(DATABASE_URL=database.dsn, MIGRATE_WAIT_TIMEOUT=str(WAIT_S))
            assert run.exit_code == 3
            assert WAIT_S <= run.report["duration_ms"] / 1000 < LOGIN_BOUND_S + MARGIN_S
            process = program.start(DATABASE_URL=database.dsn)
            process.wait_for("run.started")
            time.sleep(0.5)  # until the login has started
            sent = time.monotonic()
            process.terminate()
            assert process.finish().exit_code == 143
            assert time.monotonic() - sent < SIGNAL_BOUND_S
        finally:
            os.kill(private_server.pid, signal.SIGCONT)
