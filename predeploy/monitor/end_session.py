"""After a signal, terminate the run's session over a second connection if it is still running."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, NamedTuple

import psycopg

from predeploy.connection.query_message import ask, cancel, is_running
from predeploy.connection.session import is_lost
from predeploy.errors import StorageError
from predeploy.lock.advisory_lock import end_stale_session
from predeploy.monitor.activity import activity_query, parse_activity
from predeploy.signals import FORCED_EXIT_AFTER_S, seconds_left

if TYPE_CHECKING:
    from predeploy.connection.connect import Connection, ConnectionSource
    from predeploy.monitor.activity import BackendActivity

log = logging.getLogger(__name__)

_READ_S = 0.2  # reserved for reading the table and writing the summary line
_CANCEL_S = 0.25  # reserved for cancelling, if there is no second connection
_ANSWER_S = 0.3
_POLL_S = 0.01


class OwnSession(NamedTuple):
    """How to find the session on the server: by its pid or, behind a pooler, by a mark in the SQL text that it runs.

    `started` is the result of `SESSION_STARTED` in that session, or None if it is not known. `migration` is the name of
    the running migration.
    """

    backend: int | None
    started: int | None
    mark: str
    migration: str | None

    def query(self, column: str) -> str:
        """Return a query that finds the session: by its pid while it exists, or by its mark while it runs the text."""
        if self.backend:
            condition = f"pid = {self.backend} AND usename = session_user"
        else:
            text = f"strpos(query, nullif('{self.mark}', ''))"
            condition = f"state = 'active' AND {text} > 0 AND pid <> pg_catalog.pg_backend_pid()"
        return f"SELECT {column} FROM pg_catalog.pg_stat_activity WHERE {condition}"  # noqa: S608  a pid or a random mark


def end_session(
    db: ConnectionSource, conn: Connection, stack: ExitStack, session: OwnSession
) -> tuple[Connection, bool]:
    """Stop the session of `conn`; return a connection on which to read the table, and whether the session has stopped.

    If no second connection is available or the session is not found, cancel its running statement. Raise an error if
    neither connection can be used.
    """
    left_s = seconds_left()
    deadline = time.monotonic() + (FORCED_EXIT_AFTER_S if left_s is None else left_s) - _READ_S
    other, terminated = None, False
    with suppress(StorageError, psycopg.Error):
        other = stack.enter_context(db.connection(timeout=_left(deadline, keep=_CANCEL_S)))
    if is_running(conn):
        terminated = other is not None and _terminate(other, conn, session)
        if not terminated and cancel(conn, _left(deadline)) and not is_lost(conn):
            return conn, True
    conn.close()
    if not other:
        raise TimeoutError
    if not terminated:
        if not session.backend:
            return other, False  # it may still be running a message without the mark
        end_stale_session(other, session.backend, session.started)
    return other, _wait_until_gone(other, session, deadline)


def stop_session(db: ConnectionSource, conn: Connection, session: OwnSession) -> None:
    """Stop the session of `conn` if it is still running; suppress connection errors."""
    if is_running(conn):
        with ExitStack() as stack, suppress(TimeoutError, psycopg.Error):
            end_session(db, conn, stack, session)


def _terminate(other: Connection, conn: Connection, session: OwnSession) -> bool:
    """Terminate the session and log what it was waiting for; return False if it was not found."""
    with suppress(psycopg.Error, TimeoutError):
        pid = int(ask(other, session.query("pid"), _ANSWER_S) or 0)
        activity = _read_activity(other, conn, pid) if pid else None
        if ask(other, session.query("pg_catalog.pg_terminate_backend(pid)"), _ANSWER_S) == b"t":
            fields = {"migration": session.migration, "pid": pid, **(activity.fields if activity else {})}
            log.warning(
                "Terminated this run's session (pid %s), which was still running %s%s",
                pid,
                session.migration or "a statement",
                f": {activity}" if activity and str(activity) else "",
                extra={"event": "session.terminated", **fields},
            )
            return True
    return False


def _read_activity(other: Connection, conn: Connection, pid: int) -> BackendActivity | None:
    with suppress(psycopg.Error, TimeoutError, ValueError, LookupError):
        answer = ask(other, activity_query(other, pid, conn.info.backend_pid), _ANSWER_S)
        return parse_activity(answer) if answer else None
    return None


def _wait_until_gone(other: Connection, session: OwnSession, deadline: float) -> bool:
    """Return whether the server has ended the session, so that its transaction is over and its locks are free."""
    with suppress(psycopg.Error, TimeoutError):
        while (count := ask(other, session.query("pg_catalog.count(*)"), max(_left(deadline), _POLL_S))) != b"0":
            if count is None or not _left(deadline):
                return False
            time.sleep(_POLL_S)
        return True
    return False


def _left(deadline: float, keep: float = 0) -> float:
    return max(deadline - keep - time.monotonic(), 0)
