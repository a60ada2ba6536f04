"""Waiting for a server that is not reachable or not ready: how long, how often, and for which reasons."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from predeploy.connection.connect import wait_for_postgres
from predeploy.connection.dsn import parse_dsn
from predeploy.errors import PostgresRefused, PostgresUnavailable, StorageError
from tests.support.database import fresh_database
from tests.support.proxy import Proxy, free_port, silent_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.postgres_server import PostgresServer
    from tests.support.program import Run

# Start-up of the program, a margin for a busy machine, and the minimum time for a login.
MARGIN_S = 5
FAST_PATH = 1  # the login of the fast path, which does not log temporary failures


@pytest.fixture
def proxy(server: PostgresServer) -> Iterator[Proxy]:
    with Proxy(server.port) as running:
        yield running


def waited(run: Callable[..., Run], dsn: str, wait_s: float, **variables: str) -> Run:
    """Run against a server that never becomes ready; check that the wait ends in time."""
    started = time.monotonic()
    ended = run(DATABASE_URL=dsn, MIGRATE_WAIT_TIMEOUT=f"{wait_s}", **variables)
    elapsed = time.monotonic() - started
    assert ended.exit_code == 3
    assert wait_s <= elapsed < wait_s + MARGIN_S
    return ended


def test_the_run_connects_to_a_server_that_starts_late(
    private_server: PostgresServer, run: Callable[..., Run], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with fresh_database(private_server) as database:
        private_server.stop()
        late = threading.Timer(1.5, private_server.start)
        late.start()
        ended = run(DATABASE_URL=database.dsn, MIGRATE_WAIT_TIMEOUT="30")
        late.join()
        assert (ended.exit_code, ended.report["applied"]) == (0, 1)
        (ready,) = ended.named("postgres.ready")
        assert ready["attempt"] > 1
        assert ready["wait_s"] >= 0.5
        assert {waiting["reason"] for waiting in ended.named("postgres.waiting")} <= {"refused", "starting_up"}


def test_a_refused_connection_is_retried_for_the_whole_wait_and_rarely_logged(
    run: Callable[..., Run], database: Database
) -> None:
    ended = waited(run, database.dsn_at(free_port()), 3)
    (waiting,) = ended.named("postgres.waiting")
    assert (waiting["reason"], waiting["attempt"], waiting["timeout_s"]) == ("refused", 1, 3.0)
    assert waiting["wait_s"] + waiting["left_s"] == pytest.approx(3, abs=0.11)
    assert "Could not connect to Postgres within 3 s" in ended.report["message"]


@pytest.mark.parametrize("wait_s", [0.4, 0.9])
def test_the_last_attempt_is_at_the_end_of_the_wait(server: PostgresServer, database: Database, wait_s: float) -> None:
    with Proxy(server.port) as proxy:
        proxy.refusals = [("57P03", "the database system is starting up")] * 1000
        ready = threading.Timer(0.6 * wait_s, proxy.refusals.clear)
        ready.start()
        wait_for_postgres(parse_dsn(database.dsn_at(proxy.port)), timeout=wait_s).close()
        ready.join()


def test_attempts_become_less_frequent(server: PostgresServer, database: Database) -> None:
    with Proxy(server.port) as proxy:
        proxy.refusals = [("57P03", "the database system is starting up")] * 1000
        with pytest.raises(PostgresUnavailable, match="starting up"):
            wait_for_postgres(parse_dsn(database.dsn_at(proxy.port)), timeout=2)
        assert 3 <= proxy.logins <= 20


def test_no_pause_exceeds_the_wait(server: PostgresServer, database: Database) -> None:
    with (
        Proxy(server.port) as proxy,
        ThreadPoolExecutor(12) as waiters,
    ):  # pauses are random, so many waits run in parallel
        proxy.refusals = [("57P03", "the database system is starting up")] * 1000
        dsn = database.dsn_at(proxy.port)

        def elapsed(timeout: float) -> float:
            started = time.monotonic()
            with pytest.raises(PostgresUnavailable, match="Could not connect to Postgres within"):
                wait_for_postgres(parse_dsn(dsn), timeout=timeout)
            return time.monotonic() - started

        assert all(2 <= waited < 2.6 for waited in waiters.map(elapsed, [2] * 12))


@pytest.mark.parametrize("full", [False, True])
def test_the_wait_for_a_port_that_never_answers_ends_on_time(
    run: Callable[..., Run], database: Database, full: bool
) -> None:
    with silent_port(full=full) as port:
        ended = waited(run, database.dsn_at(port), 2)
    assert [waiting["reason"] for waiting in ended.named("postgres.waiting")] == ["timeout"]


@pytest.mark.parametrize("wait_s", [0, 0.5])
def test_the_last_attempt_exceeds_the_wait_by_less_than_a_second(wait_s: float) -> None:
    started = time.monotonic()
    with silent_port() as port, pytest.raises(PostgresUnavailable, match="no response"):
        wait_for_postgres(parse_dsn(f"postgresql://someone:hunter2@127.0.0.1:{port}/app"), timeout=wait_s)
    assert time.monotonic() - started < wait_s + 1


def test_a_last_attempt_without_an_answer_does_not_hide_the_earlier_reason(
    server: PostgresServer, database: Database
) -> None:
    # The proxy ends before the database is dropped, because dropping waits for sessions that are logging in.
    with Proxy(server.port) as proxy, pytest.raises(PostgresUnavailable, match="starting up") as caught:
        proxy.refusals = [("57P03", "the database system is starting up")]
        proxy.silent_after = b"SCRAM-SHA-256"
        wait_for_postgres(parse_dsn(database.dsn_at(proxy.port)), timeout=0.5)
    assert caught.value.reason == "starting_up"


def test_a_server_that_falls_silent_after_the_login_ends_the_wait_in_time(
    run: Callable[..., Run], proxy: Proxy, database: Database, migrations_dir: MigrationsDir
) -> None:
    """A pooler does not report read-only mode at login, so the program queries it; here it never answers."""
    migrations_dir.write("001.sql", "SELECT 1")
    proxy.hide = [b"in_hot_standby", b"default_transaction_read_only"]
    proxy.silent_after = b"SHOW transaction_read_only"
    ended = waited(run, database.dsn_at(proxy.port), 2)
    assert [waiting["reason"] for waiting in ended.named("postgres.waiting")] == ["timeout"]


def test_a_pooler_that_does_not_report_read_only_mode_is_queried(
    run: Callable[..., Run], proxy: Proxy, database: Database, migrations_dir: MigrationsDir
) -> None:
    proxy.hide = [b"in_hot_standby", b"default_transaction_read_only"]
    migrations_dir.write("001.sql", "SELECT 1")
    assert run(DATABASE_URL=database.dsn_at(proxy.port)).exit_code == 0
    migrations_dir.write("002.sql", "SELECT 1")
    database.admin_execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    ended = waited(run, database.dsn_at(proxy.port), 0.5)
    assert [waiting["reason"] for waiting in ended.named("postgres.waiting")] == ["read_only"]


def test_a_query_that_is_cut_off_right_after_the_login_is_repeated(
    run: Callable[..., Run], proxy: Proxy, database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "SELECT 1")
    proxy.hide = [b"in_hot_standby", b"default_transaction_read_only"]
    proxy.cut_before = [b"\x00\x01transaction_read_only"]  # the answer's only column
    ended = run(DATABASE_URL=database.dsn_at(proxy.port))
    assert (ended.exit_code, proxy.cut_before) == (0, [])
    assert [waiting["reason"] for waiting in ended.named("postgres.waiting")] == ["closed"]


def test_a_host_name_that_cannot_be_resolved_is_waited_for(run: Callable[..., Run]) -> None:
    host = ".".join(["x" * 60] * 5)  # longer than DNS allows, so that no name server is queried
    ended = waited(run, f"postgresql://someone:hunter2@{host}:5432/app", 0.5)
    assert [waiting["reason"] for waiting in ended.named("postgres.waiting")] == ["dns"]


def test_an_invalid_host_name_is_a_configuration_error(run: Callable[..., Run]) -> None:
    ended = run(DATABASE_URL="postgresql://someone:hunter2@db..internal:5432/app")
    assert (ended.exit_code, ended.report["code"]) == (2, "STORAGE_DB_URL_INVALID")


def test_only_a_run_with_something_to_write_waits_for_a_read_only_server(
    run: Callable[..., Run], database: Database, migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    assert run().exit_code == 0
    database.admin_execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on")
    for wait_s in ("5", "0"):  # with and without the fast path
        complete = run(MIGRATE_WAIT_TIMEOUT=wait_s)
        assert (complete.exit_code, complete.report["skipped"]) == (0, 1)
    migrations_dir.write("002.sql", "CREATE TABLE u ()")
    ended = waited(run, database.dsn, 0.5)
    assert [waiting["reason"] for waiting in ended.named("postgres.waiting")] == ["read_only"]
    assert run("check", DATABASE_URL=database.dsn).exit_code == 10, "check must not require a writable server"


@pytest.mark.direct("a pooler responds to a login only after it has queried the server again")
def test_a_database_closed_for_connections_is_waited_for(run: Callable[..., Run], database: Database) -> None:
    with database.server_connect() as admin:
        admin.execute(f"ALTER DATABASE {database.name} ALLOW_CONNECTIONS false")
    ended = waited(run, database.dsn, 0.5)
    assert [waiting["reason"] for waiting in ended.named("postgres.waiting")] == ["not_accepting"]


PASSING = [
    ("57P03", "the database system is starting up", "starting_up"),
    ("53300", "sorry, too many clients already", "too_many_clients"),
    ("08P01", "no more connections allowed (max_client_conn)", "too_many_clients"),
    ("XX000", "the cluster is being moved", "unknown"),
]
IN_GERMAN = [
    ("57P03", "das Datenbanksystem startet", PostgresUnavailable, "not_accepting"),
    ("XX000", "das ist ein Programmfehler", PostgresUnavailable, "unknown"),
    (
        "28P01",
        "Passwort-Authentifizierung für Benutzer »SSL required« fehlgeschlagen",
        PostgresRefused,
        "authentication",
    ),
    ("3D000", "Datenbank »recovery« existiert nicht", PostgresRefused, "unknown_database"),
]


@pytest.mark.parametrize(("sqlstate", "text", "reason"), PASSING)
def test_the_reason_of_a_retryable_failure_is_a_word(
    proxy: Proxy, database: Database, sqlstate: str, text: str, reason: str
) -> None:
    proxy.refusals = [(sqlstate, text)]
    with pytest.raises(PostgresUnavailable) as caught:
        wait_for_postgres(parse_dsn(database.dsn_at(proxy.port)), timeout=0)
    assert caught.value.reason == reason


def test_temporary_failures_are_waited_for(run: Callable[..., Run], proxy: Proxy, database: Database) -> None:
    proxy.refusals = [("57P03", "the database system is starting up")] * (FAST_PATH + 3)
    ended = run(DATABASE_URL=database.dsn_at(proxy.port), MIGRATE_WAIT_TIMEOUT="30")
    assert ended.exit_code == 0
    assert len(ended.named("postgres.waiting")) == 1
    assert (proxy.logins, ended.named("postgres.ready")[0]["attempt"]) == (FAST_PATH + 4, 4)


@pytest.mark.parametrize(("sqlstate", "text", "kind", "reason"), IN_GERMAN)
def test_the_sqlstate_decides_in_other_languages(
    proxy: Proxy, database: Database, sqlstate: str, text: str, kind: type[StorageError], reason: str
) -> None:
    proxy.refusals = [(sqlstate, text)] * 4
    with pytest.raises(kind) as caught:
        wait_for_postgres(parse_dsn(database.dsn_at(proxy.port)), timeout=0)
    assert (type(caught.value), getattr(caught.value, "reason", "")) == (kind, reason)
    assert proxy.logins == 1


def test_with_another_libpq_an_error_in_an_unknown_language_is_treated_as_temporary(
    proxy: Proxy, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the functions of the wheel's libpq are called through ctypes."""
    dsn = parse_dsn(database.dsn_at(proxy.port))
    monkeypatch.setattr("predeploy.connection.libpq.load", lambda: None)
    proxy.refusals = [("28P01", "Passwort-Authentifizierung fehlgeschlagen")]
    with pytest.raises(PostgresUnavailable) as caught:
        wait_for_postgres(dsn, timeout=0)
    assert (caught.value.reason, proxy.logins) == ("unknown", 1)


