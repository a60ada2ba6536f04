"""The PgBouncer that the tests use serves every database and role, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.eventually import eventually
from tests.support.pgbouncer import PgBouncerMissing, find_pgbouncer
from tests.support.program import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.database import Database
    from tests.support.pgbouncer import PgBouncer, PoolMode

# Prints the location of PgBouncer and waits to be killed.
CREATOR = """
import sys, time
from tests.support.postgres_server import PostgresServer
from tests.support.pgbouncer import PgBouncer
with PostgresServer() as server, PgBouncer(server) as pgbouncer:
    print(pgbouncer.pid, pgbouncer.directory, flush=True)
    time.sleep(60)
"""


def refuses(port: int) -> bool:
    try:
        psycopg.connect(host="127.0.0.1", port=port, user="nobody", connect_timeout=2)
    except psycopg.OperationalError as error:
        return "refused" in str(error)
    return False


def test_a_role_created_after_the_start_logs_in_with_the_servers_password(
    pgbouncer: PgBouncer, database: Database
) -> None:
    with psycopg.connect(database.dsn_at(pgbouncer.port), autocommit=True) as conn:
        assert conn.execute("SELECT current_user, current_database()").fetchone() == (database.owner, database.name)
    wrong = pgbouncer.dsn(database.name, database.owner, "wrong")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(wrong)


def test_the_backends_process_id_differs_from_the_one_sent_at_login(pgbouncer: PgBouncer, database: Database) -> None:
    with psycopg.connect(database.dsn_at(pgbouncer.port), autocommit=True) as conn:
        assert conn.execute("SELECT pg_backend_pid()").fetchone() != (conn.info.backend_pid,)


@pytest.mark.parametrize(
    ("pool_mode", "held_between_statements", "held_in_a_transaction"),
    [("session", True, True), ("transaction", False, True), ("statement", False, None)],
)
def test_the_pool_mode_determines_how_long_a_client_keeps_a_backend(
    pool_mode: PoolMode,
    held_between_statements: bool,
    held_in_a_transaction: bool | None,
    start_pgbouncer: Callable[..., PgBouncer],
    database: Database,
) -> None:
    pgbouncer = start_pgbouncer(pool_mode=pool_mode)

    def held() -> bool:
        (pool,) = [row for row in pgbouncer.console("SHOW POOLS") if row["user"] == database.owner]
        assert pool["pool_mode"] == pool_mode
        return int(pool["sv_active"]) == 1

    with psycopg.connect(database.dsn_at(pgbouncer.port), autocommit=True) as conn:
        conn.execute("SELECT 1")
        assert held() == held_between_statements
        if held_in_a_transaction is None:
            with pytest.raises(psycopg.Error):
                conn.execute("BEGIN")
        else:
            conn.execute("BEGIN")
            assert held() == held_in_a_transaction


def test_settings_and_the_console_are_available(start_pgbouncer: Callable[..., PgBouncer], database: Database) -> None:
    pgbouncer = start_pgbouncer(default_pool_size=3, query_wait_timeout=1)
    settings = {row["key"]: row["value"] for row in pgbouncer.console("SHOW CONFIG")}
    assert (settings["default_pool_size"], settings["pool_mode"]) == ("3", "transaction")
    with psycopg.connect(database.dsn_at(pgbouncer.port), autocommit=True) as conn:
        conn.execute("SELECT 1")
        pgbouncer.console(f"PAUSE {database.name}")
        with pytest.raises(psycopg.OperationalError, match="query_wait_timeout"):
            conn.execute("SELECT 1")
        pgbouncer.console(f"RESUME {database.name}")
    assert "query_wait_timeout" in pgbouncer.log()


def test_it_restarts_on_its_port_after_it_was_killed(
    start_pgbouncer: Callable[..., PgBouncer], database: Database
) -> None:
    pgbouncer = start_pgbouncer()
    with psycopg.connect(database.dsn_at(pgbouncer.port), autocommit=True) as conn:
        pgbouncer.kill()
        with pytest.raises(psycopg.OperationalError):
            conn.execute("SELECT 1")
    port = pgbouncer.port
    pgbouncer.start()
    assert pgbouncer.port == port
    with psycopg.connect(database.dsn_at(pgbouncer.port), autocommit=True) as conn:
        assert conn.execute("SELECT 1").fetchone() == (1,)


def test_closing_it_leaves_nothing_behind(start_pgbouncer: Callable[..., PgBouncer]) -> None:
    pgbouncer = start_pgbouncer()
    pid = pgbouncer.pid
    assert Path(f"/proc/{pid}").exists()
    pgbouncer.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not pgbouncer.directory.exists()
    assert refuses(pgbouncer.port)


def test_an_invalid_setting_is_reported_with_the_log_and_leaves_nothing_behind(
    start_pgbouncer: Callable[..., PgBouncer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(AssertionError, match="pool_size_of_my_own"):
        start_pgbouncer(pool_size_of_my_own=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("pgbouncer")  # skip if PgBouncer is missing
def test_it_ends_when_its_creator_is_killed() -> None:
    creator = subprocess.Popen([sys.executable, "-c", CREATOR], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert creator.stdout
    pid, directory = creator.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists()
    creator.send_signal(signal.SIGKILL)
    creator.wait()
    creator.stdout.close()
    eventually(lambda: not Path(f"/proc/{pid}").exists() and not Path(directory).exists())


def test_an_environment_variable_names_the_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    named = tmp_path / "pgbouncer"
    monkeypatch.setenv("PGBOUNCER", str(named))
    with pytest.raises(PgBouncerMissing, match="name a program in PGBOUNCER"):
        find_pgbouncer()
    named.touch(mode=0o755)
    assert find_pgbouncer() == named
