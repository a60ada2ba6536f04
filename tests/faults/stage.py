"""The environment of trials: a separate server, a proxy or pooler for each path, and the runners' fork server."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg import errors
from psycopg.rows import dict_row

from predeploy.lock.key import LOCK_KEY
from tests.faults.fault_proxy import FaultProxy
from tests.faults.fork_server import ForkServer
from tests.faults.plan import EFFECTS, TIMEOUTS_PATH
from tests.support.database import Database, fresh_database
from tests.support.pgbouncer import CONSOLE, PgBouncer, PgBouncerMissing, find_pgbouncer
from tests.support.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.faults.fault_proxy import Action
    from tests.faults.plan import File
    from tests.support.pgbouncer import PoolMode

POOLED: dict[str, PoolMode] = {"session": "session", "transaction": "transaction"}
RESET = """
    DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT ALL ON SCHEMA public TO {owner};
    SET ROLE {owner}; {effects}; RESET ROLE; ALTER ROLE {owner} RESET ALL
"""
# Set for the role on one path. Old servers lack some of these.
_TIMEOUTS = (
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "statement_timeout",
    "transaction_timeout",
)
TIMEOUT_S = 1.0
_LOCKS = f"""
    SELECT l.pid, a.state, l.granted FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = {LOCK_KEY}
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_BACKENDS = """
    SELECT pid, state FROM pg_stat_activity
    WHERE datname = current_database() AND usename = %s AND pid <> pg_backend_pid()
"""


