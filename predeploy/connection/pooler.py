"""Detect whether the connection goes through a pooler such as PgBouncer, and the pooler's mode."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg

from predeploy.connection.query_message import ask, run
from predeploy.connection.session import is_lost
from predeploy.errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from predeploy.connection.connect import Connection, ConnectionSource

log = logging.getLogger(__name__)

_BACKEND = "SELECT pg_catalog.pg_backend_pid()"
_ATTEMPTS = 3
_ROUNDS = 3
_SETTING = re.compile(r"(?:^|\s)(?:-c|--\w)")
_ANSWER_S = 2.0
_MODES = {
    "transaction": "Connected through a transaction-mode pooler; taking the migration lock per transaction",
    "session": "Connected through a session-mode pooler",
}


def dedicated_backend_pid(conn: Connection, db: ConnectionSource) -> int | None:
    """Return the PID of this connection's dedicated backend, or None if a transaction-mode pooler shares its backends.

    A pooler reports a made-up PID at login, which differs from the backend's PID. Detecting the pooler's mode takes a
    second client: in session mode, two clients never share a backend. If the mode cannot be determined, return None,
    which is always safe.

    Raise `ConfigurationError` if the connection string sets options and there is a pooler: some poolers ignore options,
    and others lose them on the first reset.
    """
    backend = backend_pid(conn)
    if backend == conn.info.backend_pid:
        return backend
    if _SETTING.search(conn.info.options):
        raise ConfigurationError(
            "The connection string or PGOPTIONS sets options (-c name=value), which a pooler may ignore or lose. Use "
            "ALTER ROLE ... SET name = value, or connect to the server directly."
        )
    shared = _is_shared(conn, db, backend)
    mode = "transaction" if shared else "session"
    log.info("%s", _MODES[mode], extra={"event": "pooler.detected", "mode": mode})
    return None if shared else backend


def backend_pid(conn: Connection) -> int:
    """Ask the server for the PID of the current backend."""
    return int(run(conn, _BACKEND)[0].get_value(0, 0) or 0)


def _is_shared(conn: Connection, db: ConnectionSource, backend: int) -> bool:
    for _ in range(_ATTEMPTS):  # a disconnected second client proves nothing, so try again
        with suppress(StorageError, psycopg.Error), db.connection(timeout=_ANSWER_S) as other:
            return _meets(conn, other, backend)
        if is_lost(conn):
            break
    return True


def _meets(conn: Connection, other: Connection, backend: int) -> bool:
    """Return whether the two clients share a backend, or the second client gets none while the first has one."""
    # Query an odd number of times per iteration, because a pooler may alternate between two idle backends.
    for _ in range(_ROUNDS):
        if backend_pid(conn) != backend or backend_pid(conn) != backend:
            return True
        try:
            found = ask(other, _BACKEND, _ANSWER_S)
        except TimeoutError:
            other.close()
            return True
        if found is None or int(found) == backend:
            return True
    return False
