"""A real PgBouncer in front of a real server, for the duration of a test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import psycopg
from psycopg.rows import dict_row

from tests.support.postgres_server import SUPERUSER
from tests.support.proxy import LOOPBACK, free_port

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresServer

PoolMode = Literal["session", "transaction", "statement"]
STARTUP_TIMEOUT_S = 20
PORT_ATTEMPTS = 5
CONSOLE = "pgbouncer"  # the name of the database that is the admin console

# Its input ends when the process that created it ends, even by SIGKILL. Then it kills PgBouncer, which may have just
# started, and removes its files.
KEEPER = """
read -r _
for _ in 1 2 3 4 5; do
    [ -d "$1" ] || exit
    pid=$(cat "$1/pid" 2>/dev/null) && kill -KILL "$pid" && break
    sleep 0.2
done
rm -rf "$1"
"""

# Roles may be created after PgBouncer has started, so PgBouncer looks up the SCRAM secret when a client logs in; the
# secret also suffices to log in to the server.
AUTH_QUERY = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1"


class PgBouncerMissing(Exception):
    """PgBouncer was not found; the message explains how to specify one."""


def find_pgbouncer() -> Path:
    """Find the program: the one that PGBOUNCER names, or an installed one."""
    named = os.environ.get("PGBOUNCER")
    found = shutil.which(named or "pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if not found:
        raise PgBouncerMissing(f"{named or 'pgbouncer'} was not found: install it, or name a program in PGBOUNCER")
    return Path(found)


class PgBouncer:
    """A PgBouncer on a free port of 127.0.0.1, for every database and role that `server` has or will have.

    It requires the same passwords as the server, runs as the same user and listens on no unix socket. It ends and
    its directory is removed when it is closed or its creator dies. `settings` are for its [pgbouncer] section.
    """

    def __init__(self, server: PostgresServer, *, pool_mode: PoolMode = "transaction", **settings: object) -> None:
        self.program = find_pgbouncer()
        self.server = server
        self.port = 0
        self.directory = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self._settings: dict[str, object] = {
            "listen_addr": LOOPBACK,
            "unix_socket_dir": "",
            "pidfile": self.directory / "pid",
            "pool_mode": pool_mode,
            "auth_type": "scram-sha-256",
            "auth_file": self.directory / "users",
            "auth_query": AUTH_QUERY,
            "auth_user": SUPERUSER,
            "admin_users": SUPERUSER,
            "server_login_retry": 1,  # seconds before it tries again to log in to a server that refused
            **settings,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = subprocess.Popen(
            ["sh", "-c", KEEPER, "keeper", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C must not end it before the tests
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self._process, "PgBouncer is not running"
        return self._process.pid

    @property
    def version(self) -> tuple[int, int]:
        """The first two numbers of the program's version."""
        said = subprocess.run([self.program, "--version"], capture_output=True, text=True, check=True).stdout
        numbers = re.match(r"PgBouncer (\d+)\.(\d+)", said, re.IGNORECASE)
        assert numbers, f"unknown version: {said}"
        return int(numbers[1]), int(numbers[2])

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """Return the percent-encoded URI of a database behind this PgBouncer."""
        return self.server.dsn(dbname, user, password).replace(f":{self.server.port}/", f":{self.port}/")

    def console(self, command: str) -> list[dict[str, Any]]:
        """Send the admin console a command such as SHOW POOLS, PAUSE, RESUME, KILL, RELOAD; return its rows."""
        with psycopg.connect(self.dsn(CONSOLE), autocommit=True, row_factory=dict_row, connect_timeout=5) as conn:
            cursor = conn.execute(command.encode())
            return cursor.fetchall() if cursor.description else []

    def log(self, lines: int = 40) -> str:
        """Return the end of PgBouncer's own log."""
        path = self.directory / "log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def start(self) -> None:
        """Start it on a free port, or again on its previous port, and wait until it accepts connections."""
        chosen = bool(self.port)
        for _ in range(PORT_ATTEMPTS):
            self.port = self.port if chosen else free_port()
            if self._try_to_start():
                return
            if chosen or "Address already in use" not in self.log():
                break
        raise AssertionError(f"PgBouncer did not start. The end of its log:\n{self.log()}")

    def kill(self) -> None:
        """Kill it with SIGKILL; its connections to clients and to the server break."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            (self.directory / "pid").unlink(missing_ok=True)

    def close(self) -> None:
        """Stop it and remove everything it wrote."""
        try:
            self.kill()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            self._keeper.communicate()

    def _try_to_start(self) -> bool:
        self._write_configuration()
        identity = self.server.identity
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*identity.prefix, str(self.program), str(self.directory / "ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ.get("PATH", os.defpath), "TZ": "UTC"},
                cwd=self.directory,
                user=identity.user,
                group=identity.group,
                extra_groups=None if identity.user is None else [],
                start_new_session=True,
            )
        deadline = time.monotonic() + STARTUP_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            try:
                self.console("SHOW VERSION")
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return True
        self.kill()
        return False

    def _write_configuration(self) -> None:
        # If PgBouncer supports it, secrets are looked up in a separate database, so that its only connections to a
        # database under test are those for clients.
        lookup = " auth_dbname=postgres" if self.version >= (1, 19) else ""
        lines = [f"[databases]\n* = host={LOOPBACK} port={self.server.port}{lookup}\n[pgbouncer]\n"]
        lines += [f"{name} = {value}\n" for name, value in {**self._settings, "listen_port": self.port}.items()]
        (self.directory / "ini").write_text("".join(lines))
        (self.directory / "users").write_text(f'"{SUPERUSER}" "{self.server.password}"\n')
        for path in (self.directory, self.directory / "ini", self.directory / "users"):
            self.server.identity.own(path)
