"""A Postgres server with initdb's settings; creates databases, adds latency and measures memory."""

from __future__ import annotations

import asyncio
import itertools
import re
import selectors
import socket
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg

from benchmarks.install import Failed
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.migrations import MigrationSet
    from benchmarks.runners import Runner


class Server:
    """A Postgres server, and a directory for migration files."""

    def __init__(self, postgres: PostgresServer, directory: Path) -> None:
        self.postgres = postgres
        self.directory = directory
        self._numbers = itertools.count(1)

    def dsn(self, database: str, port: int | None = None) -> str:
        """Return a database's DSN, with TLS disabled: the server has no TLS, and asking for it costs a round trip."""
        own = self.postgres.port
        return self.postgres.dsn(database).replace(f":{own}/", f":{port or own}/") + "?sslmode=disable"

    def query(self, database: str, statements: str) -> tuple[Any, ...]:
        """Run statements in a database and return the first row, or an empty tuple if there is none."""
        with psycopg.connect(self.dsn(database), autocommit=True) as conn:
            cursor = conn.execute(statements.encode())
            return (cursor.fetchone() if cursor.description else None) or ()

    @contextmanager
    def database(self, setup: str = "") -> Iterator[str]:
        """Create a database, run `setup` in it and write everything to disk; drop the database at the end."""
        name = f"bench_{next(self._numbers)}"
        self.query("postgres", f"CREATE DATABASE {name}")
        try:
            if setup:
                self.query(name, setup)
            self.query("postgres", "CHECKPOINT")
            yield name
        finally:
            self.query("postgres", f"DROP DATABASE {name} WITH (FORCE)")

    def write_files(self, runner: Runner, files: MigrationSet) -> Path:
        """Write migrations into a new directory in a runner's format, and return the directory."""
        directory = self.directory / str(next(self._numbers))
        directory.mkdir()
        runner.write_files(directory, files.migrations)
        return directory

    def check(self, database: str, runner: Runner, files: MigrationSet) -> None:
        """Raise `Failed` unless every migration was applied once and is recorded."""
        expected = (len(files.migrations), *files.expected)
        try:
            found = self.query(database, runner.count) + self.query(database, files.query)
        except psycopg.Error as error:
            raise Failed(f"the database cannot be checked: {error}") from error
        if found != expected:
            raise Failed(f"the counts of recorded migrations and created objects are {found} instead of {expected}")


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server with `fsync` on, as in production."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        Path(place).chmod(0o755)  # containers run as a different user
        with PostgresServer(settings={"shared_buffers": "128MB"}, durable=True) as postgres:
            yield Server(postgres, Path(place))


@contextmanager
def backend_memory(server: Server, database: str) -> Iterator[list[float]]:
    """Yield a list, and every 10 ms append the private memory of each of the database's backends to it, in MiB.

    The private memory is RssAnon. VmHWM, the kernel's own peak value, would include the server's shared buffers.
    """
    samples: list[float] = []
    ended = threading.Event()
    children = Path(f"/proc/{server.postgres.pid}/task/{server.postgres.pid}/children")

    def sample() -> None:
        while not ended.wait(0.01):
            for process in (Path("/proc", pid) for pid in children.read_text().split()):
                with suppress(OSError):  # the process has ended in the meantime
                    if f" {database} " in (process / "cmdline").read_text():
                        found = re.search(r"RssAnon:\s+(\d+) kB", (process / "status").read_text())
                        samples.append(int(found[1]) / 1024 if found else 0.0)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


class LatencyProxy:
    """A TCP proxy on loopback that delays all data by half a round trip in each direction and keeps it in order.

    The delay does not depend on the amount of data: there is no bandwidth limit. Connecting is not delayed.
    """

    def __init__(self, target: int, round_trip_s: float = 0.010) -> None:
        self.round_trips = 0
        self._target = target
        self._delay_s = round_trip_s / 2
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        # select() has a resolution of microseconds; epoll rounds timeouts up to milliseconds.
        self._loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        async with await asyncio.start_server(self._connect, sock=self._socket):
            await self._ended.wait()

    async def _connect(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._target)
        asked = False  # whether the latest data came from the client

        async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_client: bool) -> None:
            nonlocal asked
            with suppress(OSError):
                while data := await source.read(1 << 18):
                    self.round_trips += asked and not is_client
                    asked = is_client
                    self._loop.call_later(self._delay_s, sink.write, data)
            await asyncio.sleep(self._delay_s + 0.001)  # until all earlier data has been delivered
            with suppress(OSError):
                sink.write_eof()

        await asyncio.gather(forward(client, to_server, is_client=True), forward(server, to_client, is_client=False))
        to_server.close()
        to_client.close()
