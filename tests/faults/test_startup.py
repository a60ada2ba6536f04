"""Each state of a server at startup: temporary states are waited for, and permanent ones end the run."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.database import fresh_database
from tests.support.eventually import eventually
from tests.support.german import GermanServer
from tests.support.namespaces import entrypoint_with_names
from tests.support.postgres_server import PostgresServer
from tests.support.program import Program
from tests.support.proxy import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.database import Database
    from tests.support.migrations_dir import MigrationsDir
    from tests.support.program import Process, Run

SERVERS = {"english": PostgresServer, "german": GermanServer}


@pytest.fixture(params=["english", "german"])
def own_server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    with SERVERS[request.param](settings={"max_connections": "20"}) as server:
        yield server


def reasons(run: Run) -> list[str]:
    return [waiting["reason"] for waiting in run.named("postgres.waiting")]


def standby_of(primary: PostgresServer, **settings: str) -> PostgresServer:
    """Return a standby server with a copy of the primary's data, configured to follow it but not started."""
    primary.stop()
    copy = type(primary)(settings={})
    shutil.copytree(primary.directory / "data", copy.directory / "data")
    for path in (copy.directory, *copy.directory.rglob("*")):
        copy.identity.own(path)
    copy.password = primary.password
    (copy.directory / "data/standby.signal").touch()
    values = {"unix_socket_directories": str(copy.directory), "primary_conninfo": primary.dsn(), **settings}
    with (copy.directory / "data/postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in values.items())
    primary.start()
    return copy


def promote(server: PostgresServer) -> None:
    assert server.pid
    signal_file = server.directory / "data/promote"
    signal_file.touch()
    server.identity.own(signal_file)
    os.kill(server.pid, signal.SIGUSR1)


def test_a_standby_is_waited_for_until_it_is_promoted(
    own_server: PostgresServer, start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with fresh_database(own_server) as database, standby_of(own_server) as standby:
        process = start(DATABASE_URL=database.dsn_at(standby.port))
        assert process.wait_for("postgres.waiting")["reason"] == "read_only"
        promote(standby)
        ended = process.finish()
        assert (ended.exit_code, ended.report["applied"], reasons(ended)) == (0, 1, ["read_only"])


def test_a_server_in_recovery_is_waited_for_until_it_accepts_connections(
    own_server: PostgresServer, start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with fresh_database(own_server) as database:
        recovering = standby_of(own_server, hot_standby="off")
        up = threading.Thread(target=recovering.start)
        up.start()
        try:
            process = start(DATABASE_URL=database.dsn_at(recovering.port))
            # The server may first be starting up, or not listening yet.
            eventually(lambda: "not_accepting" in [e.get("reason") for e in process.events])
            promote(recovering)
            ended = process.finish()
            up.join()
        finally:
            recovering.close()
        assert (ended.exit_code, ended.report["applied"], reasons(ended)[-1]) == (0, 1, "not_accepting")


def test_a_server_that_shuts_down_is_waited_for_until_it_is_back(
    own_server: PostgresServer, start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with fresh_database(own_server) as database:
        with database.connect():  # a smart shutdown waits for open sessions
            down = threading.Thread(target=own_server.stop, args=["smart"])
            down.start()
            process = start(DATABASE_URL=database.dsn)
            word = eventually(lambda: [e.get("reason") for e in process.events if "reason" in e])[0]
        down.join()
        eventually(lambda: "refused" in [e.get("reason") for e in process.events])
        own_server.start()
        ended = process.finish()
    assert word == ("not_accepting" if isinstance(own_server, GermanServer) else "shutting_down")
    assert (ended.exit_code, ended.report["applied"]) == (0, 1)


def test_the_requested_one_of_several_hosts_is_used(
    private_server: PostgresServer, start: Callable[..., Process], migrations_dir: MigrationsDir
) -> None:
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    with fresh_database(private_server) as database, standby_of(private_server) as standby:
        down, ports = free_port(), [standby.port, private_server.port]
        hosts = ",".join(f"127.0.0.1:{port}" for port in [down, *ports])
        dsn = database.dsn.replace(f"127.0.0.1:{private_server.port}", hosts) + "?target_session_attrs=read-write"
        ended = start(DATABASE_URL=dsn).finish()
        assert (ended.exit_code, ended.report["applied"]) == (0, 1)
        private_server.stop()
        process = start("status", DATABASE_URL=dsn)
        assert process.wait_for("postgres.waiting")["reason"] in {"refused", "read_only"}
        promote(standby)
        assert process.finish().exit_code == 0
        private_server.start()


@pytest.mark.parametrize("order", ["password first", "password last"])
def test_one_of_several_hosts_that_rejects_the_password_ends_the_run(
    run: Callable[..., Run], database: Database, order: str
) -> None:
    ports = [free_port(), database.server.port]
    ports = ports[::-1] if order == "password first" else ports
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    dsn = database.server.dsn(database.name, database.owner, "not the password")
    ended = run(DATABASE_URL=dsn.replace(f"127.0.0.1:{database.server.port}", hosts))
    assert ended.exit_code == 5
    assert ended.report["message"].startswith("The server rejected the user name or password")


@pytest.fixture
def program_with_names(
    database: Database, migrations_dir: MigrationsDir, tmp_path: Path
) -> Iterator[tuple[Program, Path]]:
    entrypoint, hosts = entrypoint_with_names(tmp_path)
    defaults = {
        "DATABASE_URL": database.dsn.replace("127.0.0.1", "db.internal"),
        "MIGRATIONS_DIR": str(migrations_dir),
    }
    program = Program(defaults, tmp_path / "processes", database.secrets, entrypoint)
    try:
        yield program, hosts
    finally:
        program.close()


def test_a_host_name_that_resolves_later_is_waited_for(
    program_with_names: tuple[Program, Path], migrations_dir: MigrationsDir
) -> None:
    program, hosts = program_with_names
    migrations_dir.write("001.sql", "CREATE TABLE t ()")
    process = program.start()
    assert process.wait_for("postgres.waiting")["reason"] == "dns"
    with hosts.open("a") as file:
        file.write("127.0.0.1 db.internal\n")
    ended = process.finish()
    assert (ended.exit_code, ended.report["applied"], reasons(ended)) == (0, 1, ["dns"])
