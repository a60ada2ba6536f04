"""A primary and a standby that streams from it, for failovers that keep or lose the last commits."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

import psycopg

from tests.support.eventually import eventually
from tests.support.postgres_server import SUPERUSER, PostgresServer
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

PROMOTION_S = 30
MEMORY = "/dev/shm"  # noqa: S108  an in-memory file system, where copying a server takes a tenth of the time
MEMORY_BYTES = 1 << 30
# A disconnected standby soon tries to stream again, so that a pair is ready quickly. Shared memory in the data
# directory is removed together with the directory, even if the server is killed.
_SETTINGS = {
    "autovacuum": "off",
    "dynamic_shared_memory_type": "mmap",
    "hot_standby": "on",
    "wal_keep_size": "64MB",
    "wal_level": "replica",
    "wal_retrieve_retry_interval": "50ms",
}
# A server without its two template databases can be copied in half the time.
_DROP_TEMPLATES = """
    UPDATE pg_database SET datistemplate = false; DROP DATABASE template1; DROP DATABASE template0
"""
_STREAMING = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"


class Template(PostgresServer):
    """A server that is set up and stopped once, and then copied many times."""

    def __init__(self) -> None:
        has_memory = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES
        self.place = MEMORY if has_memory else None
        super().__init__(settings=_SETTINGS, place=self.place)

    def finish(self) -> None:
        """Make the server smaller and stop it; call this after creating the databases."""
        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            for statement in _DROP_TEMPLATES.split(";"):
                conn.execute(statement.encode())
        self.stop()


class ReplicatedServers:
    """A primary and a standby on loopback, both copies of the stopped server `template`.

    A copy of a stopped server is a base backup, so nothing has to be copied while the primary runs. The standby
    streams through a proxy and receives no further commits once `detach` closes the proxy. If `synchronous`, a COMMIT
    on the primary waits for the standby.
    """

    def __init__(self, template: Template, *, synchronous: bool = False) -> None:
        self._template = template
        self._synchronous = synchronous
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            waits = {"synchronous_standby_names": "*"} if self._synchronous else {}
            self.primary = stack.enter_context(self._copy(waits))
            self._replication = stack.enter_context(Proxy(self.primary.port))
            source = f"host=127.0.0.1 port={self._replication.port} user={SUPERUSER} password={self.primary.password}"
            following = {"primary_conninfo": f"{source} sslmode=disable gssencmode=disable"}
            self.standby = stack.enter_context(self._copy(following, StandbyServer))
            with psycopg.connect(self.primary.dsn(), autocommit=True) as conn:
                wanted = "sync" if self._synchronous else "async"
                eventually(lambda: conn.execute(_STREAMING).fetchone() == (wanted,))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self.standby, self.primary):
            server.stop("immediate")
        self._stack.close()

    def detach(self) -> None:
        """Cut the replication: the standby receives no further commits."""
        self._replication.close()

    def stop_primary(self, how: Literal["fast", "immediate", "kill"]) -> None:
        """Stop the primary. With `fast`, it first sends everything to the standby; the others simulate a crash."""
        if how == "kill":
            self.primary.kill()
        else:
            self.primary.stop(how)

    def promote(self) -> None:
        """Make the standby writable, with everything that it has received."""
        with psycopg.connect(self.standby.dsn(), autocommit=True) as conn:
            assert conn.execute("SELECT pg_promote(true, %s)", [PROMOTION_S]).fetchone() == (True,)

    def _copy(self, settings: Mapping[str, str], kind: type[PostgresServer] = PostgresServer) -> PostgresServer:
        return kind(settings=settings, copy_of=self._template, place=self._template.place)


class StandbyServer(PostgresServer):
    """A server that starts as the standby of another server."""

    def _create_data(self) -> None:
        super()._create_data()
        signal = self.directory / "data/standby.signal"
        signal.touch(mode=0o600)
        self.identity.own(signal)
