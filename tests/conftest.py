from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from predeploy import create_db
from scripts.postgres_server import PostgresServer
from tests.support.database import Database, fresh_database
from tests.support.migrations_dir import MigrationsDir
from tests.support.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from psycopg_pool import ConnectionPool

    from tests.support.program import Process, Run


@pytest.fixture(scope="session", autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """Keep the developer's databases out of reach: nothing in the environment names a server."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("DATABASE_URL", "MIGRATE_", "MIGRATIONS_", "PG")) and name != "PG_BIN":
                patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A server that many tests share, one per worker: leave it running and its settings alone."""
    with PostgresServer() as running:
        yield running


@pytest.fixture
def private_server() -> Iterator[PostgresServer]:
    """A server that one test may stop, restart and kill; it takes most of a second."""
    with PostgresServer() as running:
        yield running


@pytest.fixture
def database(server: PostgresServer) -> Iterator[Database]:
    """An empty database and the role that owns it, both gone afterwards."""
    with fresh_database(server) as fresh:
        yield fresh


@pytest.fixture
def db(database: Database) -> Iterator[ConnectionPool[Any]]:
    """The library's own pool on `database`."""
    with create_db(database.dsn) as pool:
        yield pool


@pytest.fixture
def migrations_dir(tmp_path: Path) -> MigrationsDir:
    """An empty directory of migrations."""
    return MigrationsDir(tmp_path / "migrations")


@pytest.fixture
def program(database: Database, migrations_dir: MigrationsDir, tmp_path: Path) -> Iterator[Program]:
    """The program, ready to migrate `database` from `migrations_dir`; ended with its test."""
    defaults = {"DATABASE_URL": database.dsn, "MIGRATIONS_DIR": str(migrations_dir)}
    ready = Program(defaults, tmp_path / "processes", database.secrets)
    try:
        yield ready
    finally:
        ready.close()


@pytest.fixture
def run(program: Program) -> Callable[..., Run]:
    """Run the program to its end: `run(*args, as_json=True, timeout=60, NAME="value", OTHER=None)`."""
    return program.run


@pytest.fixture
def start(program: Program) -> Callable[..., Process]:
    """Start the program and go on: `start(*args, NAME="value", OTHER=None)`."""
    return program.start
