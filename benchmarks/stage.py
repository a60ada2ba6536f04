"""A server as in production, but thrown away afterwards, and the databases that runners start from."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.install import compiled
from benchmarks.process import Cost, Failed, measure
from tests.support.postgres_server import PostgresServer, find_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.migrations import Migration, Pending
    from benchmarks.runners import Runner

# What initdb would choose, where the tests' server has its own; everything is forced to disk.
DEFAULTS = {"shared_buffers": "128MB", "log_line_prefix": "%d "}


class Stage:
    """A server and a directory for migrations, each made afresh by number."""

    def __init__(self, server: PostgresServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        self._numbers = itertools.count(1)

    def database(self, template: str = "template1") -> str:
        """Make a database and return its name. Everything is on the disk when it is there."""
        name = f"bench_{next(self._numbers)}"
        # Copying files ends with a checkpoint, so that no run pays for what came before it.
        copying = "STRATEGY file_copy" if self._version() >= 150000 else ""
        self.command(f"CREATE DATABASE {name} TEMPLATE {template} {copying}")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever may still be in it."""
        self.command(f"DROP DATABASE {name} WITH (FORCE)")

    def dsn(self, name: str, port: int | None = None) -> str:
        """Name a database for a runner; the server has no TLS, and nobody is to spend a round trip on asking."""
        dsn = self.server.dsn(name).replace(f":{self.server.port}/", f":{port or self.server.port}/")
        return f"{dsn}?sslmode=disable"

    def lay_out(self, runner: Runner, migrations: Sequence[Migration]) -> Path:
        """Write migrations as the runner wants them."""
        directory = self.directory / str(next(self._numbers))
        directory.mkdir()
        runner.lay_out(directory, migrations)
        return directory

    def template(self, statements: str) -> str:
        """Return a database to make others from, in which the statements have run."""
        name = self.database()
        self.execute(name, statements)
        return name

    def apply(self, runner: Runner, directory: Path, pending: Pending, template: str, port: int | None = None) -> Cost:
        """Measure a runner that applies everything to a database made for it; see that it did, or raise `Failed`."""
        name = self.database(template)
        try:
            cost = measure(runner.call(directory, self.dsn(name, port)))
            self.check(name, runner, pending)
        finally:
            self.drop(name)
        return cost

    def check(self, name: str, runner: Runner, pending: Pending) -> None:
        """Raise `Failed` unless every migration has run, once, and is recorded."""
        self.check_recorded(name, runner, len(pending.migrations))
        found = self.query(name, pending.proof)[0]
        if found != pending.expected:
            raise Failed(f"the database holds {found} instead of {pending.expected}")

    def check_recorded(self, name: str, runner: Runner, count: int) -> None:
        """Raise `Failed` unless the runner's own table has `count` migrations."""
        ((recorded,),) = self.query(name, runner.recorded)
        if recorded != count:
            raise Failed(f"{recorded} migrations are recorded instead of {count}")

    def execute(self, name: str, statements: str) -> None:
        """Run statements in a database."""
        with psycopg.connect(self.dsn(name), autocommit=True) as conn:
            conn.execute(statements.encode())

    def query(self, name: str, statement: str) -> list[tuple[Any, ...]]:
        """Ask a database."""
        with psycopg.connect(self.dsn(name), autocommit=True) as conn:
            return conn.execute(statement.encode()).fetchall()

    def command(self, statement: str) -> None:
        """Run a statement for the whole server."""
        self.execute("postgres", statement)

    def _version(self) -> int:
        return int(self.query("postgres", "SHOW server_version_num")[0][0])


@contextmanager
def stage(fsync_delay_us: int = 0) -> Iterator[Stage]:
    """Start a server, on which every fsync takes so much longer; end it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        directory = Path(place)
        directory.chmod(0o755)
        (directory / "migrations").mkdir()
        binaries = _delayed(directory / "bin", fsync_delay_us) if fsync_delay_us else find_binaries()
        with PostgresServer(binaries=binaries, settings=DEFAULTS, durable=True) as server:
            yield Stage(server, directory / "migrations")


def _delayed(place: Path, delay_us: int) -> Path:
    """Make programs that are the server's, with the slow disk preloaded."""
    place.mkdir()
    library = place / "slow_fsync.so"
    shutil.copy(compiled("slow_fsync"), library)
    binaries = find_binaries()
    for program, preload in (("initdb", ""), ("postgres", f"LD_PRELOAD='{library}' FSYNC_DELAY_US={delay_us} ")):
        script = place / program
        script.write_text(f"#!/bin/sh\n{preload}exec '{binaries / program}' \"$@\"\n")
        script.chmod(0o755)
    return place


@contextmanager
def databases(stage: Stage, *names: str) -> Iterator[None]:
    """Drop databases in the end."""
    try:
        yield
    finally:
        for name in names:
            with suppress(psycopg.Error):
                stage.drop(name)
