"""Allow one runner at a time, with an advisory lock that is acquired by polling.

The session holds the lock for the whole run. Each migration's transaction takes the lock again
(`TRY_IN_TRANSACTION` is part of the claim). This costs nothing on a direct connection, and is the only protection if
a pooler shares sessions.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from predeploy.connection.query_message import run
from predeploy.connection.session import is_lost
from predeploy.lock.key import HELD, LOCK_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.connection.connect import Connection
    from predeploy.lock.holder import LockWait

log = logging.getLogger(__name__)

TRY_IN_TRANSACTION = f"pg_catalog.pg_try_advisory_xact_lock({LOCK_KEY})"  # replaced by tests/faults/planted.py
INITIAL_DELAY_S = 0.02
MAX_DELAY_S = 0.5

HOLDER_PID = f"SELECT l.pid FROM pg_catalog.pg_locks l WHERE {HELD} LIMIT 1"  # noqa: S608


# The session's start time in microseconds. The pid alone does not identify a session: after a failover or a restart,
# another session may have the same pid.
SESSION_STARTED = """
    SELECT (pg_catalog.date_part('epoch', backend_start) * 1000000)::bigint
    FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()
"""


def end_stale_session(conn: Connection, pid: int, started: int | None = None) -> None:
    """Terminate the session `pid`, whose connection was lost, if it still holds the lock.

    `started` is the result of SESSION_STARTED in that session; a session with another value is not terminated.
    """
    ended = f"SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l WHERE {HELD} AND l.pid = {pid}"  # noqa: S608
    if started is not None:
        same = SESSION_STARTED.replace("pg_catalog.pg_backend_pid()", str(pid))
        ended += f" AND ({same}) = {started}"
    if conn.execute(ended.encode()).fetchall():
        log.warning(
            "Terminated the stale session of this run (pid %s), which still held the migration lock",
            pid,
            extra={"event": "lock.freed", "pid": pid},
        )


@contextmanager
def advisory_lock(conn: Connection, *, timeout: float, pooled: bool = False) -> Iterator[None]:
    """Hold the advisory lock. Raise `LockTimeout`, naming the holder, if the wait exceeds `timeout` seconds.

    `conn` must be in autocommit mode: a waiter that blocks in pg_advisory_lock, or polls inside a transaction, keeps
    a snapshot that the holder's CREATE INDEX CONCURRENTLY waits for, and the two deadlock. On a `pooled` session,
    wait until the lock is free but do not hold it, because another client would inherit it. If the connection is lost
    while the lock is released, raise a psycopg error: the server may have failed over and lost the last commits.
    """
    if pooled:
        wait_until_free(conn, timeout=timeout)
        yield
        return
    attempt = f"SELECT pg_catalog.pg_try_advisory_lock({LOCK_KEY})"  # replaced by tests/faults/planted.py
    wait_s = _poll(conn, attempt, timeout)
    log.info("Acquired the migration lock", extra={"event": "lock.acquired", "wait_s": wait_s})
    completed = False
    try:
        yield
        completed = True
    finally:
        _unlock(conn, completed=completed)  # replaced by tests/faults/planted.py


def wait_until_free(conn: Connection, *, timeout: float) -> None:
    """Wait until a transaction can take the lock. Raise `LockTimeout` after `timeout` seconds."""
    _poll(conn, f"SELECT {TRY_IN_TRANSACTION}", timeout)


def begin_with_lock(conn: Connection, begin: str, *, timeout: float) -> None:
    """Begin a transaction and take the lock in it; wait for the lock outside any transaction.

    `begin` is the SQL that begins the transaction. Raise `LockTimeout` after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        wait_until_free(conn, timeout=max(deadline - time.monotonic(), 0))
        run(conn, begin)
        (answer,) = run(conn, f"SELECT {TRY_IN_TRANSACTION}")
        if answer.get_value(0, 0) == b"t":
            log.info("Acquired the migration lock", extra={"event": "lock.acquired"})
            return
        run(conn, "ROLLBACK")


def _poll(conn: Connection, attempt: str, timeout: float) -> float:
    """Run the query `attempt` until it returns true, and return the wait in seconds."""
    started = time.monotonic()
    wait: LockWait | None = None
    delay = INITIAL_DELAY_S
    while conn.execute(attempt).fetchone() != (True,):  # replaced by tests/faults/planted.py
        if wait is None:
            from predeploy.lock.holder import LockWait  # most runs do not wait

            wait = LockWait(conn, HELD, timeout)
        waited = time.monotonic() - started
        if waited >= timeout:
            raise wait.timeout_error()
        wait.report(waited)
        time.sleep(min(delay * random.uniform(0.5, 1.0), max(timeout - waited, 0)))  # noqa: S311  jitter
        delay = min(delay * 1.5, MAX_DELAY_S)
    return round(time.monotonic() - started, 3)


def _unlock(conn: Connection, *, completed: bool) -> None:
    """Release the lock, unless the connection is lost. If not `completed`, an error must not mask the original one."""
    if is_lost(conn):
        return
    try:
        row = conn.execute(f"SELECT pg_catalog.pg_advisory_unlock({LOCK_KEY})").fetchone()
    except psycopg.Error:
        if completed and is_lost(conn):
            raise
        conn.close()  # ending the session releases its locks
        return
    if not (row and row[0]):
        log.warning(
            "The migration lock was released early: a migration called pg_advisory_unlock_all() or a similar function",
            extra={"event": "lock.lost"},
        )