PERMANENT = [
    ("28P01", 'password authentication failed for user "someone"', "authentication"),
    ("28000", 'role "someone" does not exist', "role"),
    ("3D000", 'database "too many clients" does not exist', "unknown_database"),
    ("08P01", "unsupported startup parameter: options", "startup_parameter"),
]


@pytest.mark.parametrize(("sqlstate", "text", "reason"), PERMANENT)
def test_permanent_failures_end_the_wait_at_once(
    proxy: Proxy, database: Database, sqlstate: str, text: str, reason: str
) -> None:
    proxy.refusals = [(sqlstate, text)] * 3
    with pytest.raises(PostgresRefused) as caught:
        wait_for_postgres(parse_dsn(database.dsn_at(proxy.port)), timeout=60)
    assert (caught.value.reason, proxy.logins) == (reason, 1)


def test_a_change_of_reason_is_logged_at_once(run: Callable[..., Run], proxy: Proxy, database: Database) -> None:
    proxy.refusals = [
        *[("57P03", "the database system is starting up")] * (FAST_PATH + 2),
        *[("53300", "sorry, too many clients already")] * 2,
    ]
    ended = run(DATABASE_URL=database.dsn_at(proxy.port), MIGRATE_WAIT_TIMEOUT="30")
    reasons = [(waiting["attempt"], waiting["reason"]) for waiting in ended.named("postgres.waiting")]
    assert reasons == [(1, "starting_up"), (3, "too_many_clients")]
    assert ended.exit_code == 0


def test_tenacity_is_used_for_retries_but_not_loaded_otherwise(
    run: Callable[..., Run], proxy: Proxy, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "tenacity.py").write_text("raise RuntimeError('tenacity was asked for')")
    healthy = run(DATABASE_URL=database.dsn_at(proxy.port), PYTHONPATH=str(tmp_path))
    assert healthy.exit_code == 0
    proxy.refusals = [("57P03", "the database system is starting up")] * (FAST_PATH + 1)
    late = run(DATABASE_URL=database.dsn_at(proxy.port), PYTHONPATH=str(tmp_path))
    assert late.exit_code == 70
    assert "tenacity was asked for" in late.report["message"]
