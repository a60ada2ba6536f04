"""The throw-away server works for every user, and leaves nothing behind however it is stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.postgres_server import (
    PostgresServer,
    PostgresServerError,
    choose_identity,
    find_binaries,
    nobody,
)
from tests.support.program import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

CREATOR = """
import time
from tests.support.postgres_server import PostgresServer
with PostgresServer() as server:
    print(server.port, flush=True)
    time.sleep(60)
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def can_write(server: PostgresServer) -> bool:
    with psycopg.connect(server.dsn()) as conn:
        conn.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS one")
        return conn.execute("SELECT one FROM kept").fetchone() == (1,)


def test_a_closed_server_leaves_nothing_behind() -> None:
    with PostgresServer() as server:
        assert can_write(server)
    assert server.pid is None
    assert not accepts(server.port)
    assert not server.directory.exists()


def test_it_uses_utf8_and_the_c_locale_regardless_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "POSIX")
    monkeypatch.setenv("PGDATA", "/nowhere")
    monkeypatch.setenv("PGPORT", "1")
    with PostgresServer(settings={"work_mem": "5MB"}) as server, psycopg.connect(server.dsn()) as conn:
        names = ("server_encoding", "lc_messages", "password_encryption", "fsync", "work_mem")
        values = [conn.execute("SELECT current_setting(%s)", [name]).fetchone() for name in names]
    assert values == [("UTF8",), ("C",), ("scram-sha-256",), ("off",), ("5MB",)]


def test_a_wrong_password_is_rejected_over_tcp_and_the_unix_socket(server: PostgresServer) -> None:
    wrong = server.dsn(password="wrong")
    for way in ("127.0.0.1", str(server.directory)):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong, host=way)


@pytest.mark.parametrize("end", ["fast", "kill"])
def test_data_and_port_survive_a_restart(end: str, private_server: PostgresServer) -> None:
    assert can_write(private_server)
    dsn = private_server.dsn()
    if end == "kill":
        private_server.kill()
    else:
        private_server.stop("fast" if end == "fast" else "immediate")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        psycopg.connect(dsn)
    private_server.start()
    assert private_server.dsn() == dsn
    assert can_write(private_server)


def test_another_port_is_chosen_if_the_port_is_taken(server: PostgresServer) -> None:
    late = PostgresServer()
    late.port = server.port
    with late:
        assert late.port != server.port
        assert can_write(late)


def test_a_server_that_cannot_start_reports_why_and_leaves_nothing_behind() -> None:
    server = PostgresServer(settings={"shared_buffers": "lots"})
    with pytest.raises(PostgresServerError, match='invalid value for parameter "shared_buffers"'), server:
        pass
    assert not server.directory.exists()


@as_root
def test_root_becomes_nobody_if_there_are_no_user_namespaces() -> None:
    with PostgresServer(identity=nobody(find_binaries())) as server:
        assert can_write(server)
        assert (server.directory / "data").stat().st_uid == server.identity.user


@as_root
def test_root_never_starts_a_server_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert choose_identity(find_binaries()).user is not None


@as_root
def test_programs_that_the_user_nobody_cannot_read_are_rejected_with_advice(tmp_path: Path) -> None:
    secluded = tmp_path / "bin"
    secluded.mkdir(mode=0o700)
    with pytest.raises(PostgresServerError, match="PG_BIN"):
        nobody(secluded)


def test_pg_bin_takes_precedence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("initdb", "postgres"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    assert find_binaries() == tmp_path


def test_a_wrong_pg_bin_is_an_error_and_is_not_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(PostgresServerError, match="does not contain initdb and postgres"):
        find_binaries()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_no_server_outlives_a_process_that_is_ended_by_a_signal(signum: signal.Signals) -> None:
    with tempfile.TemporaryDirectory(prefix="t-") as directory:
        Path(directory).chmod(0o755)
        environment = {**os.environ, "TMPDIR": directory}
        process = subprocess.Popen([sys.executable, "-c", CREATOR], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        port = int(process.stdout.readline())
        assert accepts(port)
        process.send_signal(signum)
        process.communicate()
        assert eventually(lambda: not list(Path(directory).iterdir()))
        assert not accepts(port)
