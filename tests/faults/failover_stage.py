"""The environment of failover trials: each trial has a primary, a standby, and one proxy in front of both."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from tests.faults.fault_proxy import Action, FaultProxy
from tests.faults.fork_server import ForkServer
from tests.faults.plan import EFFECTS, OLD_CHECKSUM
from tests.faults.stage import RESET, Stage
from tests.support.database import Database, create_database
from tests.support.replication import ReplicatedServers, Template

if TYPE_CHECKING:
    from tests.faults.plan import File
    from tests.support.postgres_server import PostgresServer

PROMOTED_LATER_S = 0.4
_MIGRATIONS = """
    CREATE TABLE _migrations (name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now(), checksum TEXT);
"""


class FailoverStage(Stage):
    """A stage whose server can fail over to a standby. All servers are copies of one template.

    Faults are injected in the proxy's thread, so that no client reaches the new server before `promoted` is read.
    """

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory = Path(tempfile.mkdtemp(prefix="failovers-"))
            stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
            self.fork_server = stack.enter_context(ForkServer(self._planted))
            self._template = stack.enter_context(Template())
            self._original = create_database(self._template)
            self._original.admin_execute(RESET.format(owner=self._original.owner, effects=EFFECTS))
            self._template.finish()
            stack.callback(self._close_servers)
            self._servers = ExitStack()
            self.proxies, self.poolers, self.ports = {}, {}, {}
            self.faults = {
                "detach": self._detach,
                "switchover": partial(self._fail_over, "fast"),
                "crash": partial(self._fail_over, "immediate"),
                "crash_unnoticed": self._crash_unnoticed,
                "crash_promote_later": partial(self._fail_over, "immediate", PROMOTED_LATER_S),
            }
            self._stack = stack.pop_all()
        return self

    def renew(self) -> None:
        """Do nothing, because each trial has its own servers."""

    def reset(self, files: list[File], path: str) -> Path:
        """Create the servers and the proxy of a trial, and write the files; return their directory."""
        self._close_servers()
        stack = self._servers
        self._pair = stack.enter_context(ReplicatedServers(self._template, synchronous=path == "synchronous"))
        ports = [self._pair.primary.port] if path == "moved" else [self._pair.primary.port, self._pair.standby.port]
        self._proxy = stack.enter_context(FaultProxy(ports[0], None, *ports[1:]))
        self.proxies[path], self.promoted, self._is_down = self._proxy, None, False
        self._use(self._pair.primary)
        if earlier := "".join(file.earlier for file in files):
            self.database.execute(_MIGRATIONS + earlier)
        return self.write(files)

    def dsn(self, path: str) -> str:  # noqa: ARG002  the proxy was created for this path
        """Return a connection string that names one address, or both servers."""
        one, *others = self._proxy.ports
        dsn = self.database.dsn_at(one)
        for port in others:
            dsn = dsn.replace(f":{one}/", f":{one},127.0.0.1:{port}/") + "?target_session_attrs=read-write"
        return dsn

    def recorded(self) -> set[str]:
        """Return the names in `_migrations`; a row with an old name counts, but a row of an old version does not."""
        if not self.admin("SELECT to_regclass('public._migrations')")[0][0]:
            return set()
        rows = self.admin("SELECT name FROM public._migrations WHERE checksum IS DISTINCT FROM %s", OLD_CHECKSUM)
        return {name[-len("000.sql") :] for (name,) in rows}

    def terminate_backends(self) -> None:
        """Terminate every session of the program if a server is running."""
        if not self._is_down:
            super().terminate_backends()

    def restart_server(self) -> None:
        """Crash the server and start it again if a server is running."""
        if not self._is_down:
            super().restart_server()

    def leftovers(self, path: str, backends: set[int]) -> list[str]:
        """Return what a finished run has left behind; until the standby is promoted, there is no server to query."""
        return ["the standby has not been promoted"] if self._is_down else super().leftovers(path, backends)

    def _detach(self) -> None:
        self._pair.detach()

    def _crash_unnoticed(self) -> Action:
        """Kill the postmaster; its sessions may run for another moment, but no client receives their responses."""
        self._fail_over("kill")
        return Action.CUT_LINE

    def _fail_over(self, how: Literal["fast", "immediate", "kill"], seconds: float = 0) -> None:
        if self.promoted is not None or self._is_down:
            return
        self._is_down = True
        self._pair.stop_primary(how)
        if len(self._proxy.targets) > 1:
            self._proxy.refuse(0)
        else:
            self._proxy.targets[0] = self._pair.standby.port
        if seconds:
            self._proxy.loop.call_later(seconds, self._promote)
        else:
            self._promote()

    def _promote(self) -> None:
        self._pair.promote()
        self._use(self._pair.standby)
        self.promoted = self.recorded()
        self._is_down = False

    def _use(self, server: PostgresServer) -> None:
        self.server = server
        self.database: Database = self._original.on(server)

    def _close_servers(self) -> None:
        if self._admin:
            self._admin.close()
            self._admin = None
        self._servers.close()
