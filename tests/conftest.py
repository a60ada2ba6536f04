from __future__ import annotations

import logging
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from predeploy import create_db
from predeploy.signals import SIGNALS
from tests.support.database import Database, fresh_database
from tests.support.migrations_dir import MigrationsDir
from tests.support.pgbouncer import PgBouncer, PgBouncerMissing
from tests.support.postgres_server import PostgresServer
from tests.support.program import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from psycopg_pool import ConnectionPool

    from tests.support.pgbouncer import PoolMode
    from tests.support.program import Process, Run

PROGRAMS = {"PG_BIN", "PGBOUNCER"}  # variables that locate the servers for the tests
POOLERS = {"session": "session_pgbouncer", "transaction": "pgbouncer"}  # each choice of --through, and its fixture


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--through", choices=POOLERS, help="let the program reach its database through a PgBouncer")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests that are marked as unable to run through the requested pooler."""
    through = item.config.getoption("through")
    barred = {None: [], "session": ["direct"], "transaction": ["direct", "session"]}[through]
    for name in barred:
        if marker := item.get_closest_marker(name):
            pytest.skip(f"{name}: {marker.args[0]}")


@pytest.fixture(scope="session", autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """Remove variables that name a server, so that no test reaches the developer's databases."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("DATABASE_URL", "MIGRATE_", "MIGRATIONS_", "PG")) and name not in PROGRAMS:
                patch.delenv(name)
        yield


@pytest.fixture(scope="session", autouse=True)
def _default_signal_handling() -> None:
    """Restore the signals that a background job of a shell ignores, because the program keeps ignoring them."""
    for signum in SIGNALS:
        if signal.getsignal(signum) == signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A server that many tests share, one per worker: do not stop it or change its settings."""
    with PostgresServer() as running:
        yield running


@pytest.fixture
def private_server() -> Iterator[PostgresServer]:
    """A server that one test may stop, restart and kill; starting it takes almost a second."""
    with PostgresServer() as running:
        yield running


@pytest.fixture
def database(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[Database]:
    """An empty database and its owner, both dropped afterwards; `--through` puts a pooler in front of it."""
    pooler = POOLERS.get(request.config.getoption("through"))
    port = request.getfixturevalue(pooler).port if pooler else None
    with fresh_database(server, port) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def pgbouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    """A PgBouncer that many tests share, in front of `server`, in transaction mode: do not stop it."""
    with _pgbouncer(server, "transaction") as running:
        yield running


@pytest.fixture(scope="session")
def session_pgbouncer(server: PostgresServer) -> Iterator[PgBouncer]:
    """Like `pgbouncer`, but in session mode."""
    with _pgbouncer(server, "session") as running:
        yield running


@pytest.fixture
def start_pgbouncer(server: PostgresServer) -> Iterator[Callable[..., PgBouncer]]:
    """Start a PgBouncer for one test: `start_pgbouncer(server, pool_mode="session", setting=value)`.

    `server` is the shared one unless another is given.
    """
    with ExitStack() as stack:

        def start(front_of: PostgresServer = server, pool_mode: PoolMode = "transaction", **settings: Any) -> PgBouncer:
            return stack.enter_context(_pgbouncer(front_of, pool_mode, **settings))

        yield start


def _pgbouncer(server: PostgresServer, pool_mode: PoolMode, **settings: Any) -> PgBouncer:
    """Skip the test if PgBouncer is missing; in CI, fail instead."""
    try:
        return PgBouncer(server, pool_mode=pool_mode, **settings)
    except PgBouncerMissing as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


@pytest.fixture
def db(database: Database) -> Iterator[ConnectionPool[Any]]:
    """The library's pool for `database`."""
    with create_db(database.dsn) as pool:
        yield pool


@pytest.fixture
def migrations_dir(tmp_path: Path) -> MigrationsDir:
    """An empty directory of migrations."""
    return MigrationsDir(tmp_path / "migrations")


@pytest.fixture
def program(database: Database, migrations_dir: MigrationsDir, tmp_path: Path) -> Iterator[Program]:
    """The program, configured to migrate `database` from `migrations_dir`; its processes end with the test."""
    defaults = {"DATABASE_URL": database.dsn, "MIGRATIONS_DIR": str(migrations_dir)}
    ready = Program(defaults, tmp_path / "processes", database.secrets)
    try:
        yield ready
    finally:
        ready.close()


@pytest.fixture
def run(program: Program) -> Callable[..., Run]:
    """Run the program and wait for it to exit: `run(*args, as_json=True, timeout=60, NAME="value", OTHER=None)`."""
    return program.run


@pytest.fixture
def start(program: Program) -> Callable[..., Process]:
    """Start the program without waiting for it: `start(*args, NAME="value", OTHER=None)`."""
    return program.start


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Undo the process-wide changes made by open_log."""
    logger = logging.getLogger("predeploy")
    before = (logger.handlers[:], logger.level, logger.propagate, logging.lastResort, logging.raiseExceptions)
    yield
    logger.handlers[:], level, logger.propagate, logging.lastResort, logging.raiseExceptions = before
    logger.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def no_psycopg(tmp_path: Path) -> dict[str, str]:
    """Environment variables that make the program crash if it imports psycopg."""
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "psycopg.py").write_text("raise RuntimeError('psycopg was asked for')")
    return {"PYTHONPATH": str(tmp_path / "shadow")}