class Stage:
    """Everything that trials need and may break. `planted` is a bug planted in the program.

    `faults` are the faults that only this stage can inject. `promoted` are the names in `_migrations` when the standby
    was promoted; None if there was no failover.
    """

    def __init__(self, planted: str = "") -> None:
        self.faults: Mapping[str, Callable[[], Action | None]] = {}
        self.promoted: set[str] | None = None
        self._planted = planted
        self._stack = ExitStack()
        self._database_stack = ExitStack()
        self._admin: psycopg.Connection | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory = Path(tempfile.mkdtemp(prefix="faults-"))
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.fork_server = stack.enter_context(ForkServer(self._planted))
            # A deadlock with a blocking waiter must be detected before any other timeout.
            self.server = stack.enter_context(PostgresServer(settings={"deadlock_timeout": "200ms"}))
            stack.callback(self._close_database)
            self.ports = dict.fromkeys(("direct", "tls", TIMEOUTS_PATH), self.server.port)
            self.poolers: dict[str, PgBouncer] = {}
            for path, mode in POOLED.items() if has_pgbouncer() else ():
                self.poolers[path] = stack.enter_context(PgBouncer(self.server, pool_mode=mode))
                self.ports[path] = self.poolers[path].port
            tls = server_tls(self.directory)
            self.proxies = {
                path: stack.enter_context(FaultProxy(port, tls if path == "tls" else None))
                for path, port in self.ports.items()
            }
            self.renew()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def renew(self) -> None:
        """Create a new database, so that nothing from one trial affects the next."""
        self._close_database()
        self.database: Database = self._database_stack.enter_context(fresh_database(self.server))

    def _close_database(self) -> None:
        if self._admin:
            self._admin.close()
            self._admin = None
        self._database_stack.close()

    def reset(self, files: list[File], path: str) -> Path:
        """Empty the database and write the files; return their directory."""
        self.admin(RESET.format(owner=self.database.owner, effects=EFFECTS))
        if path == TIMEOUTS_PATH:
            known = self.admin("SELECT name FROM pg_settings WHERE name = ANY(%s)", list(_TIMEOUTS))
            sets = [f"ALTER ROLE {self.database.owner} SET {name} = '{TIMEOUT_S:g}s'" for (name,) in known]
            self.admin(";".join(sets))
        return self.write(files)

    def write(self, files: list[File]) -> Path:
        """Write exactly these files, and return their directory."""
        directory = self.directory / "migrations"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        for file in files:
            (directory / file.name).write_text(file.sql)
        return directory

    def environment(self, path: str, directory: Path, **variables: str) -> dict[str, str]:
        """Return the environment of a run that connects through the path's proxy."""
        return {"DATABASE_URL": self.dsn(path), **self._limits(directory), **variables}

    def dsn(self, path: str) -> str:
        """Return the connection string of a run that connects through the path's proxy."""
        return self.database.dsn_at(self.proxies[path].port) + ("?sslmode=require" if path == "tls" else "")

    def rivals_environment(self, path: str, directory: Path, **variables: str) -> dict[str, str]:
        """Return the environment of another instance, which connects without a proxy."""
        return {"DATABASE_URL": self.database.dsn_at(self.ports[path]), **self._limits(directory), **variables}

    def _limits(self, directory: Path) -> dict[str, str]:
        waits = {"MIGRATE_WAIT_TIMEOUT": "20", "MIGRATE_LOCK_WAIT_TIMEOUT": "20"}
        return {"MIGRATIONS_DIR": str(directory), "MIGRATE_LOG_FORMAT": "json", **waits}

    def admin(self, statements: str, *params: object) -> list[tuple[Any, ...]]:
        """Run a query as the superuser in the trials' database; repeat it if the server was restarted."""
        for attempt in (1, 2):
            if self._admin is None or self._admin.closed:
                self._admin = self.database.admin_connect(prepare_threshold=None)
            try:
                cursor = self._admin.execute(statements.encode(), params or None)
                return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if attempt == 2 or not self._admin.closed:
                    raise
        raise AssertionError("unreachable")

    def terminate_backends(self) -> None:
        """Terminate every session of the program, including a pooler's for it, and wait until they have ended."""
        self.admin(f"SELECT pg_terminate_backend(pid) FROM ({_BACKENDS}) AS b", self.database.owner)

    def restart_server(self) -> None:
        """Crash the server and start it again."""
        self.server.restart("immediate")

    def leftovers(self, path: str, backends: set[int]) -> list[str]:
        """Return what a finished run still does or has left on the server; empty if nothing."""
        locks = [f"advisory lock held by backend {pid}, {state}" for pid, state, _ in self.locks()]
        alive = dict(self.admin(_BACKENDS, self.database.owner))
        pooled = self._pooled() if path in self.poolers else {}
        left = []
        for pid, state in alive.items():
            # "used" is PgBouncer's name for an idle session that it checks before it is used again.
            is_quiet = state == "idle" and pooled.get(pid) in {"idle", "used"}
            if not is_quiet if path in self.poolers else pid in backends:
                left.append(f"backend {pid} is {state}, pooled: {pooled.get(pid)}")
        prepared = [f"prepared transaction {gid}" for (gid,) in self.admin("SELECT gid FROM pg_prepared_xacts")]
        return locks + left + prepared

    def _pooled(self) -> dict[int, str]:
        """Return the states of the poolers' sessions by the backend's process id."""
        servers = []
        for pooler in self.poolers.values():  # a new console each time, because PgBouncer may close an old one
            with psycopg.connect(pooler.dsn(CONSOLE), autocommit=True, row_factory=dict_row) as console:
                console.prepare_threshold = None
                servers += console.execute(b"SHOW SERVERS").fetchall()
        return {server["remote_pid"]: server["state"] for server in servers}

    def observe(self) -> tuple[dict[tuple[str, int], int], set[str], list[str]]:
        """Count the effects, read the names in `_migrations`, and list the files in the order of their effects."""
        counted = self.admin("SELECT migration, statement, count(*) FROM public.effects GROUP BY 1, 2")
        placed = self.admin("SELECT migration FROM public.effects ORDER BY place")
        effects = {(name, number): count for name, number, count in counted}
        return effects, self.recorded(), [name for (name,) in placed]

    def recorded(self) -> set[str]:
        """Return the names in `_migrations`."""
        there = self.admin("SELECT to_regclass('public._migrations')")[0][0]
        return {name for (name,) in self.admin("SELECT name FROM public._migrations")} if there else set()

    def locks(self) -> list[tuple[int, str, bool]]:
        """Return the sessions that hold or wait for the advisory lock: pid, state, and whether it is granted."""
        return [(pid, state, granted) for pid, state, granted in self.admin(_LOCKS)]

    def apply_as_a_stranger(self, file: File) -> list[str]:
        """Apply a file as a session that ignores the lock; return its name unless the primary key rejects the row."""
        effects = "".join(
            f"INSERT INTO effects (migration, statement) VALUES ('{file.name}', {number});" for number in file.effects
        )
        claim = f"INSERT INTO _migrations (name) VALUES ('{file.name}');"
        try:
            self.admin(f"SELECT set_config('lock_timeout', '20ms', true); {claim} {effects}")
        except (errors.UniqueViolation, errors.LockNotAvailable, errors.UndefinedTable):
            return []
        return [file.name]


def has_pgbouncer() -> bool:
    """Return whether the paths through a pooler are available; in CI they must be."""
    try:
        find_pgbouncer()
    except PgBouncerMissing:
        if os.environ.get("CI") == "true":
            raise
        return False
    return True


def server_tls(directory: Path) -> ssl.SSLContext:
    """Create a key and a certificate, and return the TLS context of a server that uses them."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", str(directory / "key"), "-out", str(directory / "certificate")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "certificate", directory / "key")
    return context
