"""Whether a pooler such as PgBouncer stands between us and Postgres, and whether it keeps a session for us."""

from __future__ import annotations

import logging
import re
import select
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg

from predeploy.connection.session import is_lost, run
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
    True: "a pooler in transaction mode stands between: each transaction takes the migration lock for itself",
    False: "a pooler in session mode stands between",
}


def own_backend(conn: Connection, db: ConnectionSource) -> int | None:
    """Return the process id of the backend that is ours to the end; None where the next transaction may meet another.

    A pooler makes up the process id that it tells at login, so that it differs from the backend's. Which mode it is in
    shows only beside a second client: in session mode the two never meet the same backend. Where that cannot be
    seen, the answer is the safe one, None, as in PgBouncer's transaction mode.

    Raise `ConfigurationError` for settings in the connection string: some poolers ignore them, and others lose them at
    the first reset.
    """
    backend = backend_pid(conn)
    if backend == conn.info.backend_pid:
        return backend
    if _SETTING.search(conn.info.options):
        raise ConfigurationError(
            "The connection string or PGOPTIONS sets options (-c name=value), which a pooler does not keep: use "
            "ALTER ROLE ... SET name = value, or connect to the server directly."
        )
    shared = _meets_others(conn, db, backend)
    mode = "transaction" if shared else "session"
    log.info("Not connected to Postgres itself: %s", _MODES[shared], extra={"event": "pooler.detected", "mode": mode})
    return None if shared else backend


def _meets_others(conn: Connection, db: ConnectionSource, backend: int) -> bool:
    for _ in range(_ATTEMPTS):  # a second client that is cut off has seen nothing
        with suppress(StorageError, psycopg.Error), db.connection(timeout=_ANSWER_S) as other:
            return _meets(conn, other, backend)
        if is_lost(conn):
            break
    return True


def _meets(conn: Connection, other: Connection, backend: int) -> bool:
    # An uneven number of questions: two idle backends may take turns.
    for _ in range(_ROUNDS):
        if backend_pid(conn) != backend or backend_pid(conn) != backend or _answer(other) in {None, backend}:
            return True
    return False


def backend_pid(conn: Connection) -> int:
    """Ask the server itself which backend answers."""
    value = run(conn, _BACKEND)[0].get_value(0, 0)
    return int(value or 0)


def _answer(other: Connection) -> int | None:
    """Return the backend of the second client, None when the pooler has none for it at once."""
    other.pgconn.send_query(_BACKEND.encode())
    other.pgconn.flush()
    poll = select.poll()
    poll.register(other.fileno(), select.POLLIN)
    if not poll.poll(_ANSWER_S * 1000):
        other.close()
        return None
    found = None
    while result := other.pgconn.get_result():
        found = int(result.get_value(0, 0) or 0) if result.ntuples else None
    if found is None and is_lost(other):
        raise psycopg.OperationalError("the second client was cut off")
    return found
