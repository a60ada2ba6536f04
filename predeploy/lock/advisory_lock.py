"""One runner at a time: an advisory lock, polled, with the name of whoever holds it.

The session holds it for the whole run. Each migration's transaction takes it once more for itself (`TRY_IN_TRANSACTION`
stands in its claim), which costs nothing there and is all there is where a pooler shares sessions.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from predeploy.connection.session import is_lost
from predeploy.lock.key import HELD, LOCK_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from predeploy.connection.connect import Connection
    from predeploy.lock.holder import Wait

log = logging.getLogger(__name__)

TRY_IN_TRANSACTION = f"pg_catalog.pg_try_advisory_xact_lock({LOCK_KEY})"
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5

HOLDER_PID = f"SELECT l.pid FROM pg_catalog.pg_locks l WHERE {HELD} LIMIT 1"  # noqa: S608


def end_lost_holder(conn: Connection, pid: int) -> None:
    """End the session with that process id, lost by us, if the server has not noticed and it still has the lock."""
    ended = f"SELECT pg_catalog.pg_terminate_backend(l.pid) FROM pg_catalog.pg_locks l WHERE {HELD} AND l.pid = {pid}"  # noqa: S608
    if conn.execute(ended).fetchall():
        log.warning(
            "Our lost session (pid %s) still had the migration lock and was ended",
            pid,
            extra={"event": "lock.freed", "pid": pid},
        )


@contextmanager
def advisory_lock(conn: Connection, *, timeout: float, waited: float = 0.0, shared: bool = False) -> Iterator[None]:
    """Hold the advisory lock; raise `LockTimeout`, naming the holder, when it is not free within `timeout` seconds.

    So many of them have been `waited` before.

    `conn` must be in autocommit mode: a waiter that blocks in pg_advisory_lock, or polls inside a transaction, keeps
    a snapshot that the holder's CREATE INDEX CONCURRENTLY waits for, and the two deadlock. On a `shared` session
    nothing is held, as the lock would stay behind with a stranger: it is only waited for.
    """
    if shared:
        wait_until_free(conn, timeout=timeout, waited=waited)
        yield
        return
    wait_s = _poll(conn, f"SELECT pg_catalog.pg_try_advisory_lock({LOCK_KEY})", timeout, waited)
    log.info("Holding the migration lock", extra={"event": "lock.acquired", "wait_s": wait_s})
    try:
        yield
    finally:
        _unlock(conn)


def wait_until_free(conn: Connection, *, timeout: float, waited: float = 0.0) -> None:
    """Wait until a transaction of ours could take the lock; raise `LockTimeout` after `timeout` seconds."""
    _poll(conn, f"SELECT {TRY_IN_TRANSACTION}", timeout, waited)


def _poll(conn: Connection, attempt: str, timeout: float, waited: float) -> float:
    """Try until it is true and return how many seconds were waited in all."""
    started = time.monotonic() - waited
    wait: Wait | None = None
    pause = FIRST_PAUSE_S
    while conn.execute(attempt).fetchone() != (True,):
        if wait is None:
            from predeploy.lock.holder import Wait  # most runs wait for nobody

            wait = Wait(conn, HELD, timeout)
        waited = time.monotonic() - started
        if waited >= timeout:
            raise wait.over()
        wait.tell(waited)
        time.sleep(min(pause * random.uniform(0.5, 1.0), max(timeout - waited, 0)))  # noqa: S311  jitter
        pause = min(pause * 1.5, LONGEST_PAUSE_S)
    return round(time.monotonic() - started, 3)


def _unlock(conn: Connection) -> None:
    """Release the lock; a connection that is gone has released it, and nothing here may hide why it went."""
    if is_lost(conn):
        return
    try:
        row = conn.execute(f"SELECT pg_catalog.pg_advisory_unlock({LOCK_KEY})").fetchone()
    except psycopg.Error:
        conn.close()  # the session's end releases what it holds
        return
    if not (row and row[0]):
        log.warning(
            "The migration lock was not ours any more: a migration has released it",
            extra={"event": "lock.lost"},
        )
